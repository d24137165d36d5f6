"""One shard of the queue: a folder of messages that one process owns, from open() to close().

Used by queue/store.py, which dispatches to it. A folder with the lock, the log (log/*.seg), the index (index/), the
serials; the process that holds the lock owns it. Calls happen on the event loop and never wait for a sync; the only
disk reads there are those of LMDB and of contents that are not in memory.

The life of a message: append() -> in memory, held by the caller -> remove(), or park(): then nobody holds it, and
due() gives it out again in its time. What goes to the log is in keeping.py, what comes out of the index in giving.py.

Raises QueueLocked, Damaged, OSError; `done` of append gets QueueFull or QueueFailed.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb

from fastmta._ext.commit import CommitThread
from fastmta.model.message import FLAG_EXPIRE, FLAG_HOLD, Message
from fastmta.queue.behind import TRIM
from fastmta.queue.chores import PAUSE, Chore, Loop
from fastmta.queue.errors import QueueLocked
from fastmta.queue.ids import FIRST_SERIAL, Serials
from fastmta.queue.index import Index, IndexDamaged
from fastmta.queue.keeping import Keeping
from fastmta.queue.recover import INDEX_OPENED, Recovery
from fastmta.queue.settings import QueueSettings

ROUNDS: Final = 8
RECOVERY_PAUSE: Final = 5.0  # seconds before a recovery that failed is tried again
DAMAGED: Final = (IndexDamaged, lmdb.Error)


class Shard(Keeping):
    """A shard that this process owns between open() and close()."""

    def __init__(
        self, directory: Path, number: int, settings: QueueSettings, notify: Callable[[str], None], loop: Loop
    ) -> None:
        """notify: gets one line of text for the log about what went wrong (damage, a failed sync)."""
        super().__init__(directory, number, settings, notify, loop)
        self._lock = -1
        self._when_recovered: list[Callable[[], None]] = []

    # Opening and closing

    def open(self) -> None:
        """Lock it, start the commit thread and begin to recover what is there: new mail can come at once.

        Raises QueueLocked, OSError.
        """
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            self._lock = -1
            raise QueueLocked(f"{self.directory} is in use") from error
        try:
            self._open()
        except BaseException:
            os.close(self._lock)  # another one, or another time, may have more luck
            self._lock = -1
            raise

    def _open(self) -> None:
        self.segments.load()
        newest = max(self.segments, default=0)
        self.serials = Serials(
            self.directory, self.number, self.settings.long_queue_ids, FIRST_SERIAL if not newest else newest << 20
        )
        self.log = CommitThread(
            str(self.segments.directory),
            self.number,
            newest + 1,
            segment_size=self.settings.segment_size,
            lazy=self.settings.lazy,
            reserve=str(self.directory / "reserve"),
            reserve_size=self.settings.reserve,
        )
        self.behind.position = (newest + 1, 0)
        self._loop.add_reader(self.log.fileno(), self._completed)
        self._chores.add(self._recover(self._new_recovery(), trust_index=True, count=True))

    def close(self) -> None:
        """Make everything durable, bring the index up to date, unlock. What is in memory stays in the queue."""
        if self._lock < 0:
            return
        self.closed = True
        self._chores.clear()
        self.segments.join()
        for _ in range(ROUNDS):  # what completes may bring more
            if self._collected >= (last := self.hurry()):
                break
            self._wait(last)
        self._loop.remove_reader(self.log.fileno())
        self.log.close()
        self._completed()
        if self.index is not None:
            if self.recovery is None and not self.log.failed:
                try:
                    self.behind.close(self.index)
                    (self.directory / INDEX_OPENED).unlink(missing_ok=True)
                    if self.index.count() == 0:
                        self.reclaim.clear()
                    self.index.sync()
                except Exception as error:  # the log has it all
                    self.notify(f"queue shard {self.number}: index not brought up to date: {error}")
            self.index.close()
            self.index = None
        if self.recovery is not None:
            self.recovery.stop()
            self.recovery = None
        self.serials.close()
        self.segments.close()
        os.close(self._lock)
        self._lock = -1

    @property
    def recovering(self) -> bool:
        """Whether what was there at the start is still being found; until then due() gives nothing."""
        return self.recovery is not None or self._rebuilding

    def _new_recovery(self) -> Recovery:
        self.recovery = Recovery(
            self.directory / "index", self.segments, self.settings, self.behind, self._boot_id, self.notify
        )
        return self.recovery

    def _recover(self, recovery: Recovery, trust_index: bool, count: bool) -> Chore:
        self._chores.hurried = True
        try:
            yield from recovery.run(trust_index, count)
        except (OSError, lmdb.Error) as error:  # the disk may be full now: what waits for it waits a little longer
            self.notify(f"queue shard {self.number}: cannot make its index: {error}: trying again")
            recovery.stop()
            self._loop.call_later(RECOVERY_PAUSE, self._recover_again, recovery, trust_index, count)
            return
        finally:
            self._chores.hurried = False
        self.index = recovery.index
        self.recovery = None
        self.giving.restart()
        waiting, self._when_recovered = self._when_recovered, []
        for done in waiting:
            self._loop.call_soon(self.sync_index, done)

    def _recover_again(self, recovery: Recovery, trust_index: bool, count: bool) -> None:
        if recovery is self.recovery:
            self._chores.add(self._recover(recovery, trust_index, count))

    def _index_failed(self, error: Exception, index: Index | None) -> None:
        """The index could not be written, which is for another time, or is damaged: then make it anew."""
        if index is None or index is not self.index:
            return  # it is being made anew
        if isinstance(error, lmdb.DiskError | lmdb.MapFullError):
            self.notify(f"queue shard {self.number}: cannot write the index: {error}")
            return
        self.notify(f"queue shard {self.number}: index damaged ({error}): rebuilding it from the log")
        index.close()
        self.index = None
        self._chores.clear()
        self._rebuilding = True
        self._chores.add(self._rebuild())

    def _rebuild(self) -> Chore:
        # What is under way comes first: moves, and the tombstones of messages that were never in the index.
        yield self.hurry()
        self._rebuilding = False
        self.behind.restart()
        yield from self._recover(self._new_recovery(), trust_index=False, count=False)

    # Giving out: see giving.py

    def due(self, now: float, limit: int) -> list[Message]:
        """Up to limit messages whose next attempt has come, not held nor on hold; the caller holds them then."""
        if self.index is None or limit <= 0:
            return []
        try:
            found = self.giving.due(self.index, now, limit)
            self.index.trim(TRIM)
            return found
        except DAMAGED as error:
            self._index_failed(error, self.index)
            return []

    def next_due(self) -> float | None:
        """When due() has something again, Unix time; None when nothing waits."""
        try:
            return self.giving.next_due(self.index)
        except DAMAGED as error:
            self._index_failed(error, self.index)
            return None

    def flush(self) -> None:
        """Begin a walk over all that is in the queue now."""
        self.giving.flush(self.index)

    def flushed(self, limit: int) -> list[Message] | None:
        """The next messages of that walk, not held nor on hold; the caller holds them then. None: the end."""
        if self.index is None:
            return [] if self.recovering else None
        try:
            return self.giving.flushed(self.index, limit)
        except DAMAGED as error:
            self._index_failed(error, self.index)
            return None

    def find(self, queue_id: str) -> Message | None:
        """The message of that queue id, as it is now; the caller does not hold it by that."""
        try:
            return self.giving.find(self.index, queue_id)
        except DAMAGED as error:
            self._index_failed(error, self.index)
            return None

    def take(self, queue_id: str) -> Message | None:
        """The message of that queue id if nobody holds it; the caller holds it then."""
        message = self.find(queue_id)
        if message is None or self.behind.is_held(queue_id):
            return None
        return self.giving.hold(message)

    def held(self) -> list[Message]:
        """All messages that somebody holds, for the sweep that looks for those without an owner."""
        behind = self.behind
        fresh = [message for queue_id, message in behind.fresh.items() if queue_id not in behind.parked]
        return [*behind.loaded.values(), *fresh]

    # Orders, for messages that nobody holds. They answer whether there was something to do.

    def hold(self, queue_id: str) -> bool:
        """Put it on hold."""
        return self._order(queue_id, lambda message: not message.flags & FLAG_HOLD, set_flags=FLAG_HOLD)

    def release(self, queue_id: str) -> bool:
        """Release it; it is due at once."""
        return self._order(queue_id, lambda message: bool(message.flags & FLAG_HOLD), clear_flags=FLAG_HOLD, now=True)

    def expire(self, queue_id: str) -> bool:
        """Mark it for forced expiration."""
        return self._order(queue_id, lambda message: not message.flags & FLAG_EXPIRE, set_flags=FLAG_EXPIRE)

    def requeue(self, queue_id: str) -> bool:
        """Forget its reasons; it is released and due at once."""
        return self._order(queue_id, lambda _: True, clear_flags=FLAG_HOLD, now=True, forget=True)

    def delete(self, queue_id: str) -> bool:
        """Remove it."""
        message = self.take(queue_id)
        if message is None:
            return False
        self.remove(message)
        return True

    def _order(
        self,
        queue_id: str,
        wanted: Callable[[Message], bool],
        set_flags: int = 0,
        clear_flags: int = 0,
        now: bool = False,
        forget: bool = False,
    ) -> bool:
        message = self.take(queue_id)
        if message is None:
            return False
        todo = wanted(message)
        if todo:
            message.flags = (message.flags | set_flags) & ~clear_flags
            if now:
                message.next_attempt = time.time()
            if forget:
                message.attempts = 0
                message.deferred = None
        self.park(message)
        return todo

    # Housekeeping

    @property
    def empty(self) -> bool:
        """Whether there is no message, and nothing under way."""
        behind = self.behind
        return (
            self.index is not None
            and not (behind.fresh or behind.loaded or behind.parked or behind.removing or self._chores.busy)
            and self.index.count() == 0
        )

    def tick(self) -> None:
        """To be called every settings.index_interval seconds; a segment that became full is an occasion too."""
        if self._index_is_gone():
            return
        if self.index is not None and not self._chores.busy and (not self.behind.idle or self.reclaim.due()):
            self._ticked = self.behind.position[0]
            self._chores.add(self._cycle(self.index))

    def sync_index(self, done: Callable[[], None] | None = None) -> None:
        """All state so far becomes visible to readers of the index; then done() is called, without it this waits.

        On a full disk what can not be written is not visible. While the shard recovers this waits for the end of that.
        """
        self._index_is_gone()
        if self.index is not None:
            self._chores.add(self._show(self.index, done), first=True)
        elif done is not None:
            if self.recovering:
                self._when_recovered.append(done)
            else:
                done()
        if done is None:
            self._chores.finish(self._wait)

    def _index_is_gone(self) -> bool:
        """Whether somebody took the index away: then it is being made anew."""
        index = self.index
        if index is None or index.in_place:
            return False
        self._index_failed(IndexDamaged("its file is gone"), index)
        return True

    def _show(self, index: Index, done: Callable[[], None] | None) -> Chore:
        self._chores.hurried = True
        try:
            for _ in range(ROUNDS):  # what completes may bring more
                if self._collected >= (last := self.hurry()):
                    break
                if done is None:
                    self._wait(last)
                while self._collected < last:
                    yield PAUSE
            if not self.unsettled:
                yield from self.behind.show(index)
        except DAMAGED as error:
            self._loop.call_soon(self._index_failed, error, index)
        finally:
            self._chores.hurried = False
            if done is not None:
                done()

    def _cycle(self, index: Index) -> Chore:
        try:
            yield from self.behind.cycle(index, self.hurry)
            (self.directory / INDEX_OPENED).unlink(missing_ok=True)
            for _ in range(ROUNDS):
                if not self.reclaim.due() or not (yield from self.reclaim.run(index)):
                    break
                yield self.hurry()
                yield from self.behind.changes(index)
            index.trim(TRIM)
        except DAMAGED as error:
            self._loop.call_soon(self._index_failed, error, index)
        except OSError as error:
            self.notify(f"queue shard {self.number}: cannot reclaim space: {error}")
