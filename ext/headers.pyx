"""One look at a message's content: what cleanup must know of its header, and what it counts over all of it.

cleanup/intake.py calls HeaderScan.scan once per message. The content is in wire form (every line ends with CRLF, a
leading dot is doubled, without the final dot), cut into chunks anywhere. Only names of header fields are looked at, and
the values of Message-Id; the body is counted, not parsed. Raises nothing for content in wire form. RFC 5322 section 2.2
as Postfix reads it: the header ends at an empty line or at the first line that is no header field.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy
from libc.stdint cimport uint64_t

# HeaderScan.seen
cdef enum:
    SEEN_DATE = 1
    SEEN_FROM = 2
    SEEN_MESSAGE_ID = 4
    SEEN_RESENT = 8  # any Resent- field that makes this a resent message
    SEEN_RESENT_DATE = 16
    SEEN_RESENT_FROM = 32
    SEEN_RESENT_MESSAGE_ID = 64

# HeaderScan.repairs: what keeps the content from being taken as it is
cdef enum:
    REPAIR_NO_BLANK = 1  # a line that is no header field follows the header without an empty line
    REPAIR_DROP = 2  # Bcc, Content-Length, Resent-Bcc or Return-Path, which are taken out
    REPAIR_COLON = 4  # white space between a field's name and its colon
    REPAIR_MAILBOX_LINE = 8  # it begins with an mbox "From " line

# As in model/envelope.py
cdef enum:
    CONTENT_8BIT = 1
    CONTENT_LONG_LINE = 2
    CONTENT_DOT_STUFFED = 4
    CONTENT_HEADER_8BIT = 8


cdef inline bint same(const char *name, Py_ssize_t n, const char *lower, Py_ssize_t m) noexcept nogil:
    """Is name, in whatever case, this lower-case word?"""
    cdef Py_ssize_t i
    cdef unsigned char c
    if n != m:
        return False
    for i in range(n):
        c = name[i]
        if 65 <= c <= 90:
            c |= 32
        if c != <unsigned char>lower[i]:
            return False
    return True


cdef Py_ssize_t name_length(const char *line, Py_ssize_t n, Py_ssize_t *colon) noexcept nogil:
    """The length of a header field's name, and where its colon is; 0 where the line is no header field."""
    cdef Py_ssize_t i, name = 0
    cdef unsigned char c
    for i in range(n):
        c = line[i]
        if c == c':':
            colon[0] = i
            return name if name else i
        if c == c' ' or c == c'\t':
            if i == 0:
                return 0
            if not name:
                name = i
        elif name or c < 33 or c > 126:
            return 0
    return 0


cdef bint any_8bit(const char *data, Py_ssize_t n) noexcept nogil:
    cdef uint64_t word, all_words = 0
    cdef Py_ssize_t i = 0
    while i + 8 <= n:
        memcpy(&word, data + i, 8)
        all_words |= word
        i += 8
    while i < n:
        all_words |= <unsigned char>data[i]
        i += 1
    return (all_words & 0x8080808080808080ULL) != 0


cdef class HeaderScan:
    """The findings of the last scan(); one object serves all messages of a worker, one after the other.

    size        bytes as Postfix counts them for size=: each line as queue file records, dots unstuffed
    octets      bytes in wire form
    flags       CONTENT_* of model/envelope.py
    hops        number of Received: fields
    seen        SEEN_*: which of the fields are there that may have to be added
    repairs     REPAIR_*: why the content must not be taken as it is; 0 nearly always
    header_end  length of the header, without its empty line; it lies in the first chunk
    message_id  the value of Message-Id: as it stands there, None where there is none
    resent_message_id  likewise
    more_ids    a list of (is resent, value) when there are several of one, else None
    """

    cdef readonly Py_ssize_t size, octets, header_end
    cdef readonly int flags, hops, seen, repairs
    cdef readonly object message_id, resent_message_id, more_ids

    def scan(self, list content, Py_ssize_t line_limit) -> None:
        """Look at the content. Chunks are joined in place until the header lies in the first one."""
        cdef Py_ssize_t extra = 0
        cdef int count
        cdef bytes first
        self.flags = self.hops = self.seen = self.repairs = 0
        self.message_id = self.resent_message_id = self.more_ids = None
        count = 1
        while True:
            if not content:
                self.size = self.octets = self.header_end = 0
                return
            first = <bytes>content[0]
            if self.header(PyBytes_AS_STRING(first), PyBytes_GET_SIZE(first), line_limit, len(content) == 1, &extra):
                break
            # The header goes on in the next chunk: rare, so it may cost a copy. Ever more at once: no quadratic time.
            count = min(len(content), count * 2)
            content[:count] = [b"".join(content[:count])]
            self.flags = self.hops = self.seen = self.repairs = 0
            self.message_id = self.resent_message_id = self.more_ids = None
        self.body(content, line_limit, extra)

    cdef bint header(
        self, const char *data, Py_ssize_t n, Py_ssize_t line_limit, bint last, Py_ssize_t *out
    ) except -1:
        """Look at the header fields; False when the header does not end in this chunk. out: see body()."""
        cdef const char *line = data
        cdef const char *end = data + n
        cdef const char *newline
        cdef Py_ssize_t length, name, colon = 0, extra = 0
        cdef bint in_header = False
        out[0] = 0
        if n == 0:
            self.header_end = 0
            return last
        if line[0] == c'>' or line[0] == c'F':
            self.mailbox_line(line, end)
        while line < end:
            newline = <const char *>memchr(line, c'\n', end - line)
            if newline == NULL:
                if not last:
                    return False
                newline = end
            length = newline - line - 1  # without its CRLF
            if length <= 0:
                break
            if (line[0] == c' ' or line[0] == c'\t') and in_header:
                pass
            else:
                name = name_length(line, length, &colon)
                if name == 0:
                    if not self.repairs & REPAIR_MAILBOX_LINE:
                        self.repairs |= REPAIR_NO_BLANK
                    break
                in_header = True
                if name != colon:
                    self.repairs |= REPAIR_COLON
                self.field(line, name, line + colon + 1, newline, end)
            if length >= 128:
                extra += 1
                if length > line_limit:
                    extra += long_line(length, line_limit)
                    self.flags |= CONTENT_LONG_LINE
                elif length > 998:
                    self.flags |= CONTENT_LONG_LINE
            line = newline + 1
        if line >= end and not last:
            return False
        self.header_end = min(line, end) - data
        if any_8bit(data, self.header_end):
            self.flags |= CONTENT_HEADER_8BIT | CONTENT_8BIT
        out[0] = extra
        return True

    cdef int field(
        self, const char *name, Py_ssize_t n, const char *value, const char *newline, const char *end
    ) except -1:
        """One header field. Its length decides first, so that the common ones cost little."""
        if n == 3:
            if same(name, n, b"bcc", 3):
                self.repairs |= REPAIR_DROP
        elif n == 4:
            if same(name, n, b"date", 4):
                self.seen |= SEEN_DATE
            elif same(name, n, b"from", 4):
                self.seen |= SEEN_FROM
        elif n == 8:
            if same(name, n, b"received", 8):
                self.hops += 1
        elif n == 10 and (name[0] | 32) == c'm':
            if same(name, n, b"message-id", 10):
                self.identify(False, unfold(value, newline, end))
                self.seen |= SEEN_MESSAGE_ID
        elif n == 14:
            if same(name, n, b"content-length", 14):
                self.repairs |= REPAIR_DROP
        elif n >= 9 and (name[0] | 32) == c'r':
            if n == 11 and same(name, n, b"return-path", 11):
                self.repairs |= REPAIR_DROP
            elif same(name, 7, b"resent-", 7):
                self.resent(name + 7, n - 7, value, newline, end)
        return 0

    cdef int resent(
        self, const char *name, Py_ssize_t n, const char *value, const char *newline, const char *end
    ) except -1:
        """A field whose name goes on like this after "Resent-"."""
        if same(name, n, b"date", 4):
            self.seen |= SEEN_RESENT_DATE
        elif same(name, n, b"message-id", 10):
            self.identify(True, unfold(value, newline, end))
            self.seen |= SEEN_RESENT_MESSAGE_ID
        elif same(name, n, b"from", 4):
            self.seen |= SEEN_RESENT_FROM
        elif same(name, n, b"bcc", 3):
            self.repairs |= REPAIR_DROP
        elif not (same(name, n, b"to", 2) or same(name, n, b"cc", 2) or same(name, n, b"sender", 6)
                  or same(name, n, b"reply-to", 8)):
            return 0
        self.seen |= SEEN_RESENT
        return 0

    cdef int identify(self, bint resent, str value) except -1:
        if self.more_ids is not None:
            self.more_ids.append((resent, value))
        elif self.message_id is not None or self.resent_message_id is not None:
            self.more_ids = [
                (False, self.message_id) if self.message_id is not None else (True, self.resent_message_id),
                (resent, value),
            ]
        if resent:
            self.resent_message_id = value
        else:
            self.message_id = value
        return 0

    cdef int mailbox_line(self, const char *line, const char *end) noexcept:
        while line < end and line[0] == c'>':
            line += 1
        if end - line >= 5 and memcmp(line, b"From ", 5) == 0:
            self.repairs |= REPAIR_MAILBOX_LINE
        return 0

    cdef int body(self, list content, Py_ssize_t line_limit, Py_ssize_t extra) except -1:
        """Count from the end of the header on, and sum up.

        A line of n < 128 bytes is a record of n + 2, which is also its length with CRLF: so the sum is the octets, and
        `extra` for longer lines; stuffed dots are taken off.
        """
        cdef bytes chunk
        cdef const char *data
        cdef const char *line
        cdef const char *end
        cdef const char *newline
        cdef Py_ssize_t octets = 0, carried = 0, length
        cdef bint fresh = True  # the next byte begins a line
        cdef bint first = True, high = False
        cdef int dot = 0  # 1: this line has a stuffed dot
        for item in content:
            chunk = <bytes>item
            data = PyBytes_AS_STRING(chunk)
            end = data + PyBytes_GET_SIZE(chunk)
            octets += end - data
            line = data
            if first:
                line += self.header_end
                first = False
            if not high and any_8bit(line, end - line):
                high = True
            while line < end:
                if fresh:
                    dot = line[0] == c'.'
                    if dot:
                        self.flags |= CONTENT_DOT_STUFFED
                        extra -= 1
                newline = <const char *>memchr(line, c'\n', end - line)
                if newline == NULL:
                    carried += end - line
                    fresh = False
                    break
                length = carried + (newline - line) - 1
                if length - dot >= 128:
                    extra += 1
                    if length >= line_limit:
                        extra += long_body_line(length, line_limit)
                        self.flags |= CONTENT_LONG_LINE
                    elif length > 998:
                        self.flags |= CONTENT_LONG_LINE
                carried = 0
                fresh = True
                line = newline + 1
        if high:
            self.flags |= CONTENT_8BIT
        self.octets = octets
        self.size = octets + extra
        return 0


cdef inline Py_ssize_t long_line(Py_ssize_t length, Py_ssize_t limit) noexcept nogil:
    """What a header line longer than the limit costs beyond length + 3: it becomes full records and a shorter one."""
    cdef Py_ssize_t full = (length - 1) // limit
    return full * 3 - (1 if length - full * limit < 128 else 0)


cdef inline Py_ssize_t long_body_line(Py_ssize_t length, Py_ssize_t limit) noexcept nogil:
    """Likewise for the body, where it is cut as it is read: the last record may be empty."""
    cdef Py_ssize_t full = length // limit
    return full * 3 - (1 if length - full * limit < 128 else 0)


cdef str unfold(const char *value, const char *newline, const char *end):
    """The value of a field, white space in front removed; line ends of a folded one become line feeds."""
    cdef const char *line
    cdef const char *start = value
    while newline + 1 < end and (newline[1] == c' ' or newline[1] == c'\t'):
        line = <const char *>memchr(newline + 1, c'\n', end - newline - 1)
        if line == NULL:
            newline = end
            break
        newline = line
    while start < newline and (start[0] == c' ' or 9 <= start[0] <= 13):
        start += 1
    if newline > start and newline[-1] == c'\r':
        newline -= 1
    cdef bytes text = PyBytes_FromStringAndSize(start, newline - start)
    if memchr(PyBytes_AS_STRING(text), c'\n', PyBytes_GET_SIZE(text)) != NULL:
        text = text.replace(b"\r\n", b"\n")
    return text.decode("utf-8", "surrogateescape")


def header_name_length(bytes line) -> int:
    """The length of the field name when the line is a header field, else 0; white space before the colon is allowed."""
    cdef Py_ssize_t colon = 0
    return name_length(PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line), &colon)
