from collections.abc import Callable
from typing import Final, Protocol

from fastmta.model.envelope import Envelope

FEATURE_ESMTP: Final = 1
FEATURE_PIPELINING: Final = 2
FEATURE_SIZE: Final = 4
FEATURE_8BITMIME: Final = 8
FEATURE_SMTPUTF8: Final = 16
FEATURE_DSN: Final = 32
FEATURE_STARTTLS: Final = 64

STATE_NEW: Final = 0
STATE_GREETING: Final = 1
STATE_EHLO: Final = 2
STATE_HELO: Final = 3
STATE_STARTTLS: Final = 4
STATE_TLS: Final = 5
STATE_IDLE: Final = 6
STATE_RSET: Final = 7
STATE_MAIL: Final = 8
STATE_RCPT: Final = 9
STATE_DATA: Final = 10
STATE_DOT: Final = 11
STATE_QUIT: Final = 12
STATE_CLOSED: Final = 13

class Reply:
    code: int
    stage: int
    dsn: str
    text: str
    def __init__(self, code: int, stage: int, dsn: str, text: str) -> None: ...

class Transaction:
    envelope: Envelope
    recipients: list[int]
    content: list[bytes]
    reply: Reply | None
    replies: list[Reply | None] | None

class Handler(Protocol):
    def greeted(self) -> None: ...
    def refused(self, reply: Reply, /) -> None: ...
    def starttls_reply(self, reply: Reply, /) -> None: ...
    def transaction_done(self, transaction: Transaction, /) -> None: ...
    def content_due(self) -> None: ...
    def send_body(self, chunks: list[bytes], end: bytes, /) -> None: ...
    def garbage(self, text: str, /) -> None: ...
    def too_long(self, text: str, /) -> None: ...
    def bad_size(self, text: str, /) -> None: ...
    def quit_done(self) -> None: ...
    def unexpected(self) -> None: ...

class SmtpClient:
    state: int
    features: int
    size_limit: int
    peer_name: str  # from the reply to EHLO or HELO
    greeting_name: str
    progress: int
    transaction: Transaction | None
    upcoming: Transaction | None
    lmtp: bool
    pipelining: bool
    def __init__(
        self,
        handler: Handler,
        helo_name: bytes,
        *,
        lmtp: bool = False,
        discard: int = 0,
        always_ehlo: int = 1,
        line_limit: int = 2048,
        prefetch: bool = False,
    ) -> None: ...
    def start(self, write: Callable[[bytes], object]) -> None: ...
    def starttls(self) -> None: ...
    def tls_started(self, write: Callable[[bytes], object]) -> None: ...
    def ready(self) -> None: ...
    def submit(self, envelope: Envelope, recipients: list[int], content: list[bytes]) -> Transaction: ...
    def feed(self, data: bytes) -> None: ...
    def quit(self) -> None: ...
    def close(self) -> None: ...
