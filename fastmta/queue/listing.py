"""Read a shard from outside: its index and its log, read-only, whether its owner runs or not.

For the tools (admin/spool.py, cli/). The owner is not disturbed: a read transaction is given up after some hundred
messages, so that LMDB can reuse its pages, and taken again where it ended. What the owner has not written to the index
yet is not seen: ask it to sync first. Raises IndexDamaged, Damaged, lmdb.Error, OSError.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from fastmta._ext.records import id_number, read_record
from fastmta.model.envelope import Envelope, Recipient
from fastmta.model.message import FLAG_HOLD, Message
from fastmta.model.outcome import Result
from fastmta.queue import index as queue_index
from fastmta.queue import model
from fastmta.queue.errors import Damaged

INCOMING: Final = "incoming"  # accepted, never tried
ACTIVE: Final = "active"  # being delivered, or about to be
DEFERRED: Final = "deferred"  # waits for its next attempt
HOLD: Final = "hold"  # waits for the postmaster

_ROWS: Final = 256  # messages of one read transaction
_MAP_SIZE: Final = 64 << 30
_TRIES: Final = 5  # to find a content that is being moved
_SHARD_MASK: Final = 15  # of the number in a queue id


class Entry(msgspec.Struct):
    """One message as listings see it."""

    queue: str  # INCOMING, ACTIVE, DEFERRED, HOLD
    envelope: Envelope
    flags: int = 0  # FLAG_*
    done: bytes | bytearray | None = None
    deferred: dict[int, Result] | None = None
    next_attempt: float = 0.0
    attempts: int = 0

    def remaining(self) -> list[Recipient]:
        """The recipients that need something more."""
        done = self.done
        if not done:
            return list(self.envelope.recipients)
        return [recipient for index, recipient in enumerate(self.envelope.recipients) if not done[index]]


def shard_of(queue_id: str) -> int:
    """The shard that gave out this queue id; -1 when it is none."""
    number = id_number(queue_id)
    return number & _SHARD_MASK if number >= 0 else -1


def queue_of(state: model.State | Message) -> str:
    """The queue that a message which is not active is in."""
    if state.flags & FLAG_HOLD:
        return HOLD
    return DEFERRED if state.attempts or state.next_attempt or state.deferred else INCOMING


def shards_in(queue_directory: Path) -> list[int]:
    """The numbers of the shards that there are."""
    found = []
    with os.scandir(queue_directory) as items:
        for item in items:
            head, dash, tail = item.name.partition("-")
            if head == "shard" and dash and tail.isascii() and tail.isdigit():
                found.append(int(tail))
    return sorted(found)


class Listing:
    """One shard, open for reading. active: the queue ids that its owner has in its active queue."""

    def __init__(
        self,
        directory: Path,
        active: Collection[str] = frozenset(),
        index: queue_index.Index | None = None,
        wary: bool = False,
    ) -> None:
        """A shard without an index is an empty one. index: the owner's, where that is this process: LMDB wants one.

        wary: nobody has looked whether the index is whole.
        """
        self.directory = directory
        self._active = active
        self._index = index
        self._borrowed = index is not None
        if index is not None:
            return
        try:
            self._index = queue_index.Index(directory / "index", _MAP_SIZE, read_only=True, wary=wary)
        except (FileNotFoundError, lmdb.NotFoundError):
            pass
        except lmdb.Error:
            if (directory / "index" / "data.mdb").exists():
                raise

    def close(self) -> None:
        """Close it."""
        if self._index is not None and not self._borrowed:
            self._index.close()
        self._index = None

    @property
    def is_current(self) -> bool:
        """Whether the index says that it was closed in order, with all of the log in it."""
        meta = self._index.meta() if self._index is not None else None
        return meta is not None and meta.clean

    @property
    def is_missing(self) -> bool:
        """Whether there is no index to what the log may have."""
        return self._index is None and any((self.directory / "log").glob("*.seg"))

    def entries(self, after: str = "") -> Iterator[Entry]:
        """All messages, oldest first, as they are when their turn comes; those behind that queue id."""
        index = self._index
        if index is None:
            return
        key = queue_index.key_of(after) if after else b""
        while rows := index.entries(key, _ROWS):
            for _, row in rows:
                yield self._entry(row)
            key = rows[-1][0]
            index.trim(20 * _ROWS)

    def find(self, queue_id: str) -> Entry | None:
        """The message of that queue id."""
        row = self._index.get(queue_id) if self._index is not None else None
        return None if row is None else self._entry(row)

    def content(self, queue_id: str) -> bytes:
        """The content in wire form. Raises Damaged when it is not what was written, or not there any more."""
        for _ in range(_TRIES):
            row = self._index.get(queue_id) if self._index is not None else None
            if row is None:
                break
            try:
                fd = os.open(self.directory / "log" / f"{row.segment:010d}.seg", os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # it was moved to another segment since we looked
            try:
                record = read_record(fd, row.offset, row.length)
            finally:
                os.close(fd)
            if record is not None:
                return record[2]
        raise Damaged(f"{queue_id}: damaged, or gone")

    def _entry(self, row: model.Entry) -> Entry:
        state = row.state
        active = row.envelope.queue_id in self._active
        if state is None:
            return Entry(ACTIVE if active else INCOMING, row.envelope)
        queue = queue_of(state)
        if active and queue != HOLD:
            queue = ACTIVE
        return Entry(queue, row.envelope, state.flags, state.done, state.deferred, state.next_attempt, state.attempts)
