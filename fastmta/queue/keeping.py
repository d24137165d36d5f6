"""The log side of a shard: messages and state changes become durable, and what is in memory knows of it.

The base of queue/shard.py's Shard. Records go to the commit thread (ext/commit.pyx); `_completed` is called when it has
news: messages that are durable get their place and their `done`; state changes and removals are passed on to behind.py,
which puts them into the index. State changes that could not be written ride in the next batch.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from fastmta._ext.commit import CommitThread
from fastmta._ext.records import MESSAGE, OUTCOME
from fastmta.model.message import Message, Place
from fastmta.queue.behind import Behind
from fastmta.queue.chores import Chores, Loop
from fastmta.queue.errors import Damaged, QueueFailed, QueueFull
from fastmta.queue.giving import Giving
from fastmta.queue.ids import Serials
from fastmta.queue.index import Index
from fastmta.queue.model import State, copy_state, encode, state_of
from fastmta.queue.reclaim import Reclaim
from fastmta.queue.recover import Recovery
from fastmta.queue.segments import Segments
from fastmta.queue.settings import QueueSettings

Done: TypeAlias = Callable[[BaseException | None], None]
FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
Kind = TypeVar("Kind")


def _again(waiting: dict[int, list[Kind]], sequence: int) -> None:
    """What waited for that batch waits for the next one."""
    items = waiting.pop(sequence, None)
    if items:
        waiting[sequence + 1] = items + waiting.get(sequence + 1, [])


def boot_id() -> str:
    """Changes when the machine starts: what was written without a sync before that may be lost."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


class Keeping:
    """What keeps messages."""

    log: CommitThread  # from open() on
    serials: Serials

    def __init__(
        self, directory: Path, number: int, settings: QueueSettings, notify: Callable[[str], None], loop: Loop
    ) -> None:
        """notify: gets one line of text for the log about what went wrong (damage, a failed sync)."""
        self.directory = directory
        self.number = number
        self.settings = settings
        self.notify = notify
        self.index: Index | None = None
        self.segments = Segments(number, directory / "log", directory.parent / "corrupt", notify)
        self._boot_id = boot_id()
        self.behind = Behind(self._boot_id)
        self.giving = Giving(self.behind, number)
        self.reclaim = Reclaim(self)
        self.recovery: Recovery | None = None
        self.failed: QueueFailed | None = None
        self._loop = loop
        self._chores = Chores(loop)
        self.closed = False
        self._rebuilding = False  # an index is about to be made from what is durable by then
        self._kick_pending = False
        self._collected = 0
        self._ticked = 0  # the segment that was being written at the last tick
        self._put_back = False
        self._content_bytes = 0
        self._notes: dict[int, list[tuple[Message, State]]] = {}
        self._tombs: dict[int, dict[int, int]] = {}
        self._removed: dict[int, list[str]] = {}

    def new_queue_id(self, now: float) -> str:
        """A queue id that never was. Raises OSError when the disk does not keep the count of them."""
        return self.serials.new_id(now)

    def has_space(self) -> bool:
        """Whether new mail may come in: as much is free on the disk as the settings ask for."""
        if self.log.free_bytes >= self.settings.minimum_free:
            return True
        space = os.statvfs(self.directory)
        return space.f_bavail * space.f_frsize >= self.settings.minimum_free

    def append(self, message: Message, done: Done) -> None:
        """Keep a message; done(None) when it is durable, then place and shard are filled in and the caller holds it."""
        if self.log.failed or self.closed or not self.has_space():
            self._loop.call_soon(done, self._refusal())
            return
        content = message.content
        assert content is not None
        self.submit(MESSAGE, encode((message.envelope, state_of(message))), content, (message, done))

    def submit(
        self, kind: int, meta: bytes, content: list[bytes], token: tuple[Message | None, Callable[..., None]]
    ) -> None:
        """Hand a record to the commit thread, which begins at the end of this turn of the loop.

        token: (message, done) for a new message; (None, moved) for one that moves: moved(place, error).
        """
        self.log.message(kind, meta, content, token)
        if not self._kick_pending:
            self._kick_pending = True
            self._loop.call_soon(self._kick)

    def _refusal(self) -> QueueFull | QueueFailed:
        if self.closed:
            return QueueFailed("the queue is closed")
        if self.log.failed:
            return QueueFailed(os.strerror(self.log.failed))
        return QueueFull("not enough free space")

    def _kick(self) -> None:
        self._kick_pending = False
        self.log.kick()

    def hurry(self) -> int:
        """Get going what has gathered; returns the last batch that must be waited for."""
        sequence = self.log.last_sequence
        self.log.kick()
        return sequence

    def record(self, message: Message) -> None:
        """Keep the state of a message, which stays with the caller."""
        if message.place is not None and message.envelope.queue_id not in self.behind.removing:
            self._record(message)

    def park(self, message: Message) -> None:
        """Keep the state of a message and let go of it: due() gives it out in its time, unless it is on hold."""
        queue_id = message.envelope.queue_id
        if message.place is None or queue_id in self.behind.removing:
            return
        sequence = self._record(message)
        if self.behind.loaded.pop(queue_id, None) is not None or queue_id in self.behind.fresh:
            self._drop_content(message)
            self.behind.parked[queue_id] = (message, sequence)
            self.giving.parked(message)

    def _record(self, message: Message) -> int:
        place = message.place
        assert place is not None
        state = copy_state(message)
        if self.reclaim.moving and message.envelope.queue_id in self.reclaim.moving:
            self.reclaim.moving[message.envelope.queue_id] = "changed"
        sequence = self.log.record(OUTCOME, encode((message.envelope.queue_id, place.segment, state)))
        self._notes.setdefault(sequence, []).append((message, state))
        return sequence

    def remove(self, message: Message) -> None:
        """All recipients are done: forget it. Once is enough; a second time does nothing."""
        place = message.place
        if place is None:
            return
        behind = self.behind
        queue_id = message.envelope.queue_id
        if message.content is not None:
            self._content_bytes -= place.length
        message.place = None
        if behind.parked:
            behind.parked.pop(queue_id, None)
        if behind.fresh.pop(queue_id, None) is None or self._rebuilding:
            behind.loaded.pop(queue_id, None)
            behind.removing.add(queue_id)
            if queue_id in self.reclaim.moving:
                self.reclaim.moving[queue_id] = "removed"
            else:
                self.bury(queue_id, place)
            return
        home = place.segment
        sequence = self.log.remove(queue_id, home)
        self.segments.count_out(home, place.length)
        tombs = self._tombs.get(sequence)
        if tombs is None:
            tombs = self._tombs[sequence] = {}
        tombs[home] = tombs.get(home, 0) + 1

    def bury(self, queue_id: str, place: Place) -> None:
        """Write the tombstone of a message that is in the index."""
        self.segments.count_out(place.segment, place.length)
        self._removed.setdefault(self.carry(queue_id, place.segment), []).append(queue_id)

    def carry(self, queue_id: str, home: int) -> int:
        """Write a tombstone; returns its batch."""
        sequence = self.log.remove(queue_id, home)
        tombs = self._tombs.setdefault(sequence, {})
        tombs[home] = tombs.get(home, 0) + 1
        return sequence

    def rewrite(self, message: Message) -> None:
        """Write its state anew, so that the former OUTCOME is not needed."""
        sequence = self._record(message)
        if not self.behind.is_held(message.queue_id):
            self.behind.parked[message.queue_id] = (message, sequence)
            self.giving.parked(message)

    def moved(self, message: Message, place: Place, changed: bool) -> None:
        """It has a new home; changed: its state was recorded for the old one meanwhile."""
        sequence = self._collected
        self.behind.note_state(message, place.segment, copy_state(message), sequence)
        if changed:
            sequence = self._record(message)
        if not self.behind.is_held(message.queue_id):
            self.behind.parked[message.queue_id] = (message, sequence)
            self.giving.parked(message)

    def give_up(self, message: Message) -> bool:
        """What is on disk is not what was written: set it aside, report it, take it out of the queue.

        False: it could not be set aside, and stays in the queue.
        """
        place = message.place
        assert place is not None
        what = f"{message.queue_id}: damaged message"
        if not self.segments.set_aside(place.segment, place.offset, place.length, what):
            return False
        self.remove(message)
        return True

    @property
    def durable(self) -> int:
        """The last batch whose state changes are on disk."""
        return self._chores.reached

    @property
    def busy(self) -> bool:
        """Whether something is under way in the background."""
        return self._chores.busy

    @property
    def unsettled(self) -> bool:
        """Whether state changes wait for a second attempt to write them."""
        return self._put_back

    def _completed(self) -> None:
        """The commit thread has news."""
        behind, number = self.behind, self.number
        trouble: Exception | None = None
        for sequence, segment, base, end, riders_error, entries in self.log.collect():
            if end > base:
                known = self.segments.grown(segment, end)
                behind.position = (segment, end)
                for token, place, _ in entries:
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
            self._collected = sequence
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
        if behind.position[0] > self._ticked:
            self.tick()  # so that the space to reclaim is a matter of segments, not of seconds
        if self._content_bytes > self.settings.memory_budget:
            self._shed()
        if self.log.failed and self.failed is None:
            self.failed = QueueFailed(os.strerror(self.log.failed))
            self.notify(f"queue shard {number}: fdatasync failed: {self.failed}: no new mail until a restart")
        if trouble is not None:
            raise trouble

    def tick(self) -> None:
        """Time to write the index and to reclaim."""
        raise NotImplementedError

    def _settle(self, sequence: int, segment: int, riders_error: int) -> None:
        """What rode in that batch is durable, or rides in the next one."""
        self._put_back = riders_error != 0
        if riders_error:
            _again(self._notes, sequence)
            _again(self._removed, sequence)
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
        """The content in wire form, from memory or from its segment.

        Raises Damaged: it is out of the queue, or stays there because there is no copy of it; OSError: it may be
        readable another time.
        """
        if message.content is not None:
            return message.content
        place = message.place
        if place is None:
            raise Damaged(f"{message.queue_id} is not in the queue")
        record = self.segments.read(place)
        if record is None:
            self.give_up(message)
            raise Damaged(f"{message.queue_id}: damaged in the queue")
        content = [record[2]]
        if self._content_bytes + place.length <= self.settings.memory_budget and self.behind.is_held(message.queue_id):
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

    def _wait(self, sequence: int) -> None:
        """Block until that batch was written, well or badly."""
        poll = select.poll()
        poll.register(self.log.fileno(), select.POLLIN)
        while self._collected < sequence:
            poll.poll()
            self._completed()
