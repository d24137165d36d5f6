"""What the queue manager needs from other steps, as protocols: the queue below it, and what worker wiring hands in.

queue.store.Store is a Store, address.resolve.Resolver a Resolver, bounce.bouncer.Bouncer a Bouncer, observe.log.Log a
Log and an asyncio event loop a Loop. Tests hand in their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from fastmta.model.message import Message
from fastmta.model.outcome import Bounced, Deferred, Outcome, Sent

if TYPE_CHECKING:
    from fastmta._ext.sched import Slot

Done: TypeAlias = Callable[[BaseException | None], None]


class Resolved(Protocol):
    """Where an address goes."""

    @property
    def transport(self) -> str:
        """The name of a master.cf service."""

    @property
    def nexthop(self) -> str:
        """What that transport delivers to."""

    @property
    def recipient(self) -> str:
        """The address as resolved."""


class Resolver(Protocol):
    """Addresses to transports."""

    def resolve(self, address: str, sender: str = "", /) -> Resolved | Outcome:
        """Answers at once; Deferred or Bounced where the address cannot be resolved. Raises TempFail."""


class Store(Protocol):
    """The worker's part of the queue."""

    def record(self, message: Message, /) -> None:
        """The state of a message changed: keep it. It stays with the caller."""

    def park(self, message: Message, /) -> None:
        """Keep its state and let go of it: due() gives it out when its next_attempt has come and it is not on hold."""

    def flush(self) -> None:
        """Begin a walk over all that is in the queue now."""

    def flushed(self, limit: int, /) -> list[Message] | None:
        """The next messages of that walk that nobody has and that are not on hold; None at its end."""

    def remove(self, message: Message, /) -> None:
        """All recipients are done."""

    def held(self) -> list[Message]:
        """All messages that somebody took and has not parked or removed."""

    def due(self, now: float, limit: int, /) -> list[Message]:
        """Messages whose next attempt has come and that are not in memory."""

    def next_due(self) -> float | None:
        """When the next attempt of a message that is not in memory is; None if there is none."""

    def find(self, queue_id: str, /) -> Message | None:
        """A message, wherever it is."""


class Bouncer(Protocol):
    """Notifications to senders. done(None) when the notification is durable, or none is to be sent."""

    def bounce(self, message: Message, failed: list[tuple[int, Bounced]], done: Done, /) -> None:
        """Recipients (by index) that failed for good."""

    def success(self, message: Message, sent: list[tuple[int, Sent]], relay: str, action: str, done: Done, /) -> None:
        """Recipients that asked to hear of it and were delivered; action: "relayed" or "delivered"."""

    def delay_notice(self, message: Message, delayed: list[tuple[int, Deferred]], done: Done, /) -> None:
        """Recipients that are not delivered yet."""


class Log(Protocol):
    """The log. service: "qmgr", or a full "postfix/relay/smtp"."""

    def write(self, service: str, line: str, /) -> None:
        """A line."""

    def warning(self, service: str, text: str, /) -> None:
        """A line that begins with "warning: "."""

    def panic(self, service: str, text: str, error: BaseException | None = None, /) -> None:
        """A line that begins with "panic: ", and the traceback of an exception."""


class Timer(Protocol):
    """A call to come."""

    def cancel(self) -> None:
        """Not any more."""


class Loop(Protocol):
    """The event loop, as far as it is used here."""

    def call_later(self, delay: float, callback: Callable[..., object], /) -> Timer:
        """Call back after so many seconds."""

    def call_soon(self, callback: Callable[..., object], /) -> Any:
        """Call back in the next turn."""

    def add_reader(self, fd: int, callback: Callable[..., object], /) -> Any:
        """Call back when the descriptor is readable."""

    def remove_reader(self, fd: int, /) -> Any:
        """Not any more."""


class Agent(Protocol):
    """A delivery agent, as the scheduler sees it."""

    def slot(self, slot: Slot, /) -> None:
        """A place at a destination that has entries: take() them."""
