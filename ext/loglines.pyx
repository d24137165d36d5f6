"""The log lines of every message, made fast: client=, message-id=, from=, to=, removed; times; and their buffer.

observe/lines.py offers the lines together with all others, observe/log.py uses the buffer; nobody else imports this
module. The lines are pure functions from typed arguments to text without the "postfix/service[pid]: " prefix;
LineBuffer replaces control characters. Addresses come in internal form and are logged in external form, quoted where
they must be (info_log_addr_form = external). They raise nothing for any str and finite float. Reference:
delay_logging_resolution_limit in postconf(5).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DATA, PyUnicode_KIND, PyUnicode_READ, PyUnicode_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fastmta.address.quote import quote_822_local


cdef unsigned char[128] ATOM  # 1: may stand in an unquoted local part


cdef void fill_atom() noexcept:
    cdef int c
    for c in range(128):
        ATOM[c] = 1 if 33 <= c < 127 else 0
    for c in b'()<>@,;:\\"[].':
        ATOM[c] = 0


fill_atom()

cdef int[7] POWERS = [1, 10, 100, 1000, 10000, 100000, 1000000]


cdef bint plain(str address) noexcept:
    """Is the local part a dot-string, so that the external form is the internal one?"""
    cdef Py_ssize_t i, end, n = len(address)
    cdef int kind = PyUnicode_KIND(address)
    cdef void *data = PyUnicode_DATA(address)
    cdef Py_UCS4 c
    cdef bint dot = True  # a dot may not come first, nor after a dot
    end = n
    for i in range(n - 1, -1, -1):
        if PyUnicode_READ(kind, data, i) == c'@':
            end = i
            break
    if end == 0:
        return n == 0
    for i in range(end):
        c = PyUnicode_READ(kind, data, i)
        if c == c'.':
            if dot:
                return False
            dot = True
        elif c < 128 and not ATOM[c]:
            return False
        else:
            dot = False
    return not dot


cpdef str external(str address):
    """quote_822_local, at once for an address that needs no quotes."""
    return address if plain(address) else quote_822_local(address)


def is_complete(str address) -> bool:
    """Has it a local part and a domain with a dot inside, so that address.rewrite would leave it as it is?"""
    cdef Py_ssize_t i, n = len(address), dot = 0
    cdef int kind = PyUnicode_KIND(address)
    cdef void *data = PyUnicode_DATA(address)
    cdef Py_UCS4 c
    if n == 0 or PyUnicode_READ(kind, data, 0) == c'@' or PyUnicode_READ(kind, data, n - 1) == c'.':
        return False
    for i in range(n - 1, 0, -1):
        c = PyUnicode_READ(kind, data, i)
        if c == c'@':
            return dot > i + 1
        if c == c'.' and not dot:
            dot = i
    return False


cdef int put_number(char *out, long value) noexcept:
    cdef char[24] digits
    cdef int n = 0, i
    while True:
        digits[n] = <char>(48 + value % 10)
        n += 1
        value //= 10
        if value == 0:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef int put_time(char *out, double seconds, int sig_dig, int max_dig) noexcept:
    """Write a time with sig_dig significant digits below ten seconds or so, at most max_dig decimals; the length."""
    cdef long sec, usec, n, rem, ures, wid
    cdef int length
    if not seconds > 0:  # clocks jump back; also NaN
        seconds = 0
    if seconds > 1e15:
        seconds = 1e15
    sec = <long>seconds
    usec = <long>((seconds - <double>sec) * 1e6 + 0.5)
    if usec >= 1000000:
        sec += 1
        usec -= 1000000
    ures = 1000000 // POWERS[max_dig]
    wid = POWERS[sig_dig]
    if ures < 1000000:
        if sec > 0:
            n = 1
            while sec >= n and n <= wid // 10:
                n *= 10
            ures = (1000000 // wid) * n
        else:
            while usec >= wid * ures:
                ures *= 10
    if ures > 1:
        usec += ures // 2
        if usec >= 1000000:
            sec += 1
            usec -= 1000000
    length = put_number(out, sec)
    if usec >= ures:
        out[length] = c'.'
        length += 1
        rem = usec
        n = 100000
        while rem >= ures and n > 0:
            out[length] = <char>(48 + rem // n)
            length += 1
            rem %= n
            n //= 10
    return length


def format_tv(double seconds, int sig_dig=2, int max_dig=6) -> str:
    """A time in seconds as text, as Postfix's format_tv does. Raises ValueError outside 1..6 and 0..6 digits."""
    cdef char[40] out
    if not (1 <= sig_dig <= 6 and 0 <= max_dig <= 6):
        raise ValueError("digits out of range")
    return PyUnicode_FromStringAndSize(out, put_time(out, seconds, sig_dig, max_dig))


def client(str queue_id, str client) -> str:
    """smtpd: a transaction began. client is "name[address]"."""
    return f"{queue_id}: client={client}"


def message_id(str queue_id, str value) -> str:
    """cleanup: value is the Message-Id: header's, with its angle brackets."""
    return f"{queue_id}: message-id={value}"


def queue_active(str queue_id, str sender, long size, long nrcpt) -> str:
    """qmgr: the message entered the active queue."""
    return f"{queue_id}: from=<{external(sender)}>, size={size}, nrcpt={nrcpt} (queue active)"


def removed(str queue_id) -> str:
    """qmgr: all is done."""
    return f"{queue_id}: removed"


def delivery(
    str queue_id,
    str to,
    str orig_to,
    str relay,
    long conn_use,
    double before,
    double queued,
    double setup,
    double transfer,
    str dsn,
    str status,
    str text,
    int resolution=2,
) -> str:
    """smtp, local, error ...: what became of a recipient.

    before, queued, setup and transfer are seconds: before the queue manager, in it, connection set-up, transmission;
    delay= is their sum. conn_use counts this connection's messages; resolution is delay_logging_resolution_limit.
    """
    cdef char[260] out
    cdef int n = 0
    if resolution > 6 or resolution < 0:
        resolution = 2
    if before < 0:
        before = 0
    if queued < 0:
        queued = 0
    if setup < 0:
        setup = 0
    if transfer < 0:
        transfer = 0
    n = put_time(out, before + queued + setup + transfer, 2, resolution)
    for c in b", delays=":
        out[n] = <char>c
        n += 1
    n += put_time(out + n, before, 2, resolution)
    out[n] = c'/'
    n += 1
    n += put_time(out + n, queued, 2, resolution)
    out[n] = c'/'
    n += 1
    n += put_time(out + n, setup, 2, resolution)
    out[n] = c'/'
    n += 1
    n += put_time(out + n, transfer, 2, resolution)
    cdef str delays = PyUnicode_FromStringAndSize(out, n)
    cdef str expanded = ""
    cdef str reused = ""
    if orig_to and orig_to != to and orig_to.casefold() != to.casefold():
        expanded = f", orig_to=<{external(orig_to)}>"
    if conn_use > 1:
        reused = f", conn_use={conn_use}"
    return (
        f"{queue_id}: to=<{external(to)}>{expanded}, relay={relay}{reused}, delay={delays}, "
        f"dsn={dsn}, status={status} ({text})"
    )


cdef int TEXT_LIMIT = 2000  # bytes of one line's text, as Postfix cuts it


def clean(str line) -> bytes:
    """The bytes of a line: UTF-8, control characters and what is no UTF-8 replaced by "?", cut at 2000 bytes."""
    cdef LineBuffer buffer = LineBuffer()
    buffer.append(b"", line)
    return PyBytes_FromStringAndSize(buffer.data, buffer.used - 1)


cdef class LineBuffer:
    """Gathers log lines until the end of the loop turn."""

    cdef char *data
    cdef Py_ssize_t used, room

    def __cinit__(self):
        self.room = 4096
        self.data = <char *>malloc(self.room)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.data)

    def __len__(self) -> int:
        return self.used

    cpdef append(self, bytes prefix, str line):
        """Add prefix, the line as clean() makes it, and a line feed."""
        cdef const unsigned char *text
        cdef char *out
        cdef char *grown
        cdef bytes encoded
        cdef Py_ssize_t i, n, head = PyBytes_GET_SIZE(prefix)
        cdef unsigned char c, bad = 0
        if line.isascii():
            text = <const unsigned char *>PyUnicode_DATA(line)
            n = len(line)
        else:
            encoded = line.encode("utf-8", "replace")
            text = <const unsigned char *>PyBytes_AS_STRING(encoded)
            n = PyBytes_GET_SIZE(encoded)
        if n > TEXT_LIMIT:
            n = TEXT_LIMIT
        if self.used + head + n + 1 > self.room:
            i = self.room * 2 + head + n + 1
            grown = <char *>realloc(self.data, i)
            if grown == NULL:
                raise MemoryError
            self.data = grown
            self.room = i
        out = self.data + self.used
        memcpy(out, PyBytes_AS_STRING(prefix), head)
        out += head
        memcpy(out, text, n)
        out[n] = c'\n'
        for i in range(n):  # one pass without a branch: lines with control characters are rare
            c = text[i]
            bad |= (c < 32) | (c == 127)
        if bad:
            for i in range(n):
                if text[i] < 32 or text[i] == 127:
                    out[i] = c'?'
        self.used += head + n + 1

    cpdef bytes take(self):
        """All that was gathered; the buffer is empty then, and small again after a burst."""
        cdef bytes result = PyBytes_FromStringAndSize(self.data, self.used)
        cdef char *shrunk
        self.used = 0
        if self.room > 1 << 20:
            shrunk = <char *>realloc(self.data, 4096)
            if shrunk != NULL:
                self.data = shrunk
                self.room = 4096
        return result
