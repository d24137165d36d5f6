"""The commands of smtpserver.pyx in the order of Postfix's table, and what holds for each. Nothing is raised."""

from fastmta._ext.smtpsyntax cimport is_letter

cdef tuple NAMES = (
    "helo", "ehlo", "xclient", "xforward", "starttls", "auth", "mail", "rcpt", "data", "bdat", "rset", "noop", "vrfy",
    "etrn", "quit", "help", "unknown",
)
cdef dict COMMANDS = {name.upper().encode(): i for i, name in enumerate(NAMES[:16])}

cdef int[C_MANY] FLAGS
FLAGS[:] = [
    F_LIMIT | F_LAST | F_PRE_TLS, F_LIMIT | F_LAST | F_PRE_TLS, F_PRE_TLS, 0, F_PRE_TLS, 0, 0, 0, F_LAST, 0, F_LIMIT,
    F_LIMIT | F_LAST | F_PRE_TLS, F_LIMIT | F_LAST, F_LIMIT, F_PRE_TLS, F_LIMIT | F_PRE_TLS, 0,
]


cdef int find_command(const unsigned char *p, Py_ssize_t n):
    """Four letters in any case are the most of it."""
    cdef unsigned int word
    cdef bytes name
    if n == 4:
        word = ((p[0] & 0xdf) << 24) | ((p[1] & 0xdf) << 16) | ((p[2] & 0xdf) << 8) | (p[3] & 0xdf)
        if word == 0x52435054:
            return C_RCPT if is_letter(p[0]) else C_UNKNOWN
        if word == 0x4D41494C:
            return C_MAIL
        if word == 0x44415441:
            return C_DATA
    if n < 4 or n > 8:
        return C_UNKNOWN
    name = p[:n]
    return COMMANDS.get(name.upper(), C_UNKNOWN)
