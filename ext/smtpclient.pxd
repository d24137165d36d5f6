"""Contract of the SMTP and LMTP client machine: see smtpclient.pyx."""


cdef enum State:
    # Before the first transaction
    S_NEW = 0
    S_GREETING = 1
    S_EHLO = 2
    S_HELO = 3
    S_STARTTLS = 4
    S_TLS = 5
    # Between and in transactions
    S_IDLE = 6
    S_RSET = 7
    S_MAIL = 8
    S_RCPT = 9
    S_DATA = 10
    S_DOT = 11
    # After the last one
    S_QUIT = 12
    S_CLOSED = 13


cdef class Reply:
    cdef readonly int code
    cdef readonly int stage
    cdef readonly str dsn
    cdef readonly str text


cdef class Transaction:
    cdef readonly object envelope
    cdef readonly list recipients
    cdef readonly list content
    cdef readonly Reply reply
    cdef readonly list replies
    cdef int total
    cdef int received
    cdef int accepted
    cdef int finished
    cdef bint dead
    cdef set_reply(self, int index, Reply reply)
    cdef set_rest(self, Reply reply)


cdef class SmtpClient:
    cdef readonly int state
    cdef readonly int features
    cdef readonly unsigned long long size_limit
    cdef readonly str peer_name
    cdef readonly str greeting_name
    cdef readonly long progress
    cdef readonly Transaction transaction
    cdef readonly Transaction upcoming
    cdef readonly bint lmtp
    cdef readonly bint pipelining
    cdef object handler
    cdef object write
    cdef bytes helo_name
    cdef int always_ehlo
    cdef int discard
    cdef Py_ssize_t line_limit
    cdef bint prefetch
    cdef bint holding
    # Input: an unfinished line, the lines of an unfinished reply
    cdef bytes tail
    cdef bint skipping
    cdef list lines
    cdef Py_ssize_t lines_size
    cdef bint garbage
    # Output: one command buffer, used again for each command group
    cdef char* buffer
    cdef Py_ssize_t filled
    cdef Py_ssize_t space

    cdef int put(self, const char* data, Py_ssize_t size) except -1
    cdef int put_text(self, str text) except -1
    cdef int put_number(self, unsigned long long number) except -1
    cdef int put_address(self, str address) except -1
    cdef int put_xtext(self, const char* text, Py_ssize_t size) except -1
    cdef int put_orcpt(self, Transaction tx, object recipient) except -1
    cdef int put_mail(self, Transaction tx) except -1
    cdef int put_rcpt(self, Transaction tx, int number) except -1
    cdef int flush(self) except -1
    cdef int begin(self, Transaction tx) except -1
    cdef int line(self, const char* text, Py_ssize_t size) except -1
    cdef int on_reply(self, int code, const char* text, Py_ssize_t size) except -1
    cdef int on_handshake_reply(self, int code, const char* text, Py_ssize_t size) except -1
    cdef int on_rcpt_reply(self, int code, const char* text, Py_ssize_t size) except -1
    cdef int on_data_reply(self, int code, const char* text, Py_ssize_t size) except -1
    cdef int on_dot_reply(self, int code, const char* text, Py_ssize_t size) except -1
    cdef int send_data(self) except -1
    cdef int send_content(self) except -1
    cdef int abort_transaction(self) except -1
    cdef int complete(self, int state) except -1
    cdef int parse_features(self, const char* text, Py_ssize_t size) except -1
    cdef Reply reply(self, int code, int stage, const char* text, Py_ssize_t size)
