"""Content of DATA and BDAT: finds its end, counts it, and gathers it in wire form. Driven by smtpserver.pyx alone.

What comes out is what a next hop may get as it is: lines end with CRLF, a line that begins with a dot has it doubled
or, as the client sent it, at least begins with a dot that the receiver takes off. Well-formed lines are found by
smtpscan.h and copied in one go; any other line is a *record* in Postfix's sense, treated by itself:

- A record is a line, or at most line_length_limit bytes of a longer one. Only the first record of a line can be the
  dot.
- bare_lf LF_IS_CRLF (smtpd_forbid_bare_newline = no): LF ends a line as CRLF does, all CRs before it are dropped.
- otherwise one CR belongs to the LF; "." ends the content only when its line and the one before it ended with CRLF:
  any other lone "." is dropped. LF_REJECT also refuses the content, LF_NOTE has it logged.
- A CR inside a record becomes a space (cleanup_replace_stray_cr_lf). NUL and other bytes pass.
- A first line "From " or ">From " becomes a header X-Mailbox-Line; a first line that begins with a space or tab gets
  an empty line before it, so that it is body.
- The content is read to its end when it is over the limit; it is no longer gathered then.

size counts as smtpd compares with message_size_limit: 2 for each record, plus its text; records is what the framing of
a Postfix queue file adds to that. No exception but MemoryError. RFC 5321 section 4.5.2 and 4.5.3, RFC 3030; smtpd(8),
cleanup(8)."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove


cdef extern from "smtpscan.h" nogil:
    enum:
        SCAN_MORE
        SCAN_DOT
        SCAN_CARE
    ctypedef struct fm_scan:
        size_t used
        size_t lines
        size_t dotted
        size_t long_records
        int over_998
        Py_ssize_t header_end
        int stop
    void fm_scan_lines(const unsigned char *p, size_t n, size_t limit, int dots, fm_scan *out)
    int fm_has_8bit(const unsigned char *p, size_t n)

# the values of bare_lf, for Python; a sum of the last three
BARE_LF_ALLOWED = LF_IS_CRLF
BARE_LF_NORMALIZE = LF_NORMALIZE
BARE_LF_REJECT = LF_REJECT
BARE_LF_NOTE = LF_NOTE

# as in fastmta.model.envelope
cdef enum:
    CONTENT_8BIT = 1
    CONTENT_LONG_LINE = 2
    CONTENT_DOT_STUFFED = 4
    CONTENT_HEADER_8BIT = 8

cdef enum:
    DIRECT = 2048  # a stretch of this length becomes a bytes object of its own
    SMALL = 65536  # shorter ones are gathered up to this length


cdef class ContentReader:
    """One per session; it holds memory only while content comes in."""

    def __cinit__(self, size_t line_limit, long long size_limit, bint strip_stray):
        self.line_limit = line_limit
        self.size_limit = size_limit
        self.strip_stray = strip_stray
        self.chunks = []

    def __dealloc__(self):
        free(self.small)
        free(self.tail)

    cdef void begin(self, bint chunked, int bare_lf) noexcept:
        """A new content."""
        self.chunked = chunked
        self.bare_lf = bare_lf
        self.first = self.at_start = self.in_header = True
        self.previous_bare = False
        self.size = self.records = 0
        self.flags = 0
        self.too_big = self.saw_bare_lf = self.done = False
        self.small_used = self.tail_used = 0

    cdef void drop(self) noexcept:
        """Forget what was gathered."""
        if self.chunks:
            self.chunks = []
        free(self.small)
        self.small = NULL
        self.small_used = self.small_room = 0

    cdef void end(self) noexcept:
        """The content is over, or given up: hold no memory."""
        self.drop()
        free(self.tail)
        self.tail = NULL
        self.tail_used = 0

    cdef list take(self):
        """What was gathered, in order."""
        cdef list chunks = self.chunks
        self.flush()
        self.chunks = []
        self.end()
        return chunks

    cdef Py_ssize_t read(self, const unsigned char *p, size_t n) except -1:
        """Take in content; returns how many bytes were used: all, or up to the end of the dot's line (DATA only), then
        `done` is set. A line without its end yet is kept.
        """
        cdef size_t used = 0
        cdef size_t length, eaten
        cdef const unsigned char *lf
        while self.tail_used and used < n:
            length = self.line_limit + 1 - self.tail_used
            if length > n - used:
                length = n - used
            lf = <const unsigned char *> memchr(p + used, b"\n", length)
            if lf != NULL:
                length = lf - (p + used) + 1
            memcpy(self.tail + self.tail_used, p + used, length)
            self.tail_used += length
            used += length
            eaten = self.scan(self.tail, self.tail_used)
            self.tail_used -= eaten
            memmove(self.tail, self.tail + eaten, self.tail_used)
            if self.done:
                return used
        if used < n:
            used += self.scan(p + used, n - used)
            if used < n and not self.done:
                if self.tail == NULL:
                    self.tail = <unsigned char *> malloc(self.line_limit + 1)
                    if self.tail == NULL:
                        raise MemoryError
                self.tail_used = n - used
                memcpy(self.tail, p + used, self.tail_used)
                used = n
        return used

    cdef Py_ssize_t scan(self, const unsigned char *p, size_t n) except -1:
        """Take in whole records; returns how many bytes they have. Less than line_limit + 1 bytes remain."""
        cdef size_t used = 0
        cdef size_t length
        cdef fm_scan found
        cdef const unsigned char *line
        cdef const unsigned char *lf
        cdef bint bare
        while used < n:
            line = p + used
            length = n - used
            if self.at_start and not self.previous_bare and not (self.first and self.odd_first(line, length)):
                fm_scan_lines(line, length, self.line_limit, not self.chunked, &found)
                if found.used:
                    self.first = False
                    self.count(line, &found)
                    used += found.used
                    line = p + used
                    length = n - used
                if found.stop == SCAN_DOT:
                    self.done = True
                    return used + 3
                if not length:
                    break
            # one record
            lf = <const unsigned char *> memchr(line, b"\n", length if length < self.line_limit else self.line_limit)
            if lf != NULL:
                length = lf - line
                bare = length == 0 or line[length - 1] != b"\r"
                used += length + 1
                if self.record(line, length, True, bare):
                    self.done = True
                    return used
            elif length < self.line_limit:
                break
            elif line[self.line_limit - 1] == b"\r":
                # the limit fell between CR and LF
                if length == self.line_limit:
                    break
                if line[self.line_limit] == b"\n":
                    used += self.line_limit + 1
                    self.record(line, self.line_limit, True, False)
                else:
                    used += self.line_limit
                    self.record(line, self.line_limit, False, False)
            else:
                used += self.line_limit
                self.record(line, self.line_limit, False, False)
        return used

    cdef bint odd_first(self, const unsigned char *p, size_t n) noexcept:
        """Does the content begin with a line that is changed?"""
        if p[0] == b" " or p[0] == b"\t" or p[0] == b">":
            return True
        return p[0] == b"F" and (n < 5 or (p[1] == b"r" and p[2] == b"o" and p[3] == b"m" and p[4] == b" "))

    cdef int count(self, const unsigned char *p, void *result) except -1:
        """Account for well-formed lines (result: fm_scan), and keep them."""
        cdef fm_scan *found = <fm_scan *> result
        cdef size_t header = found.used
        self.size += <long long> (found.used - found.dotted)
        self.records += <long long> found.long_records
        if found.dotted:
            self.flags |= CONTENT_DOT_STUFFED
        if found.over_998:
            self.flags |= CONTENT_LONG_LINE
        if fm_has_8bit(p, found.used):
            self.flags |= CONTENT_8BIT
            if self.in_header:
                if found.header_end >= 0:
                    header = <size_t> found.header_end
                if fm_has_8bit(p, header):
                    self.flags |= CONTENT_HEADER_8BIT
        if found.header_end >= 0:
            self.in_header = False
        if self.size_limit > 0 and self.size > self.size_limit:
            self.over_size()
        if not self.too_big:
            self.add(p, found.used)
        return 0

    cdef void over_size(self) noexcept:
        if not self.too_big:
            self.too_big = True
            self.drop()

    cdef int record(self, const unsigned char *p, size_t n, bint whole, bint bare) except -1:
        """One record: n bytes without the LF; whole: it ended with LF. Returns 1 for the end of the content."""
        cdef size_t text = n
        cdef size_t i
        cdef bint starts = self.at_start
        cdef bint dot = starts and text > 0 and p[0] == b"."
        cdef bint lone = False
        cdef bint was_bare = self.previous_bare
        if whole:
            if self.bare_lf == LF_IS_CRLF:
                while text > 0 and p[text - 1] == b"\r":
                    text -= 1
            elif not bare:
                text -= 1
            lone = dot and text == 1
            if bare and self.bare_lf != LF_IS_CRLF:
                self.saw_bare_lf = True
        self.at_start = whole
        self.previous_bare = whole and bare and self.bare_lf != LF_IS_CRLF
        if self.first and starts:
            i = 0
            while i < text and p[i] == b">":
                i += 1
            if text - i >= 5 and memcmp(p + i, b"From ", 5) == 0:
                self.add_small(b"X-Mailbox-Line: ", 16)
                self.size += 16
                self.put(p, text, whole, False, False)
                return 0
            self.first = False
            if text > 0 and (p[0] == b" " or p[0] == b"\t"):
                self.in_header = False
                self.put(p, 0, True, False, True)
        if lone and not self.chunked:
            if self.bare_lf == LF_IS_CRLF or not (bare or was_bare):
                return 1
            return 0
        self.put(p, text, whole, dot, starts)
        return 0

    cdef int put(self, const unsigned char *p, size_t text, bint whole, bint dot, bint starts) except -1:
        """Keep the text of one record. starts: it begins a line; dot: with "."."""
        cdef size_t counted = text - (1 if dot and not self.chunked else 0)
        cdef size_t i, start
        self.size += <long long> counted + 2
        if not whole:
            self.records += 2
        if counted >= 128:
            self.records += 2 if counted >= 16384 else 1
        if dot:
            self.flags |= CONTENT_DOT_STUFFED
        if counted > 998:
            self.flags |= CONTENT_LONG_LINE
        if fm_has_8bit(p, text):
            self.flags |= CONTENT_8BIT | (CONTENT_HEADER_8BIT if self.in_header else 0)
        if text == 0 and whole and starts:
            self.in_header = False
        if self.size_limit > 0 and self.size > self.size_limit:
            self.over_size()
        if self.too_big:
            return 0
        if dot and self.chunked:
            self.add_small(b".", 1)
        if self.small_used + text + 2 > SMALL:
            self.flush()
        start = self.small_used
        self.add_small(p, text)
        if self.strip_stray:
            for i in range(start, self.small_used):
                if self.small[i] == b"\r":
                    self.small[i] = b" "
        if whole:
            self.add_small(b"\r\n", 2)
        return 0

    cdef int finish(self) except -1:
        """The end of a BDAT content: a line without its end ends here."""
        cdef bint saw = self.saw_bare_lf
        if self.tail_used:
            self.record(self.tail, self.tail_used, True, True)
            self.saw_bare_lf = saw
            self.tail_used = 0
        elif not self.at_start:
            self.put(b"", 0, True, False, False)
        self.at_start = True
        return 0

    cdef int add(self, const unsigned char *p, size_t n) except -1:
        """Append to what was gathered."""
        if n >= DIRECT and (self.small_used == 0 or n >= 8 * DIRECT):
            self.flush()
            self.chunks.append(PyBytes_FromStringAndSize(<const char *> p, n))
            return 0
        return self.add_small(p, n)

    cdef int add_small(self, const unsigned char *p, size_t n) except -1:
        cdef size_t room = self.small_room
        cdef unsigned char *more
        if self.small_used + n > SMALL:
            self.flush()
        if self.small_used + n > room:
            if room == 0:
                room = 1024
            while room < self.small_used + n:
                room *= 2
            more = <unsigned char *> realloc(self.small, room)
            if more == NULL:
                raise MemoryError
            self.small = more
            self.small_room = room
        memcpy(self.small + self.small_used, p, n)
        self.small_used += n
        return 0

    cdef int flush(self) except -1:
        if self.small_used:
            self.chunks.append(PyBytes_FromStringAndSize(<const char *> self.small, self.small_used))
            self.small_used = 0
        return 0
