"""Contract of the SMTP server machine: states, one handler per command, what is asked of the session. See
smtpserver.pyx."""

from fastmta._ext.smtpcommands cimport C_MANY
from fastmta._ext.smtpcontent cimport ContentReader
from fastmta._ext.smtpsession cimport HeldInput, Limits

cdef enum State:
    AT_START = 0  # nothing said yet
    AT_COMMAND = 1
    AT_DATA = 2
    AT_CHUNK = 3
    AT_TLS = 4  # 220 to STARTTLS is out
    AT_END = 5  # no more input is read

cdef enum Attention:
    A_CLOSE = 1
    A_SLEEP = 2
    A_TLS = 4

cdef enum Notice:
    N_ADDRESS = 1
    N_PIPELINING = 2
    N_LONG_LINE = 3
    N_NOT_SMTP = 4
    N_BARE_LF = 5
    N_SIZE = 6
    N_BDAT_SYNTAX = 7
    N_BDAT_NULL = 8
    N_BDAT_SIZE = 9
    N_NOTIFY = 10


cdef class SmtpServer(HeldInput):
    cdef object handler
    cdef Limits limits
    cdef ContentReader content
    cdef readonly int state
    cdef readonly int attention
    cdef readonly bint esmtp
    cdef readonly bint secure
    cdef readonly bint denied
    cdef readonly bint improper_pipelining
    cdef readonly bint too_many_errors
    cdef readonly int recipients
    cdef readonly int errors
    cdef public int bare_lf
    # the transaction
    cdef bint helo_seen
    cdef bint in_mail
    cdef bint utf8
    cdef bint chunking
    cdef bint chunk_failed
    cdef bint chunk_last
    cdef long long chunk_left
    cdef long long chunk_size
    cdef object chunk_reply
    # the session
    cdef int waiting
    cdef int where_command
    cdef bint after_message
    cdef bint inside
    cdef bint noted_bare_lf
    cdef int junk
    cdef int overshoot
    cdef unsigned int[C_MANY] total
    cdef unsigned int[C_MANY] good
    # output
    cdef object output
    cdef object delayed
    cdef Py_ssize_t behind
    cdef bytes cut  # the beginning of a line that is too long

    cdef int take(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int go_on(self) except -1
    cdef bint idle(self) noexcept
    cdef Py_ssize_t run(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef Py_ssize_t run_line(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int line(
        self, const unsigned char *p, Py_ssize_t n, bint ended, const unsigned char *after, Py_ssize_t rest
    ) except -1
    cdef int improper(self, const unsigned char *after, Py_ssize_t rest) except -1
    cdef bint is_not_smtp(self, const unsigned char *p, Py_ssize_t stop)
    cdef int unknown(self, const unsigned char *p, Py_ssize_t n, Py_ssize_t stop) except -1
    cdef int dispatch(self, int command, const unsigned char *p, Py_ssize_t n, bint bare) except -1
    cdef int helo(self, int command, list words) except -1
    cdef int mail(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef int rcpt(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef object path(self, int command, const unsigned char *p, Py_ssize_t n, list params)
    cdef object read_path(self, int command, const unsigned char *p, Py_ssize_t n, bint utf8)
    cdef int data(self, bint alone) except -1
    cdef int bdat(self, list words, const unsigned char *p, Py_ssize_t n) except -1
    cdef int chunk_done(self) except -1
    cdef int end_of_content(self) except -1
    cdef bytes content_error(self)
    cdef bytes bare_newline(self, bytes where)
    cdef int hand_over(self, int command, long long chunked) except -1
    cdef int vrfy(self, list words) except -1
    cdef int etrn(self, list words) except -1
    cdef int starttls(self, bint alone) except -1
    cdef int answer(self, int command, object reply) except -1
    cdef int finish(self, int command, bytes reply) except -1
    cdef int data_answer(self, int command, bint good, bytes reply) except -1
    cdef int fail(self, int command, bytes reply) except -1
    cdef int reply(self, bytes text) except -1
    cdef int close(self) except -1
    cdef int reset(self) except -1
    cdef int count_junk(self) except -1
    cdef int check_errors(self) except -1
    cdef object collect(self)
