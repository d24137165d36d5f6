"""What a session asks before it says yes: contracts that access/ fulfils. smtpd/ knows nothing of restriction lists.

Each check gets the session and returns None, or the refusal: a reply without CRLF, which the session logs and sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

from fastmta.config import Config


class Subject(Protocol):
    """What a check may look at: the state of a session."""

    client: str  # "name[address]"
    client_name: str
    client_address: str
    helo_name: str | None  # None before HELO
    sender: str | None  # None outside a transaction
    recipient: str | None  # the one in question, or the first one at DATA and later

    @property
    def in_mynetworks(self) -> bool:
        """The client is one of ours. Raises what tables raise."""

    @property
    def recipient_count(self) -> int:
        """Accepted so far."""

    @property
    def esmtp(self) -> bool:
        """The client said EHLO."""

    @property
    def secure(self) -> bool:
        """TLS is active."""

    @property
    def improper_pipelining(self) -> bool:
        """The client did not wait for its turn."""


Check: TypeAlias = Callable[[Subject], str | None]


class Checks(msgspec.Struct, frozen=True, eq=False):
    """One per stage; None where nothing is to be checked. With smtpd_delay_reject, rcpt holds those of before too."""

    connect: Check | None = None
    helo: Check | None = None
    mail: Check | None = None
    rcpt: Check | None = None
    vrfy: Check | None = None
    etrn: Check | None = None
    data: Check | None = None
    end_of_data: Check | None = None


class Access(Protocol):
    """What access/ gives to the services of a worker."""

    def checks(self, cfg: Config, warn: Callable[[str], None]) -> Checks:
        """Compile the lists of a service. warn logs when one is reached that cannot be used. Raises ConfigError."""

    def parse_mailbox(self, token: bytes, strict: bool, utf8: bool) -> str | None:
        """An address that is not plain, in internal form; None where it is none or cannot be routed.

        strict: strict_rfc821_envelopes; utf8: the client declared SMTPUTF8.
        """
