"""The buffer that all sessions of a worker read into, what limits them, and what a session keeps of its input.

smtpd/ makes one ReadBuffer for each worker and one Limits for each service; the machine (smtpserver.pyx) uses their
fields. MemoryError is all that can be raised."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove


cdef extern from "<sys/socket.h>" nogil:
    Py_ssize_t recv(int fd, void *buffer, size_t n, int flags)
    enum:
        MSG_PEEK
        MSG_DONTWAIT


def peek_input(int fd):
    """What the peer of this socket said and nobody read yet, at most 100 bytes."""
    cdef char[100] buffer
    cdef Py_ssize_t n = recv(fd, buffer, 100, MSG_PEEK | MSG_DONTWAIT)
    return PyBytes_FromStringAndSize(buffer, n) if n > 0 else b""


def discard_input(int fd):
    """Read and forget what the peer sent: to close with input unread resets the connection and loses our last words."""
    cdef char[4096] buffer
    cdef int times = 16
    while times and recv(fd, buffer, 4096, MSG_DONTWAIT) == 4096:
        times -= 1


cdef class ReadBuffer:
    """Where all sessions of a worker read to: the loop reads and feeds one session at a time."""

    def __cinit__(self, Py_ssize_t size=262144):
        self.view = memoryview(bytearray(size))
        cdef unsigned char[::1] raw = self.view
        self.data = &raw[0]
        self.size = size

    def get_buffer(self, sizehint):
        """For asyncio.BufferedProtocol."""
        return self.view


cdef class Limits:
    """What the machine must know of the configuration; names are those of main.cf.
    parse_mailbox(token, strict, utf8) -> str | None reads the addresses that are not plain.
    """

    def __init__(self, *, bytes myhostname, parse_mailbox, Py_ssize_t line_length_limit=2048,
                 long long message_size_limit=10240000, int recipient_limit=1000, int recipient_overshoot_limit=1000,
                 int junk_command_limit=100, int soft_error_limit=10, int hard_error_limit=20,
                 double error_sleep_time=1.0,
                 bint helo_required=False, bint strict_rfc821_envelopes=False, bint smtputf8_enable=True,
                 bint strict_smtputf8=False, bint disable_vrfy_command=False, bint offer_dsn=True,
                 bint offer_chunking=True,
                 bint offer_starttls=False, bint require_tls=False, bint forbid_unauth_pipelining=True,
                 bint replace_stray_cr_lf=True, bint ask_data=True, int bare_newline_reject_code=550,
                 frozenset noop_commands=frozenset(),
                 frozenset forbidden_commands=frozenset({b"CONNECT", b"GET", b"POST"}),
                 bint forbid_non_letters=True, bint soft_bounce=False):
        self.myhostname = myhostname
        self.parse_mailbox = parse_mailbox
        self.line_length_limit = max(line_length_limit, 16)
        self.message_size_limit = message_size_limit
        self.recipient_limit = recipient_limit
        self.recipient_overshoot_limit = recipient_overshoot_limit
        self.junk_command_limit = junk_command_limit
        self.soft_error_limit = soft_error_limit
        self.hard_error_limit = hard_error_limit
        self.error_sleep_time = error_sleep_time
        self.helo_required = helo_required
        self.strict_rfc821_envelopes = strict_rfc821_envelopes
        self.smtputf8_enable = smtputf8_enable
        self.strict_smtputf8 = strict_smtputf8
        self.disable_vrfy_command = disable_vrfy_command
        self.offer_dsn = offer_dsn
        self.offer_chunking = offer_chunking
        self.offer_starttls = offer_starttls
        self.require_tls = require_tls
        self.forbid_unauth_pipelining = forbid_unauth_pipelining
        self.replace_stray_cr_lf = replace_stray_cr_lf
        self.ask_data = ask_data
        self.bare_newline_reject_code = bare_newline_reject_code
        self.noop_commands = noop_commands
        self.forbidden_commands = forbidden_commands
        self.forbid_non_letters = forbid_non_letters
        self.soft_bounce = soft_bounce


cdef class HeldInput:
    """Input that could not be worked through yet: part of a line, or what came while an answer was awaited."""

    def __dealloc__(self):
        free(self.held)

    cdef void forget(self) noexcept:
        """Hold no input."""
        free(self.held)
        self.held = NULL
        self.held_used = self.held_room = 0

    cdef int hold(self, const unsigned char *p, Py_ssize_t n) except -1:
        cdef Py_ssize_t room = self.held_room
        cdef unsigned char *more
        if self.held_used + n > room:
            if room == 0:
                room = 64
            while room < self.held_used + n:
                room *= 2
            more = <unsigned char *> realloc(self.held, room)
            if more == NULL:
                raise MemoryError
            self.held = more
            self.held_room = room
        memcpy(self.held + self.held_used, p, n)
        self.held_used += n
        return 0

    cdef void drop_held(self, Py_ssize_t used) noexcept:
        """So many bytes are done with."""
        self.held_used -= used
        memmove(self.held, self.held + used, self.held_used)
