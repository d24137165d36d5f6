"""What a delivery agent is given and what it answers: the contract between qmgr/ and deliver/.

qmgr.Scheduler calls `agent.slot(slot)` when a destination has work and its window is open. The agent calls
`slot.take()` for a request, delivers, calls `request.finish(...)`, and takes the next one while it has a connection;
None from take() releases the slot. The classes here are protocols: qmgr/ implements them, tests fake them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from fastmta.model.message import Message
from fastmta.model.outcome import Attempt, Deferred, Result
from fastmta.net.dns import Resolver


class Destination(Protocol):
    """Where a slot delivers to."""

    @property
    def transport(self) -> str:
        """The name of the master.cf service."""

    @property
    def nexthop(self) -> str:
        """Where the agent sends: a domain, "[host]:port", "unix:path", or text for error and retry."""


class DeliveryRequest(Protocol):
    """One message to some of its recipients, all with the same next hop."""

    message: Message
    recipients: list[int]  # indexes into message.envelope.recipients
    nexthop: str
    started: float  # Unix time in seconds when the agent got it, for delays=

    def finish(self, results: list[Result], attempt: Attempt, site_down: Deferred | None = None) -> None:
        """Report the outcome of each recipient, in the order of `recipients`; to be called exactly once.

        site_down is what makes the destination as such look dead (Postfix's throttle), else None.
        """


class Slot(Protocol):
    """The right to one delivery at a time to one destination."""

    @property
    def destination(self) -> Destination:
        """Where to."""

    def take(self) -> DeliveryRequest | None:
        """The next request; None when there is nothing left, and then the slot is gone."""

    def release(self) -> None:
        """Give the slot back without asking for more."""


class Agent(Protocol):
    """One transport of master.cf. ident is what its log lines are written as ("postfix/smtp")."""

    ident: str

    def slot(self, slot: Slot, /) -> None:
        """Work on this slot until take() says None."""

    def close(self) -> None:
        """End idle connections; what is being delivered goes on."""


class Log(Protocol):
    """observe.log.Log, as far as agents use it; service is the whole name ("postfix/smtp")."""

    def write(self, service: str, line: str) -> None:
        """Log a line."""

    def warning(self, service: str, text: str) -> None:
        """Log a line that begins with "warning: "."""

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        """Log a bug of ours, with its traceback."""


class DeliverContext(msgspec.Struct, frozen=True, eq=False):
    """What a worker gives its agents.

    content returns a message's content in wire form, from memory or from the queue; it raises queue's Damaged or
    OSError. own_addresses are the addresses that this system (or a proxy before it) receives mail on, in their
    canonical text form. pass_on hands a request to another
    transport (best_mx_transport); where it is None, build_agents makes one.
    """

    loop: asyncio.AbstractEventLoop
    log: Log
    resolver: Resolver
    content: Callable[[Message], list[bytes]]
    own_addresses: frozenset[str] = frozenset()
    pass_on: Callable[[DeliveryRequest, str], None] | None = None
