"""Contract of the content reader: see smtpcontent.pyx."""

cdef enum BareLf:
    LF_IS_CRLF = 0
    LF_NORMALIZE = 1
    LF_REJECT = 2
    LF_NOTE = 4


cdef class ContentReader:
    cdef size_t line_limit
    cdef long long size_limit
    cdef bint strip_stray
    cdef int bare_lf
    # where in the content
    cdef bint chunked
    cdef bint first
    cdef bint at_start
    cdef bint previous_bare
    cdef bint in_header
    # what was found
    cdef readonly long long size
    cdef readonly long long records
    cdef readonly int flags
    cdef readonly bint too_big
    cdef public bint saw_bare_lf
    cdef readonly bint done
    # what was gathered
    cdef list chunks
    cdef unsigned char *small
    cdef size_t small_used
    cdef size_t small_room
    cdef unsigned char *tail
    cdef size_t tail_used

    cdef void begin(self, bint chunked, int bare_lf) noexcept
    cdef Py_ssize_t read(self, const unsigned char *p, size_t n) except -1
    cdef int finish(self) except -1
    cdef list take(self)
    cdef void end(self) noexcept
    cdef void drop(self) noexcept
    cdef Py_ssize_t scan(self, const unsigned char *p, size_t n) except -1
    cdef bint odd_first(self, const unsigned char *p, size_t n) noexcept
    cdef int count(self, const unsigned char *p, void *found) except -1
    cdef void over_size(self) noexcept
    cdef int record(self, const unsigned char *p, size_t n, bint whole, bint bare) except -1
    cdef int put(self, const unsigned char *p, size_t text, bint whole, bint dot, bint starts) except -1
    cdef int add(self, const unsigned char *p, size_t n) except -1
    cdef int add_small(self, const unsigned char *p, size_t n) except -1
    cdef int flush(self) except -1
