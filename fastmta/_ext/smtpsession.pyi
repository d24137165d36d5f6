from collections.abc import Callable

def peek_input(fd: int) -> bytes: ...
def discard_input(fd: int) -> None: ...

class ReadBuffer:
    size: int
    def __init__(self, size: int = 262144) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...

class Limits:
    myhostname: bytes
    offer_starttls: bool
    require_tls: bool
    error_sleep_time: float
    message_size_limit: int
    def __init__(
        self,
        *,
        myhostname: bytes,
        parse_mailbox: Callable[[bytes, bool, bool], str | None],
        line_length_limit: int = 2048,
        message_size_limit: int = 10240000,
        recipient_limit: int = 1000,
        recipient_overshoot_limit: int = 1000,
        junk_command_limit: int = 100,
        soft_error_limit: int = 10,
        hard_error_limit: int = 20,
        error_sleep_time: float = 1.0,
        helo_required: bool = False,
        strict_rfc821_envelopes: bool = False,
        smtputf8_enable: bool = True,
        strict_smtputf8: bool = False,
        disable_vrfy_command: bool = False,
        offer_dsn: bool = True,
        offer_chunking: bool = True,
        offer_starttls: bool = False,
        require_tls: bool = False,
        forbid_unauth_pipelining: bool = True,
        replace_stray_cr_lf: bool = True,
        ask_data: bool = True,
        bare_newline_reject_code: int = 550,
        noop_commands: frozenset[bytes] = ...,
        forbidden_commands: frozenset[bytes] = ...,
        forbid_non_letters: bool = True,
        soft_bounce: bool = False,
    ) -> None: ...
