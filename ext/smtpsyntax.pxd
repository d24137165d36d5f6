"""Contract of the command line syntax: see smtpsyntax.pyx."""


cdef inline bint is_space(unsigned char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline bint is_letter(unsigned char c) noexcept nogil:
    return 65 <= c <= 90 or 97 <= c <= 122

cdef const unsigned char *plain_path(const unsigned char *p, const unsigned char *end) noexcept nogil
cdef list tokenize(const unsigned char *p, size_t n)
cdef bint word_in(const unsigned char *p, Py_ssize_t n, frozenset words)
cdef bint is_header(const unsigned char *p, Py_ssize_t n) noexcept
cdef bint is_utf8(const unsigned char *p, Py_ssize_t n)
cdef bint is_printable(bytes text)
cdef str text_of(bytes text)
