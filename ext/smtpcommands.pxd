"""Contract of the command table: see smtpcommands.pyx."""

cdef enum Command:
    C_HELO = 0
    C_EHLO
    C_XCLIENT
    C_XFORWARD
    C_STARTTLS
    C_AUTH
    C_MAIL
    C_RCPT
    C_DATA
    C_BDAT
    C_RSET
    C_NOOP
    C_VRFY
    C_ETRN
    C_QUIT
    C_HELP
    C_UNKNOWN
    C_MANY  # how many there are
    C_NONE = -1

cdef enum:
    F_LIMIT = 1  # a junk command
    F_LAST = 2  # the last one of a pipelined group
    F_PRE_TLS = 4  # allowed before STARTTLS when that is required

cdef tuple NAMES
cdef int[C_MANY] FLAGS

cdef int find_command(const unsigned char *p, Py_ssize_t n)
