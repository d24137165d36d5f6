"""What a session hands to cleanup.Intake at the end of the data: one message with its envelope. Pure data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from fastmta.model.envelope import RET_NONE, Origin, Recipient


class Transaction(msgspec.Struct, eq=False):
    """One message.

    content is in wire form: lines end with CRLF, a line that begins with a dot begins with one more. size is what
    smtpd compares with message_size_limit; records what Postfix's queue file needs beside that for long lines;
    content_flags a sum of CONTENT_*.
    """

    queue_id: str
    arrival: float  # Unix time of MAIL FROM
    sender: str  # internal form; "" is the null sender
    recipients: list[Recipient]
    content: list[bytes]
    origin: Origin
    body: str = ""  # BODY=: "", "7BIT" or "8BITMIME"
    smtputf8: bool = False
    dsn_envid: str = ""
    dsn_ret: int = RET_NONE
    size: int = 0
    records: int = 0
    content_flags: int = 0


class Intake(Protocol):
    """The part of cleanup.Intake that a session calls."""

    def new_queue_id(self, now: float) -> str:
        """At the first accepted recipient."""

    def accept(self, transaction: Transaction, done: Callable[[bytes], None]) -> None:
        """At the end of the data; done gets the reply, when the message is on disk or will not be."""
