"""Which message is given out next: those that are due, and the walk of a flush.

Used by queue/shard.py. Messages wait in the index; those that were parked within the last second or two still wait in
memory (behind.parked). A floor in the index's table `due` is behind all rows that were given out, so that they are
not read again. Raises IndexDamaged.
"""

from __future__ import annotations

import math
from typing import Final

from fastmta.model.message import FLAG_HOLD, Message
from fastmta.queue.behind import Behind
from fastmta.queue.index import FIRST, Index
from fastmta.queue.model import Entry, message_of

ROWS: Final = 256
LOOK: Final = 2048  # entries that one step of a flush looks at
NEVER: Final = float("inf")
LAST_SECOND: Final = 0xFFFFFFFF


class Giving:
    """Gives out what nobody holds."""

    def __init__(self, behind: Behind, shard: int) -> None:
        """shard: the number of the shard, for the messages made of entries."""
        self._behind = behind
        self._shard = shard
        self._floor = (FIRST, b"")
        self._soonest_parked = NEVER
        self._flush_after: bytes | None = None
        self._flush_end = b""
        self._flush_parked: list[Message] = []
        self._flush_seen: set[str] = set()

    def restart(self) -> None:
        """The index is another one."""
        self._floor = (FIRST, b"")

    def parked(self, message: Message) -> None:
        """It waits in memory."""
        if not message.flags & FLAG_HOLD and message.next_attempt < self._soonest_parked:
            self._soonest_parked = message.next_attempt

    def hold(self, message: Message) -> Message:
        """Somebody has it now."""
        queue_id = message.envelope.queue_id
        self._behind.parked.pop(queue_id, None)
        if queue_id not in self._behind.fresh:
            self._behind.loaded[queue_id] = message
        return message

    def due(self, index: Index, now: float, limit: int) -> list[Message]:
        """Up to limit messages whose time has come."""
        found: list[Message] = []
        if self._soonest_parked <= now:
            self._due_parked(now, limit, found)
        self._lower_floor()
        second = min(math.floor(now), LAST_SECOND) if now < LAST_SECOND else LAST_SECOND
        while len(found) < limit:
            rows = index.due(self._floor, second, min(limit - len(found), ROWS))
            if not rows:
                break
            for _, _, entry in rows:
                self._give(entry, found)
            last = rows[-1]
            self._floor = (last[0], (int.from_bytes(last[1], "big") + 1).to_bytes(8, "big"))
        return found

    def next_due(self, index: Index | None) -> float | None:
        """When the next time comes."""
        soonest = self._soonest_parked
        if index is not None:
            self._lower_floor()
            second = index.first_due(self._floor)
            if second is not None and second < soonest:
                soonest = float(second)
        return None if soonest == NEVER else soonest

    def flush(self, index: Index | None) -> None:
        """Begin to walk all that there is."""
        self._flush_after = b""
        self._flush_end = b"\xff" * 8 if index is None else index.last_key()
        self._flush_parked = [message for message, _ in self._behind.parked.values()]
        self._flush_seen = {message.envelope.queue_id for message in self._flush_parked}

    def flushed(self, index: Index, limit: int) -> list[Message] | None:
        """A step of the walk; None at its end."""
        found: list[Message] = []
        while self._flush_parked and len(found) < limit:
            message = self._flush_parked.pop()
            parked = self._behind.parked.get(message.envelope.queue_id)
            if parked is not None and parked[0] is message and not message.flags & FLAG_HOLD:
                found.append(self.hold(message))
        looked = 0
        while self._flush_after is not None and len(found) < limit and looked < LOOK:
            rows = index.entries(self._flush_after, min(limit - len(found), ROWS))
            looked += len(rows)
            for key, entry in rows:
                held = entry.state is not None and entry.state.flags & FLAG_HOLD
                if key <= self._flush_end and not held and entry.envelope.queue_id not in self._flush_seen:
                    self._give(entry, found)
            self._flush_after = rows[-1][0] if rows and rows[-1][0] < self._flush_end else None
        if not found and self._flush_after is None:
            return None
        return found

    def find(self, index: Index | None, queue_id: str) -> Message | None:
        """The message of that queue id as it is now."""
        behind = self._behind
        if queue_id in behind.removing:
            return None
        message = behind.fresh.get(queue_id) or behind.loaded.get(queue_id)
        if message is not None:
            return message
        parked = behind.parked.get(queue_id)
        if parked is not None:
            return parked[0]
        entry = index.get(queue_id) if index is not None else None
        return None if entry is None else message_of(entry, self._shard)

    def _due_parked(self, now: float, limit: int, found: list[Message]) -> None:
        soonest = NEVER
        for message, _ in list(self._behind.parked.values()):
            if message.flags & FLAG_HOLD:
                continue
            if message.next_attempt <= now and len(found) < limit:
                found.append(self.hold(message))
            elif message.next_attempt < soonest:
                soonest = message.next_attempt
        self._soonest_parked = soonest

    def _give(self, entry: Entry, found: list[Message]) -> None:
        behind = self._behind
        queue_id = entry.envelope.queue_id
        if (
            queue_id in behind.loaded
            or queue_id in behind.fresh
            or queue_id in behind.removing
            or queue_id in behind.parked
        ):
            return
        message = behind.loaded[queue_id] = message_of(entry, self._shard)
        found.append(message)

    def _lower_floor(self) -> None:
        lowest = self._behind.lowest_due
        if lowest is not None:
            self._behind.lowest_due = None
            if lowest < self._floor[0] or (lowest == self._floor[0] and self._floor[1]):
                self._floor = (lowest, b"")
