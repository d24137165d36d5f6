"""Records of the queue's log: their frame, how to walk a segment, how to read one back; and queue ids.

Used by fastmta/queue/ (segments, recovery, reading content back) and, as C, by commit.pyx, which writes records. Files
are never written here.

The grammar of a shard's log. A log is segments, NNNNNNNNNN.seg, in the order of their numbers; a segment is a header of
64 bytes and then records; record_format.h has both frames to the byte. Later wins. Meta is MessagePack, its types
are in fastmta/queue/model.py.

    segment  = header *record
    record   = frame meta [content] zeros-to-a-multiple-of-8
    MESSAGE  = meta (envelope, state | nil)  content: the message as the next hop gets it, without the final dot
               A message came in. Its home is this segment. nil: nothing happened to it yet.
    MOVED    = meta (envelope, state, was)   content
               The copy of this message in segment `was` is dead; its home is this segment now. All state is in here.
    OUTCOME  = meta (queue id, home, state)
               The state of the copy in segment `home` is now this one, in whole.
    REMOVE   = meta (queue id, home)
               The copy in segment `home` is dead: a tombstone. It is needed for as long as that segment exists; whoever
               drops the segment that holds it writes it anew first.

A tombstone and an outcome name the home because a message can be moved: they say nothing about copies elsewhere. Each
frame carries the segment's random salt, so that no content, however made, reads as one, and the `base` of its batch:
what lies before that offset was durable when the record was written. So damage before the base of a later record is
damage; damage after it is the torn end of a batch that nobody was told to be accepted.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.types cimport off_t

MESSAGE = 1
MOVED = 2
OUTCOME = 3
REMOVE = 4
DAMAGE = 0  # not in the log: what Scanner.next() calls a stretch that it cannot read

FIRST_RECORD = SEGMENT_HEADER

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buffer, size_t n, off_t offset)

cdef enum:
    WINDOW = 262144

crc32c_init()


def crc32c(data not None, uint32_t crc=0):
    """The CRC-32C of data, or of what crc covers followed by data."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] == 0:
        return crc
    return c_crc32c(crc, &view[0], view.shape[0])


def crc32c_portable(data not None, uint32_t crc=0):
    """The same without the processor's instruction; for tests."""
    cdef const uint8_t[::1] view = data
    if view.shape[0] == 0:
        return crc
    return c_crc32c_portable(crc, &view[0], view.shape[0])


def parse_segment_header(bytes data not None):
    """(shard, number, salt, made, end of the segment before) of a segment's first 64 bytes; None: damaged."""
    cdef const uint8_t *p = <const uint8_t *> PyBytes_AS_STRING(data)
    if PyBytes_GET_SIZE(data) < SEGMENT_HEADER or not segment_header_valid(p):
        return None
    return get_u32(p + 12), get_u64(p + 16), get_u64(p + 24), get_u64(p + 32), get_u64(p + 40)


def make_segment_header(uint32_t shard, uint64_t number, uint64_t salt, uint64_t made, uint64_t previous_end):
    """The inverse of parse_segment_header; for tests and tools: the commit thread makes its own."""
    cdef bytes header = PyBytes_FromStringAndSize(NULL, SEGMENT_HEADER)
    segment_header(<uint8_t *> PyBytes_AS_STRING(header), shard, number, salt, made, previous_end)
    return header


cdef int64_t read_at(int fd, uint8_t *into, size_t n, uint64_t offset) nogil:
    """Read n bytes, less at the end of the file. Returns how many, or -1."""
    cdef size_t done = 0
    cdef ssize_t got
    while done < n:
        got = pread(fd, into + done, n - done, <off_t> (offset + done))
        if got < 0:
            if errno == EINTR:
                continue
            return -1
        if got == 0:
            break
        done += got
    return done


cdef class Scanner:
    """Walks the records of one segment.

    fd: open for reading, stays the caller's. size: where to stop. start: where a record begins (FIRST_RECORD or a place
    known to be one). Contents are not read. salt 0: take that of the first record whose frame
    is whole (the segment's header is damaged).
    """

    cdef readonly uint64_t salt
    cdef readonly uint64_t position
    cdef int fd
    cdef uint64_t size
    cdef uint8_t *window
    cdef uint64_t window_start
    cdef size_t window_used, window_size

    def __cinit__(self, int fd, uint64_t size, uint64_t start, uint64_t salt):
        self.fd = fd
        self.size = size
        self.position = start
        self.salt = salt
        self.window_size = WINDOW
        self.window = <uint8_t *> PyMem_Malloc(WINDOW)
        if self.window == NULL:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.window)

    cdef const uint8_t *look(self, uint64_t offset, size_t n) except NULL:
        """The n bytes at offset, which must lie before size."""
        cdef uint8_t *larger
        cdef int64_t got
        if offset >= self.window_start and offset + n <= self.window_start + self.window_used:
            return self.window + (offset - self.window_start)
        if n > self.window_size:
            larger = <uint8_t *> PyMem_Malloc(n)
            if larger == NULL:
                raise MemoryError
            PyMem_Free(self.window)
            self.window = larger
            self.window_size = n
        self.window_used = 0
        with nogil:
            got = read_at(self.fd, self.window, min(<uint64_t> self.window_size, self.size - offset), offset)
        if got < <int64_t> n:
            raise OSError(errno if got < 0 else 5, "cannot read the segment")
        self.window_start = offset
        self.window_used = got
        return self.window

    cdef bint whole(self, uint64_t offset) except -1:
        """Whether a record with an undamaged frame and meta begins there."""
        cdef const uint8_t *p
        cdef uint32_t meta
        cdef uint64_t content
        if offset + RECORD_HEADER > self.size:
            return False
        p = self.look(offset, RECORD_HEADER)
        if get_u32(p) != RECORD_MAGIC or p[41] != RECORD_VERSION or (self.salt and get_u64(p + 8) != self.salt):
            return False
        meta = get_u32(p + 36)
        content = get_u64(p + 24)
        if meta > RECORD_META_MAX or content > self.size or get_u64(p + 16) > offset:
            return False
        if offset + record_length(meta, content) > self.size:
            return False
        p = self.look(offset, RECORD_HEADER + meta)
        return get_u32(p + 4) == record_crc(p, offset)

    def next(self):
        """(kind, offset, length, meta, base, content length), or None at the end.

        kind is DAMAGE, with empty meta and base 0, for a stretch up to the next whole record or the end. OSError.
        """
        cdef uint64_t at = self.position, base, content, length
        cdef const uint8_t *p
        cdef uint32_t meta
        cdef int kind
        cdef bytes text
        if at >= self.size:
            return None
        if not self.whole(at):
            self.position = at + 8
            while self.position < self.size and not self.whole(self.position):
                self.position += 8
            self.position = min(self.position, self.size)
            return DAMAGE, at, self.position - at, b"", 0, 0
        p = self.look(at, RECORD_HEADER)
        meta = get_u32(p + 36)
        p = self.look(at, RECORD_HEADER + meta)
        if not self.salt:
            self.salt = get_u64(p + 8)
        kind = p[40]
        base = get_u64(p + 16)
        content = get_u64(p + 24)
        length = record_length(meta, content)
        text = PyBytes_FromStringAndSize(<const char *> p + RECORD_HEADER, meta)
        self.position = at + length
        return kind, at, length, text, base, content


def read_record(int fd, uint64_t offset, uint64_t length, bint with_content=True):
    """(kind, meta, content) of the record at that place, all CRCs checked; None when it is not what was written there.

    with_content False: content is empty and unchecked. Raises OSError.
    """
    cdef uint8_t header[RECORD_HEADER]
    cdef uint8_t *q
    cdef uint32_t meta_length
    cdef uint64_t content_length
    cdef int64_t got
    cdef bytes meta, content, frame
    got = read_at(fd, header, RECORD_HEADER, offset)
    if got < 0:
        raise OSError(errno, "cannot read the segment")
    if got < RECORD_HEADER or get_u32(header) != RECORD_MAGIC or header[41] != RECORD_VERSION:
        return None
    meta_length = get_u32(header + 36)
    content_length = get_u64(header + 24)
    if content_length > length or meta_length > length or record_length(meta_length, content_length) != length:
        return None
    frame = PyBytes_FromStringAndSize(NULL, RECORD_HEADER + meta_length)
    q = <uint8_t *> PyBytes_AS_STRING(frame)
    memcpy(q, header, RECORD_HEADER)
    if read_at(fd, q + RECORD_HEADER, meta_length, offset + RECORD_HEADER) != meta_length:
        return None
    if get_u32(header + 4) != record_crc(q, offset):
        return None
    meta = frame[RECORD_HEADER:]
    if not with_content or not content_length:
        return header[40], meta, b""
    content = PyBytes_FromStringAndSize(NULL, content_length)
    q = <uint8_t *> PyBytes_AS_STRING(content)
    with nogil:
        got = read_at(fd, q, content_length, offset + RECORD_HEADER + meta_length)
    if got < 0:
        raise OSError(errno, "cannot read the segment")
    if <uint64_t> got != content_length or get_u32(header + 32) != c_crc32c(0, q, content_length):
        return None
    return header[40], meta, content


def make_record(int kind, bytes meta not None, bytes content not None, uint64_t salt, uint64_t base, uint64_t offset):
    """One whole record; for tests and tools: the commit thread makes its own."""
    cdef uint64_t length = record_length(PyBytes_GET_SIZE(meta), PyBytes_GET_SIZE(content))
    cdef bytearray record = bytearray(length)
    cdef uint8_t[::1] view = record
    record_begin(&view[0], kind, PyBytes_GET_SIZE(meta), PyBytes_GET_SIZE(content))
    record[RECORD_HEADER:RECORD_HEADER + len(meta)] = meta
    record[RECORD_HEADER + len(meta):RECORD_HEADER + len(meta) + len(content)] = content
    view = record
    record_finish(&view[0], salt, base, offset, c_crc32c(0, PyBytes_AS_STRING(content), PyBytes_GET_SIZE(content)))
    return bytes(record)


# Queue ids. Postfix's forms, with a number of ours in the place of the inode's: (serial << 4) | shard.

cdef bytes DIGITS = b"0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
cdef bytes HEX = b"0123456789ABCDEF"
cdef signed char VALUES[128]

cdef void prepare_values():
    cdef int k
    for k in range(128):
        VALUES[k] = -1
    for k in range(52):
        VALUES[<uint8_t> PyBytes_AS_STRING(DIGITS)[k]] = k


prepare_values()


cdef int put_digits(char *into, uint64_t value, int base, int width, const char *digits):
    """Write value, at least `width` digits; returns how many."""
    cdef char reverse[32]
    cdef int n = 0, k
    while value or n < width:
        reverse[n] = digits[value % base]
        value //= base
        n += 1
    for k in range(n):
        into[k] = reverse[n - 1 - k]
    return n


def short_id(double now, uint64_t number):
    """Five or more hexadecimal digits of microseconds, then the number in hexadecimal."""
    cdef char text[48]
    cdef uint64_t micro = <uint64_t> (now * 1e6) % 1000000
    cdef int n = put_digits(text, micro, 16, 5, HEX)
    n += put_digits(text + n, number, 16, 1, HEX)
    return text[:n].decode("ascii")


def long_id(double now, uint64_t number):
    """Seconds in base 52 (6 digits or more), microseconds in base 52 (4), "z", the number in base 51."""
    cdef char text[64]
    cdef uint64_t second = <uint64_t> now
    cdef uint64_t micro = <uint64_t> ((now - second) * 1e6) % 1000000
    cdef int n = put_digits(text, second, 52, 6, DIGITS)
    n += put_digits(text + n, micro, 52, 4, DIGITS)
    text[n] = b"z"
    n += 1
    n += put_digits(text + n, number, 51, 1, DIGITS)
    return text[:n].decode("ascii")


def id_number(str queue_id not None):
    """The number in a queue id of either form; -1 when it is no queue id."""
    cdef bytes text
    cdef const char *p
    cdef Py_ssize_t n, k, separator = -1
    cdef uint64_t number = 0
    cdef int value
    if not queue_id.isascii():
        return -1
    text = queue_id.encode("ascii")
    p = PyBytes_AS_STRING(text)
    n = PyBytes_GET_SIZE(text)
    if n > 32:
        return -1
    for k in range(n):
        if p[k] == b"z":
            separator = k
    if separator >= 10:
        if separator + 1 >= n or n - separator > 12:
            return -1
        for k in range(n):
            value = VALUES[<uint8_t> p[k]]
            if value < 0:
                return -1
            if k > separator:
                number = number * 51 + value
        return number
    if n < 6 or n > 20:
        return -1
    for k in range(n):
        if b"0" <= p[k] <= b"9":
            value = p[k] - c"0"
        elif b"A" <= p[k] <= b"F":
            value = p[k] - c"A" + 10
        else:
            return -1
        if k >= 5:
            number = number * 16 + value
    return number
