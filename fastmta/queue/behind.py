"""Writes the index behind the log: what is still in the queue a second after it came, and what has changed since.

Used by queue/shard.py, which calls `note_*` when records have become durable (so the index is never ahead of the log),
and starts `cycle()` as a chore. A message that is removed before its turn never touches the index (the fast lane).
Raises IndexDamaged and lmdb.Error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastmta.model.message import Message
from fastmta.queue.chores import Chore
from fastmta.queue.index import Index, Meta, due_key
from fastmta.queue.model import Entry, State

STEP: Final = 64
TRIM: Final = 400  # messages: each touches some pages of the index, and the kernel maps the neighbours of each


class Behind:
    """What the index lacks, and what is in memory.

    fresh: messages that are not in the index yet, oldest first. loaded: messages in the index that somebody holds.
    parked: messages that were let go with a state that is not in the index yet, and the batch of that state. removing:
    messages that are gone but still in the index. A message is held by somebody when it is in loaded, or in fresh and
    not in parked. position: how far the log is durable; covered: how far the index is. lowest_due: the earliest row
    of a message that nobody holds among those written, for the owner to take and reset.
    """

    def __init__(self, boot_id: str) -> None:
        """Nothing is known yet."""
        self.fresh: dict[str, Message] = {}
        self.loaded: dict[str, Message] = {}
        self.parked: dict[str, tuple[Message, int]] = {}
        self.removing: set[str] = set()
        self.position = (0, 0)
        self.covered = (0, 0)
        self.lowest_due: bytes | None = None
        self._changed: dict[str, tuple[Message, int, State | None, int]] = {}
        self._gone: dict[str, None] = {}
        self._candidates: list[str] = []
        self._candidates_position = (0, 0)
        self._boot_id = boot_id

    def note_state(self, message: Message, segment: int, state: State | None, sequence: int) -> None:
        """That state of a message is durable, in that segment."""
        if message.queue_id not in self.removing:
            self._changed[message.queue_id] = (message, segment, state, sequence)

    def note_removed(self, queue_id: str) -> None:
        """That a message is gone is durable."""
        self._changed.pop(queue_id, None)
        self._gone[queue_id] = None

    def is_held(self, queue_id: str) -> bool:
        """Whether somebody has that message."""
        return queue_id in self.loaded or (queue_id in self.fresh and queue_id not in self.parked)

    def is_changing(self, queue_id: str) -> bool:
        """Whether the index does not have its latest state."""
        return queue_id in self.fresh or queue_id in self.parked or queue_id in self._changed

    @property
    def idle(self) -> bool:
        """Whether the index has everything."""
        return not (self.fresh or self._changed or self._gone) and self.covered == self.position

    def cycle(self, index: Index, sequence: Callable[[], int]) -> Chore:
        """Write what waited since the last cycle; sequence() is the batch that gathers, and gets it going."""
        candidates, position = self._candidates, self._candidates_position
        self._candidates = list(self.fresh)
        self._candidates_position = self.position
        yield from self._write(index, candidates)
        if position > self.covered:
            # A message that left the fast lane since the last cycle is not in the index: its tombstone must be durable
            # before the index claims to know of it.
            yield sequence()
            with index:
                index.set_meta(Meta(1, self._boot_id, *position))
            self.covered = position

    def show(self, index: Index) -> Chore:
        """Write what there is now, so that readers see it; how far the index is stays the business of cycle()."""
        yield from self._write(index, list(self.fresh))

    def close(self, index: Index) -> None:
        """Write all there is, when nothing of the log waits for its sync and nothing will come any more."""
        for _ in self.show(index):
            pass
        with index:
            index.set_meta(Meta(1, self._boot_id, *self.position, True))
        self.covered = self.position

    def restart(self) -> None:
        """The index was lost: everything durable comes into the new one from the log."""
        self.loaded.update(item for item in self.fresh.items() if item[0] not in self.parked)
        self.fresh.clear()
        self.parked = {
            queue_id: item for queue_id, item in self.parked.items() if not self._is_durable(queue_id, item[1])
        }
        self.removing.difference_update(self._gone)
        self._changed.clear()
        self._gone.clear()
        self._candidates = []
        self._candidates_position = (0, 0)
        self.covered = (0, 0)

    def _is_durable(self, queue_id: str, sequence: int) -> bool:
        """Whether the state that went with that batch, or a later one, is durable."""
        change = self._changed.get(queue_id)
        return change is not None and change[3] >= sequence

    def _write(self, index: Index, candidates: list[str]) -> Chore:
        """Nothing leaves the memory before the transaction that takes it in has succeeded: the disk may be full."""
        for start in range(0, len(candidates), STEP):
            batch = [self.fresh[queue_id] for queue_id in candidates[start : start + STEP] if queue_id in self.fresh]
            with index:
                for message in batch:
                    place = message.place
                    assert place is not None
                    entry = Entry(place.segment, place.offset, place.length, place.segment, message.envelope)
                    self._put(index, entry, message.queue_id not in self.parked)
            for message in batch:
                queue_id = message.queue_id
                del self.fresh[queue_id]
                if queue_id not in self.parked:
                    self.loaded[queue_id] = message
            index.trim(TRIM)
            yield None
        yield from self.changes(index)

    def changes(self, index: Index) -> Chore:
        """Write what is known of messages in the index; those that are not in it yet keep their time."""
        changed = list(self._changed)
        for start in range(0, len(changed), STEP):
            # In fresh: it was not a candidate yet.
            changes = [
                (queue_id, self._changed[queue_id])
                for queue_id in changed[start : start + STEP]
                if queue_id in self._changed and queue_id not in self.fresh
            ]
            with index:
                for queue_id, (message, segment, state, _) in changes:
                    place = message.place
                    if queue_id not in self.removing and place is not None:
                        entry = Entry(place.segment, place.offset, place.length, segment, message.envelope, state)
                        self._put(index, entry, queue_id in self.loaded)
            for queue_id, (_, _, _, sequence) in changes:
                del self._changed[queue_id]
                parked = self.parked.get(queue_id)
                if parked is not None and parked[1] == sequence:
                    del self.parked[queue_id]
            index.trim(TRIM)
            yield None
        gone = list(self._gone)
        for start in range(0, len(gone), STEP):
            step = gone[start : start + STEP]
            with index:
                for queue_id in step:
                    index.delete(queue_id)
            self.removing.difference_update(step)
            for queue_id in step:
                self._gone.pop(queue_id, None)
            index.trim(TRIM)
            yield None

    def _put(self, index: Index, entry: Entry, held: bool) -> None:
        index.put(entry)
        row = due_key(entry.state)
        if row and not held and (self.lowest_due is None or row < self.lowest_due):
            self.lowest_due = row
