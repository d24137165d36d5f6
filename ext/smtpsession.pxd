"""Contract of what sessions share and keep: see smtpsession.pyx."""


cdef class ReadBuffer:
    cdef unsigned char *data
    cdef readonly Py_ssize_t size
    cdef object view


cdef class Limits:
    cdef readonly bytes myhostname
    cdef readonly Py_ssize_t line_length_limit
    cdef readonly long long message_size_limit
    cdef readonly int recipient_limit
    cdef readonly int recipient_overshoot_limit
    cdef readonly int junk_command_limit
    cdef readonly int soft_error_limit
    cdef readonly int hard_error_limit
    cdef readonly double error_sleep_time
    cdef readonly bint helo_required
    cdef readonly bint strict_rfc821_envelopes
    cdef readonly bint smtputf8_enable
    cdef readonly bint strict_smtputf8
    cdef readonly bint disable_vrfy_command
    cdef readonly bint offer_dsn
    cdef readonly bint offer_chunking
    cdef readonly bint offer_starttls
    cdef readonly bint require_tls
    cdef readonly bint forbid_unauth_pipelining
    cdef readonly bint replace_stray_cr_lf
    cdef readonly bint ask_data
    cdef readonly int bare_newline_reject_code
    cdef readonly frozenset noop_commands
    cdef readonly frozenset forbidden_commands
    cdef readonly bint forbid_non_letters
    cdef readonly bint soft_bounce
    cdef readonly object parse_mailbox


cdef class HeldInput:
    cdef unsigned char *held
    cdef Py_ssize_t held_used
    cdef Py_ssize_t held_room

    cdef void forget(self) noexcept
    cdef int hold(self, const unsigned char *p, Py_ssize_t n) except -1
    cdef void drop_held(self, Py_ssize_t used) noexcept
