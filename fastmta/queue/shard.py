"""One shard of the queue: keeps messages durably, gives them out when their next attempt has come, forgets them when done.

Used by queue/store.py, which dispatches to it. A folder with the lock, the log (log/*.seg), the index (index/), the serials; the
process that holds the lock owns it. Calls happen on the event loop and never wait for a sync; the only disk reads there
are those of LMDB and of contents that are not in memory.

The life of a message: append() -> in memory, held by the caller -> remove(), or record() with a next attempt in the future
(or FLAG_HOLD): then the holder has let go of it, and due() gives it out again in its time.

Raises QueueLocked, Damaged, OSError; `done` of append gets QueueFull or QueueFailed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from fastmta._ext.commit import CommitThread
from fastmta._ext.records import MESSAGE, OUTCOME
from fastmta.model.envelope import Envelope
from fastmta.model.message import FLAG_EXPIRE, FLAG_HOLD, Message, Place
from fastmta.queue.behind import Behind
from fastmta.queue.chores import Chore, Chores, Loop
from fastmta.queue.errors import Damaged, QueueFailed, QueueFull, QueueLocked
from fastmta.queue.ids import FIRST_SERIAL, Serials
from fastmta.queue.index import FIRST, Index, IndexDamaged
from fastmta.queue.model import State, encode, message_of, state_of
from fastmta.queue.recover import Recovery
from fastmta.queue.segments import Segments
from fastmta.queue.settings import QueueSettings

Done: TypeAlias = Callable[[BaseException | None], None]
Match: TypeAlias = Callable[[Envelope], bool]

FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
NUMBER_END: Final = b"\xff" * 8


def boot_id() -> str:
    """Changes when the machine starts: what was written without a sync before that may be lost."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class Shard:
    """A shard that this process owns between open() and close()."""

    def __init__(
        self, directory: Path, number: int, settings: QueueSettings, notify: Callable[[str], None], loop: Loop
    ) -> None:
        """notify: gets one line of text for the log about what went wrong (damage, a failed sync)."""
        self.directory = directory
        self.number = number
        self.settings = settings
        self.notify = notify
        self.log: CommitThread
        self.index: Index | None = None
        self.segments = Segments(number, directory / "log", directory.parent / "corrupt", notify)
        self._boot_id = boot_id()
        self.behind = Behind(self.segments, self._boot_id)
        self.recovery: Recovery | None = None
        self.failed: QueueFailed | None = None
        self._loop = loop
        self._chores = Chores(loop)
        self._lock = -1
        self._kick_pending = False
        self._full_since = 0.0
        self._content_bytes = 0
        self._notes: dict[int, list[tuple[Message, State | None]]] = {}
        self._tombs: dict[int, dict[int, int]] = {}
        self._removed: dict[int, list[str]] = {}
        self._floor = (FIRST, b"")
        self._soonest_parked = float("inf")
        self._flush_after: bytes | None = None
        self._flush_end = b""
        self._flush_match: Match | None = None

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
        self.segments.load()
        newest = max(self.segments, default=0)
        self._serials = Serials(
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
        self._recover(trust_index=True, count=True)

    def close(self) -> None:
        """Make everything durable, bring the index up to date, unlock. What is in memory stays in the queue."""
        if self._lock < 0:
            return
        self._chores.clear()
        self._loop.remove_reader(self.log.fileno())
        self.log.close()
        self._completed()
        if self.index is not None:
            if self.recovery is None and not self.log.failed:
                try:
                    self.behind.everything(self.index)
                    self.index.sync()
                except Exception as error:  # the log has it all
                    self.notify(f"queue shard {self.number}: index not brought up to date: {error}")
            self.index.close()
            self.index = None
        if self.recovery is not None:
            self.recovery.stop()
            self.recovery = None
        self._serials.close()
        self.segments.close()
        os.close(self._lock)
        self._lock = -1

    @property
    def recovering(self) -> bool:
        """Whether what was there at the start is still being found; until then due() gives nothing."""
        return self.recovery is not None

    def _recover(self, trust_index: bool, count: bool) -> None:
        self.recovery = Recovery(
            self.directory / "index", self.segments, self.settings, self.behind, self._boot_id, self.notify
        )
        self._chores.add(self._recovering(self.recovery, trust_index, count))

    def _recovering(self, recovery: Recovery, trust_index: bool, count: bool) -> Chore:
        yield from recovery.run(trust_index, count)
        self.index = recovery.index
        self.recovery = None
        self._floor = (FIRST, b"")

    def _index_lost(self, error: Exception) -> None:
        """The index turned out to be damaged: make it anew."""
        self.notify(f"queue shard {self.number}: index damaged ({error}): rebuilding it from the log")
        if self.index is not None:
            self.index.close()
            self.index = None
        self._chores.clear()
        self.behind.restart()
        self._recover(trust_index=False, count=False)

    # Keeping

    def new_queue_id(self, now: float) -> str:
        """A queue id that never was. Raises OSError when the disk does not keep the count of them."""
        return self._serials.new_id(now)

    def has_space(self) -> bool:
        """Whether new mail may come in: as much is free on the disk as the settings ask for."""
        if self.log.free_bytes >= self.settings.minimum_free:
            return True
        now = time.monotonic()
        if now - self._full_since > 1.0:
            self._full_since = now
            space = os.statvfs(self.directory)
            self._free = space.f_bavail * space.f_frsize
        return self._free >= self.settings.minimum_free

    def append(self, message: Message, done: Done) -> None:
        """Keep a message; done(None) when it is durable, then place and shard are filled in and the caller holds it."""
        if self.log.failed or not self.has_space():
            self._loop.call_soon(done, self._refusal())
            return
        content = message.content
        assert content is not None
        self.log.message(MESSAGE, encode((message.envelope, state_of(message))), content, (message, done))
        if not self._kick_pending:
            self._kick_pending = True
            self._loop.call_soon(self._kick)

    def _refusal(self) -> QueueFull | QueueFailed:
        if self.log.failed:
            return QueueFailed(os.strerror(self.log.failed))
        return QueueFull("not enough free space")

    def _kick(self) -> None:
        self._kick_pending = False
        self.log.kick()

    def _hurry(self) -> int:
        """Get going what has gathered; returns the last batch that must be waited for."""
        sequence = self.log.last_sequence
        self.log.kick()
        return sequence

    def record(self, message: Message) -> None:
        """Keep the state of a message. With a next attempt in the future, or FLAG_HOLD, the caller has let go of it."""
        place = message.place
        queue_id = message.envelope.queue_id
        if place is None or queue_id in self.behind.removing:
            return
        state = state_of(message)
        kept = (
            None
            if state is None
            else State(
                state.flags,
                state.next_attempt,
                state.attempts,
                None if state.done is None else bytearray(state.done),
                None if state.deferred is None else dict(state.deferred),
            )
        )
        sequence = self.log.record(OUTCOME, encode((queue_id, place.segment, kept or State())))
        self._notes.setdefault(sequence, []).append((message, kept))
        if message.flags & FLAG_HOLD or message.next_attempt > time.time():
            self._park(message, sequence)

    def _park(self, message: Message, sequence: int) -> None:
        queue_id = message.envelope.queue_id
        if self.behind.loaded.pop(queue_id, None) is None and queue_id not in self.behind.fresh:
            return
        self._drop_content(message)
        self.behind.parked[queue_id] = (message, sequence)
        if not message.flags & FLAG_HOLD and message.next_attempt < self._soonest_parked:
            self._soonest_parked = message.next_attempt

    def remove(self, message: Message) -> None:
        """All recipients are done: forget it. Once is enough; a second time does nothing."""
        place = message.place
        if place is None:
            return
        behind = self.behind
        queue_id = message.envelope.queue_id
        home = place.segment
        if behind.fresh.pop(queue_id, None) is None:
            if queue_id in behind.removing:
                return
            behind.loaded.pop(queue_id, None)
            behind.parked.pop(queue_id, None)
            behind.removing.add(queue_id)
            sequence = self.log.remove(queue_id, home)
            self._removed.setdefault(sequence, []).append(queue_id)
        else:
            if behind.parked:
                behind.parked.pop(queue_id, None)
            sequence = self.log.remove(queue_id, home)
        message.place = None
        self.segments.count_out(home, place.length)
        if message.content is not None:
            self._content_bytes -= place.length
        tombs = self._tombs.get(sequence)
        if tombs is None:
            tombs = self._tombs[sequence] = {}
        tombs[home] = tombs.get(home, 0) + 1

    def _completed(self) -> None:
        """The commit thread has news."""
        behind, number = self.behind, self.number
        trouble: Exception | None = None
        for sequence, segment, base, end, riders_error, entries in self.log.collect():
            if end > base:
                known = self.segments.grown(segment, end)
                behind.position = (segment, end)
                for token, place, error in entries:
                    message, done = token
                    if place is None:
                        continue
                    if message is None:
                        known.live += 1
                        known.live_bytes += place.length
                        continue
                    message.place = place
                    message.shard = number
                    behind.fresh[message.envelope.queue_id] = message
                    known.live += 1
                    known.live_bytes += place.length
                    self._content_bytes += place.length
            self._settle(sequence, segment, riders_error)
            for token, place, error in entries:
                message, done = token
                try:
                    if message is None:
                        done(place, error)
                    elif place is not None:
                        done(None)
                    elif error in FULL:
                        done(QueueFull(os.strerror(error)))
                    else:
                        done(QueueFailed(os.strerror(error)))
                except Exception as exception:
                    trouble = exception
        if self._content_bytes > self.settings.memory_budget:
            self._shed()
        if self.log.failed and self.failed is None:
            self.failed = QueueFailed(os.strerror(self.log.failed))
            self.notify(f"queue shard {number}: fdatasync failed: {self.failed}: no new mail until a restart")
        if trouble is not None:
            raise trouble

    def _settle(self, sequence: int, segment: int, riders_error: int) -> None:
        """What rode in that batch is durable, or rides in the next one."""
        if riders_error:
            for waiting in (self._notes, self._removed):
                again = waiting.pop(sequence, None)
                if again:
                    waiting[sequence + 1] = again + waiting.get(sequence + 1, [])  # type: ignore[index,assignment,operator]
            homes = self._tombs.pop(sequence, None)
            if homes:
                following = self._tombs.setdefault(sequence + 1, {})
                for home, count in homes.items():
                    following[home] = following.get(home, 0) + count
            return
        homes = self._tombs.pop(sequence, None)
        if homes:
            for home, count in homes.items():
                if home != segment:
                    tombs = self.segments.grown(segment, 0).tombs
                    if tombs is not None and home in self.segments:
                        tombs[home] = tombs.get(home, 0) + count
        for message, state in self._notes.pop(sequence, ()):
            self.behind.note_state(message, segment, state, sequence)
        for queue_id in self._removed.pop(sequence, ()):
            self.behind.note_removed(queue_id)
        self._chores.durable(sequence)

    # Contents

    def content(self, message: Message) -> list[bytes]:
        """The content in wire form, from memory or from its segment. Raises Damaged: then it is out of the queue."""
        if message.content is not None:
            return message.content
        place = message.place
        if place is None:
            raise Damaged(f"{message.queue_id} is not in the queue")
        try:
            record = self.segments.read(place)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIO):
                raise
            record = None
        if record is None:
            self.segments.set_aside(place.segment, place.offset, place.length, f"{message.queue_id}: damaged message")
            self.remove(message)
            raise Damaged(f"{message.queue_id}: damaged in the queue")
        content = [record[2]]
        if self._content_bytes + place.length <= self.settings.memory_budget and self._held(message.queue_id):
            message.content = content
            self._content_bytes += place.length
        return content

    def _drop_content(self, message: Message) -> None:
        if message.content is not None and message.place is not None:
            self._content_bytes -= message.place.length
            message.content = None

    def _shed(self) -> None:
        """Over the budget: drop contents, oldest first, to three quarters of it."""
        goal = self.settings.memory_budget * 3 // 4
        for held in (self.behind.loaded, self.behind.fresh):
            for message in held.values():
                if self._content_bytes <= goal:
                    return
                self._drop_content(message)

    # Giving out

    def _held(self, queue_id: str) -> bool:
        behind = self.behind
        return queue_id in behind.loaded or (queue_id in behind.fresh and queue_id not in behind.parked)

    def _unpark(self, message: Message) -> Message:
        behind = self.behind
        queue_id = message.envelope.queue_id
        behind.parked.pop(queue_id, None)
        if queue_id not in behind.fresh:
            behind.loaded[queue_id] = message
        return message

    def due(self, now: float, limit: int) -> list[Message]:
        """Up to limit messages whose next attempt has come and that nobody holds; the caller holds them then."""
        found: list[Message] = []
        index = self.index
        if index is None or limit <= 0:
            return found
        behind = self.behind
        if self._soonest_parked <= now:
            for message, _ in list(behind.parked.values()):
                if len(found) < limit and message.next_attempt <= now and not message.flags & FLAG_HOLD:
                    found.append(self._unpark(message))
            self._soonest_parked = min(
                (m.next_attempt for m, _ in behind.parked.values() if not m.flags & FLAG_HOLD), default=float("inf")
            )
        try:
            self._due_rows(index, now, limit, found)
            if self._flush_after is not None and len(found) < limit:
                self._flush_rows(index, limit, found)
        except IndexDamaged as error:
            self._index_lost(error)
        return found

    def _due_rows(self, index: Index, now: float, limit: int, found: list[Message]) -> None:
        self._lower_floor()
        while len(found) < limit:
            rows = index.due(self._floor, int(now), min(limit - len(found), 256))
            for second, number, entry in rows:
                self._floor = (second, (int.from_bytes(number, "big") + 1).to_bytes(8, "big"))
                self._give(entry.envelope.queue_id, entry, found)
            if not rows:
                return

    def _flush_rows(self, index: Index, limit: int, found: list[Message]) -> None:
        assert self._flush_after is not None
        looked = 0
        while len(found) < limit and looked < 2048:
            rows = index.entries(self._flush_after, min(limit - len(found), 256))
            if not rows or rows[0][0] > self._flush_end:
                self._flush_after = None
                return
            looked += len(rows)
            self._flush_after = rows[-1][0]
            for _, entry in rows:
                if entry.state is not None and entry.state.flags & FLAG_HOLD:
                    continue
                if self._flush_match is None or self._flush_match(entry.envelope):
                    self._give(entry.envelope.queue_id, entry, found)

    def _give(self, queue_id: str, entry, found: list[Message]) -> None:  # type: ignore[no-untyped-def]
        behind = self.behind
        if queue_id in behind.loaded or queue_id in behind.fresh or queue_id in behind.removing:
            return
        if queue_id in behind.parked:
            return
        message = behind.loaded[queue_id] = message_of(entry, self.number)
        found.append(message)

    def _lower_floor(self) -> None:
        lowest = self.behind.lowest_due
        if lowest is not None:
            self.behind.lowest_due = None
            if lowest < self._floor[0] or (lowest == self._floor[0] and self._floor[1]):
                self._floor = (lowest, b"")

    def next_due(self) -> float | None:
        """When due() has something again, Unix time; None when nothing waits."""
        soonest = self._soonest_parked
        if self.index is not None:
            if self._flush_after is not None:
                return 0.0
            self._lower_floor()
            second = self.index.first_due(self._floor)
            if second is not None and second < soonest:
                soonest = float(second)
        return None if soonest == float("inf") else soonest

    def find(self, queue_id: str) -> Message | None:
        """The message of that queue id, as it is now; the caller does not hold it by that."""
        behind = self.behind
        if queue_id in behind.removing:
            return None
        message = behind.fresh.get(queue_id) or behind.loaded.get(queue_id)
        if message is not None:
            return message
        parked = behind.parked.get(queue_id)
        if parked is not None:
            return parked[0]
        if self.index is None:
            return None
        try:
            entry = self.index.get(queue_id)
        except IndexDamaged as error:
            self._index_lost(error)
            return None
        return None if entry is None else message_of(entry, self.number)

    def held(self) -> list[Message]:
        """All messages that somebody holds, for the sweep that looks for those without an owner."""
        behind = self.behind
        fresh = [message for queue_id, message in behind.fresh.items() if queue_id not in behind.parked]
        return [*behind.loaded.values(), *fresh]

    # Housekeeping

    def tick(self) -> None:
        """To be called every settings.index_interval seconds."""
        if self.index is not None and not self._chores.busy and not self.behind.idle:
            self._chores.add(self._cycle(self.index))

    def _cycle(self, index: Index) -> Chore:
        try:
            yield from self.behind.cycle(index, self._hurry)
        except IndexDamaged as error:
            self._loop.call_soon(self._index_lost, error)
            return
        index.trim(5000)
