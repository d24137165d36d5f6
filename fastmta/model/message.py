"""A message while a worker holds it in memory: its envelope, its content or where that is, and its progress.

cleanup/ makes it, queue/ makes it durable and loads it again, qmgr/ walks it through its recipients, deliver/ reads it.
One object per message, no copies: the queue's index and log hold everything needed to make an equal one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastmta.model.envelope import Envelope
from fastmta.model.outcome import Result

# Message.flags, kept in the queue
FLAG_HOLD: Final = 1  # not to be delivered until released
FLAG_EXPIRE: Final = 2  # forced expire (postsuper -e, -f): bounce at the next attempt
FLAG_DELAY_WARNED: Final = 4  # the delay notice went out


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Where a MESSAGE record lies: its segment, the record's offset there, and its length with frame, in bytes."""

    segment: int
    offset: int
    length: int


class Message(msgspec.Struct, eq=False):
    """One message in memory.

    content is a list of chunks in *wire form*: every line ends with CRLF, a line that begins with a dot has it doubled
    (RFC 5321 section 4.5.2), without the final ".": a next hop gets it as it is. None means that it was dropped from
    memory; queue.Store.content(message) reads it back.

    done[i] is nonzero when recipient i needs nothing more (sent, or bounced and reported); deferred maps a recipient's
    index to its last Deferred. Both are None while nothing happened yet: the fast lane allocates neither.
    """

    envelope: Envelope
    content: list[bytes] | None = None
    place: Place | None = None  # None until committed
    shard: int = -1  # number of the shard that owns it
    flags: int = 0  # FLAG_*
    next_attempt: float = 0.0  # Unix time in seconds; 0 = now
    attempts: int = 0  # how often it left the active queue with recipients deferred
    done: bytearray | None = None
    deferred: dict[int, Result] | None = None
    activated: float = 0.0  # Unix time of the last entry into the active queue, for delays=
    remaining: int = 0  # used by qmgr/: recipients without a result in this round

    @property
    def queue_id(self) -> str:
        """The queue id, as logged and listed."""
        return self.envelope.queue_id

    def left(self) -> list[int]:
        """The indexes of the recipients that still need something."""
        done = self.done
        return [index for index in range(len(self.envelope.recipients)) if done is None or not done[index]]
