"""What became of one recipient in one delivery attempt: `Sent | Deferred | Bounced`.

Made by deliver/ (and by qmgr/ for destinations that it gives up on), read by qmgr/, bounce/, observe/ and, for what is
kept in the queue, by the listings. Sources: RFC 3463 (enhanced codes), RFC 3464 (delivery status).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Outcome(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Common to the three.

    dsn is the enhanced status code ("2.0.0"); text what the log line has in parentheses ("250 2.0.0 Ok: queued as X",
    "host a[1.2.3.4] said: 550 5.1.1 ... (in reply to RCPT TO command)"); remote_mta the name of the peer for
    Remote-MTA ("" where none); reply the peer's reply for Diagnostic-Code ("" where the status is our own finding, then
    text is used).
    """

    dsn: str
    text: str
    remote_mta: str = ""
    reply: str = ""


class Sent(Outcome, frozen=True, array_like=True, gc=False, tag="S"):
    """Delivered, or discarded as asked: the recipient is done."""


class Deferred(Outcome, frozen=True, array_like=True, gc=False, tag="D"):
    """To be tried again at a later time."""


class Bounced(Outcome, frozen=True, array_like=True, gc=False, tag="B"):
    """Failed for good: to be reported to the sender; then the recipient is done."""


Result: TypeAlias = Sent | Deferred | Bounced


class Attempt(msgspec.Struct, gc=False):
    """Facts of one delivery attempt that its recipients share, for the log's relay=, conn_use= and delays=.

    relay is "host[addr]:port", "none", "local" ...; conn_use counts the messages of this connection including this one;
    setup and transfer are seconds: delays c (connection set-up) and d (transmission). relayed: the next hop took it and
    does not know DSN (RFC 3461 section 5.2.2), so the success report that a recipient asked for is ours to make.
    earlier: the facts for those recipients, by their index, that got their result from another host than the last one.
    """

    relay: str = "none"
    conn_use: int = 1
    setup: float = 0.0
    transfer: float = 0.0
    tls: str = ""
    relayed: bool = False
    earlier: dict[int, Attempt] | None = None


def split_dsn(default: str, text: str) -> tuple[str, str]:
    """Split "5.1.1 no such user" into code and text; default is the code where the text has none."""
    first, _, rest = text.partition(" ")
    parts = first.split(".")
    valid = (
        len(parts) == 3
        and parts[0] in ("2", "4", "5")
        and all(part.isascii() and part.isdigit() and 0 < len(part) < 4 for part in parts[1:])
    )
    return (first, rest.strip()) if valid else (default, text)
