"""Contract of the command line syntax: see smtpsyntax.pyx."""

cdef const unsigned char *plain_path(const unsigned char *p, const unsigned char *end) noexcept nogil
cdef list tokenize(const unsigned char *p, size_t n)
