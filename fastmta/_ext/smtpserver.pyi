from collections.abc import Callable
from typing import Final, Protocol

CLOSE: Final = 1
SLEEP: Final = 2
TLS: Final = 4

NOTICE_ADDRESS: Final = 1
NOTICE_PIPELINING: Final = 2
NOTICE_LONG_LINE: Final = 3
NOTICE_NOT_SMTP: Final = 4
NOTICE_BARE_LF: Final = 5
NOTICE_SIZE: Final = 6
NOTICE_BDAT_SYNTAX: Final = 7
NOTICE_BDAT_NULL: Final = 8
NOTICE_BDAT_SIZE: Final = 9
NOTICE_ETRN: Final = 10

class Handler(Protocol):
    """Answers at once with a reply (bytes with CRLF), or with None: then SmtpServer.resume brings it later."""

    client: str
    def helo(self, name: str, esmtp: bool, /) -> bytes | None: ...
    def mail(self, sender: str, size: int, body: str, smtputf8: bool, dsn_ret: int, dsn_envid: str, /) -> bytes | None: ...
    def rcpt(self, address: str, dsn_orcpt: str, dsn_notify: int, /) -> bytes | None: ...
    def data(self) -> bytes | None: ...
    def end_of_data(
        self, content: list[bytes], size: int, records: int, flags: int, chunked: int, /
    ) -> bytes | None: ...
    def vrfy(self, address: str, /) -> bytes | None: ...
    def starttls(self) -> bytes | None: ...
    def reset(self) -> None: ...
    def notice(self, kind: int, text: bytes, /) -> None: ...

def peek_input(fd: int) -> bytes: ...

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
        parse_mailbox: Callable[[bytes, bool], str | None],
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

class SmtpServer:
    attention: int
    esmtp: bool
    secure: bool
    denied: bool
    improper_pipelining: bool
    too_many_errors: bool
    recipients: int
    errors: int
    bare_lf: int
    awaited: bool
    backlog: int
    saw_bare_lf: bool
    def __init__(self, handler: Handler, limits: Limits, bare_lf: int = 1) -> None: ...
    def greet(self, reply: bytes, early: bytes = b"") -> bytes | None: ...
    def feed(self, buffer: ReadBuffer, n: int) -> bytes | None: ...
    def feed_bytes(self, data: bytes) -> bytes | None: ...
    def resume(self, reply: bytes) -> bytes | None: ...
    def wake(self) -> bytes | None: ...
    def tls_started(self) -> None: ...
    def hang_up(self, reply: bytes | None = None) -> bytes | None: ...
    def where(self) -> tuple[str, int]: ...
    def counters(self) -> list[tuple[str, int, int]]: ...
