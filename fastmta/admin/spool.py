"""The whole queue as the tools see it: all shards, through the workers that run and directly where none does.

Used by cli/. Reading goes past the workers: they are asked once, to bring the index up to date and for what is in their
active queues, then the shards are read from outside (queue/listing.py). Changes go through the worker that owns the
shard. A shard that nobody owns is opened here, with its lock: for changes until the tool ends, for reading only when
its last owner did not close it in order, and only until its index has caught up with its log. Raises SpoolError where
the queue cannot be reached, and client's errors.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import lmdb

from fastmta.admin import protocol
from fastmta.admin.client import RefusedError, UnreachableError, Worker, connect_all
from fastmta.admin.protocol import Request
from fastmta.queue import listing
from fastmta.queue.chores import BareLoop
from fastmta.queue.errors import Damaged, QueueLocked
from fastmta.queue.index import IndexDamaged
from fastmta.queue.listing import Entry, Listing
from fastmta.queue.settings import QueueSettings, shard_directory
from fastmta.queue.shard import Shard

_HELD_KEPT: Final = 2000  # held messages that are kept for the end of the listing
_HELD_PATIENCE: Final = 0.2  # seconds that they are kept
_UNREADABLE: Final = (IndexDamaged, lmdb.Error, OSError)


class SpoolError(Exception):
    """The queue directory cannot be read."""


class Spool:
    """The queue, for the length of a `with` block.

    problems: what could not be read, a sentence each; notes: what was found and put right meanwhile.
    """

    def __init__(self, queue_directory: Path, settings: QueueSettings | None = None) -> None:
        """Find the workers and the shards."""
        self.directory = queue_directory
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._settings = settings or QueueSettings()
        try:
            self._shards = listing.shards_in(queue_directory)
        except OSError as error:
            raise SpoolError(f"chdir {queue_directory}: {error.strerror}") from error
        self.workers = connect_all(queue_directory)
        self._listings: dict[int, Listing] = {}
        self._opened: dict[int, Shard] = {}
        self._owners: dict[int, Worker] | None = None
        self._looked_at: set[int] = set()  # shards whose index was found whole, or made anew
        self._active: list[str] | None = None
        self._loop = BareLoop()

    @property
    def down(self) -> bool:
        """Whether no worker answers."""
        return not self.workers

    @property
    def readable(self) -> bool:
        """Whether this user may read the shards."""
        return all(
            os.access(shard_directory(self.directory, number), os.R_OK | os.X_OK, effective_ids=True)
            for number in self._shards
        )

    @property
    def why_down(self) -> str:
        """As the operating system puts it."""
        leftovers = (self.directory / "public").is_dir() and any((self.directory / "public").glob("worker-*"))
        return os.strerror(errno.ECONNREFUSED if leftovers else errno.ENOENT)

    def __enter__(self) -> Spool:
        """Nothing more to do."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all that was opened."""
        for one in self._listings.values():
            one.close()
        for shard in self._opened.values():
            shard.close()
        for worker in self.workers:
            worker.close()

    # Reading

    def entries(self) -> Iterator[Entry]:
        """All messages: those in the active queue first; those on hold last, as Postfix lists them, if that is soon."""
        active = self._sync()
        for queue_id in active:
            entry = self._find(queue_id)
            if entry is not None and entry.queue != listing.HOLD:
                yield entry
        shown = frozenset(active)
        held: list[Entry] = []
        begin = time.monotonic()
        for number in self._shards:
            for entry in self._read(number):
                if entry.queue == listing.HOLD:
                    held.append(entry)
                    if len(held) >= _HELD_KEPT or time.monotonic() - begin > _HELD_PATIENCE:
                        yield from held  # to have begun is worth more than the order
                        held.clear()
                elif entry.envelope.queue_id not in shown:
                    yield entry
        yield from held

    def find(self, queue_id: str) -> Entry | None:
        """The message of that queue id."""
        self._sync()
        return self._find(queue_id)

    def content(self, entry: Entry) -> Iterator[bytes]:
        """Its content, in wire form."""
        queue_id = entry.envelope.queue_id
        try:
            yield self._listing(listing.shard_of(queue_id)).content(queue_id)
        except Damaged as error:
            raise SpoolError(str(error)) from error

    def _find(self, queue_id: str) -> Entry | None:
        number = listing.shard_of(queue_id)
        if number not in self._shards:
            return None
        try:
            return self._listing(number).find(queue_id)
        except _UNREADABLE as error:
            trouble: BaseException = error
        if self._repair(number):
            try:
                return self._listing(number).find(queue_id)
            except _UNREADABLE as error:
                trouble = error
        self._problem(number, trouble)
        return None

    def _read(self, number: int) -> Iterator[Entry]:
        last = ""
        repaired = False
        while True:
            try:
                for entry in self._listing(number).entries(last):
                    last = entry.envelope.queue_id
                    yield entry
                return
            except _UNREADABLE as error:
                if repaired or not self._repair(number):
                    self._problem(number, error)
                    return
                repaired = True

    def _repair(self, number: int) -> bool:
        """The index of a shard cannot be read: where nobody runs it, make it anew."""
        if number in self._opened or self._owner(number) is not None:
            return False
        reading = self._listings.pop(number, None)
        if reading is not None:
            reading.close()
        try:
            self._recover(number)
        except _UNREADABLE as error:
            self._problem(number, error)
            return False
        return True

    def _problem(self, number: int, error: BaseException) -> None:
        problem = f"cannot list all of {shard_directory(self.directory, number).name}: {error}"
        if problem not in self.problems:
            self.problems.append(problem)

    def _sync(self) -> list[str]:
        """Have the index brought up to date, once; the messages in the active queues."""
        if self._active is not None:
            return self._active
        self._active = []
        for worker in self.workers:
            try:
                worker.ask(Request(protocol.SYNC))
                self._active += worker.ask(Request(protocol.ACTIVE)).ids
            except (UnreachableError, RefusedError) as error:
                self.problems.append(str(error))
        return self._active

    def _listing(self, number: int) -> Listing:
        found = self._listings.get(number)
        if found is None:
            directory = shard_directory(self.directory, number)
            shard = self._opened.get(number)
            if shard is not None:
                shard.sync_index()
                found = Listing(directory, index=shard.index)
            else:
                active = frozenset(self._active or ())
                owned = self._owner(number) is not None
                found = Listing(directory, active, wary=not (owned or number in self._looked_at))
                if not found.is_current and not owned:
                    found.close()
                    self._recover(number)
                    found = Listing(directory, active)
                if found.is_missing and owned:
                    self._problem(number, IndexDamaged("its index is being made"))
            self._listings[number] = found
        return found

    def _recover(self, number: int) -> None:
        """Nobody runs this shard, and its last owner died: let its index catch up with its log."""
        try:
            self._open(number).close()
        except QueueLocked:
            return  # a worker is just starting on it
        del self._opened[number]
        self._looked_at.add(number)

    def _open(self, number: int) -> Shard:
        shard = self._opened.get(number)
        if shard is None:
            reading = self._listings.pop(number, None)
            if reading is not None:
                reading.close()
            shard = Shard(
                shard_directory(self.directory, number), number, self._settings, self.notes.append, self._loop
            )
            shard.open()
            self._opened[number] = shard
            while shard.recovering:
                self._loop.turn(1.0)
        return shard

    # Changing

    def apply(self, op: str, ids: list[str], queues: list[str]) -> list[str]:
        """An operation on these messages where they are in one of these queues ([]: in any); the ids it was done to."""
        by_shard: dict[int, list[str]] = {}
        for queue_id in ids:
            number = listing.shard_of(queue_id)
            if number in self._shards:
                by_shard.setdefault(number, []).append(queue_id)
        done: set[str] = set()
        for number, some in by_shard.items():
            done.update(self._apply(number, op, some, queues))
        return [queue_id for queue_id in dict.fromkeys(ids) if queue_id in done]

    def apply_where(self, op: str, queues: list[str], wanted: Callable[[Entry], bool] | None = None) -> int:
        """An operation on all messages of these queues, or those that are wanted; how many it was done to."""
        self._sync()
        count = 0
        for number in self._shards:
            if self._owner(number) is None:
                self._change(number)
            batch: list[str] = []
            for entry in self._read(number):
                if entry.queue in queues and (wanted is None or wanted(entry)):
                    batch.append(entry.envelope.queue_id)
                    if len(batch) == protocol.BATCH:
                        count += len(self._apply(number, op, batch, queues))
                        batch.clear()
            count += len(self._apply(number, op, batch, queues)) if batch else 0
        return count

    def _apply(self, number: int, op: str, ids: list[str], queues: list[str]) -> list[str]:
        owner = self._owner(number)
        if owner is not None:
            return owner.ask_about(op, ids, queues)
        shard = self._change(number)
        operation: Callable[[str], bool] = {
            protocol.HOLD: shard.hold,
            protocol.RELEASE: shard.release,
            protocol.DELETE: shard.delete,
            protocol.REQUEUE: shard.requeue,
            protocol.EXPIRE: shard.expire,
        }[op]
        done = []
        for queue_id in ids:
            if queues:
                message = shard.find(queue_id)
                if message is None or listing.queue_of(message) not in queues:
                    continue
            if operation(queue_id):
                done.append(queue_id)
        return done

    def _change(self, number: int) -> Shard:
        try:
            return self._open(number)
        except QueueLocked as error:
            raise SpoolError(f"{error}, and no worker answers for it: try again") from error

    def _owner(self, number: int) -> Worker | None:
        """The worker that has this shard."""
        if self._owners is None:
            self._owners = {}
            for worker in self.workers:
                status = worker.ask(Request(protocol.STATUS)).status
                for shard in status.shards if status is not None else ():
                    self._owners[shard.number] = worker
        return self._owners.get(number)
