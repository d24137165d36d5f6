"""The shards of one worker, as one queue: new messages go to the primary shard, all else to the message's own.

Made by master/worker.py, used by cleanup/ (append), qmgr/ (the rest) and bounce/ (append). A worker may take over
shards that nobody owns (`adopt`): a worker died, or there are fewer than before. It gives an adopted shard up again
when that is empty. Raises what queue/shard.py raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fastmta._ext.records import id_number
from fastmta.model.message import Message
from fastmta.queue.chores import Loop, Timer
from fastmta.queue.errors import QueueLocked
from fastmta.queue.ids import SHARDS_MOST
from fastmta.queue.keeping import Done
from fastmta.queue.settings import QueueSettings, shard_directory
from fastmta.queue.shard import Shard


class Store:
    """The worker's part of the queue."""

    def __init__(
        self,
        queue_directory: Path,
        settings: QueueSettings,
        primary: int,
        notify: Callable[[str], None],
        loop: Loop,
    ) -> None:
        """primary: the shard for new messages. notify: gets a line of text about damage and failures."""
        self.shards: dict[int, Shard] = {}
        self._queue_directory = queue_directory
        self._settings = settings
        self._notify = notify
        self._loop = loop
        self._primary_number = primary
        self._primary: Shard
        self._timer: Timer | None = None
        self._turn = 0

    # Life

    def open(self) -> None:
        """Open the primary shard. Raises QueueLocked when another process has it, OSError."""
        self._primary = self._open(self._primary_number)
        self._timer = self._loop.call_later(self._settings.index_interval, self._tick)

    def adopt(self, candidates: Iterable[int]) -> bool:
        """Take over those shards that have mail and that nobody owns; True when there was one."""
        taken = False
        for number in candidates:
            if number in self.shards or not self._has_mail(number):
                continue
            try:
                self._open(number)
                taken = True
            except QueueLocked:
                continue
            except OSError as error:
                self._notify(f"queue shard {number} not taken over: {error}")
        return taken

    def close(self) -> None:
        """Close all shards; what is in memory stays in the queue."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for shard in self.shards.values():
            shard.close()
        self.shards.clear()

    @property
    def recovering(self) -> bool:
        """Whether a shard does not give its messages out yet."""
        return any(shard.recovering for shard in self.shards.values())

    def _open(self, number: int) -> Shard:
        shard = Shard(shard_directory(self._queue_directory, number), number, self._settings, self._notify, self._loop)
        shard.open()
        self.shards[number] = shard
        return shard

    def _has_mail(self, number: int) -> bool:
        log = shard_directory(self._queue_directory, number) / "log"
        return log.is_dir() and any(path.suffix == ".seg" for path in log.iterdir())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._settings.index_interval, self._tick)
        for number, shard in list(self.shards.items()):
            shard.tick()
            if number != self._primary_number and shard.empty:
                del self.shards[number]
                shard.close()

    # In

    def new_queue_id(self, now: float) -> str:
        """A queue id that never was."""
        return self._primary.new_queue_id(now)

    def has_space(self) -> bool:
        """Whether new mail may come in."""
        return self._primary.has_space()

    def append(self, message: Message, done: Done) -> None:
        """Keep a message; done(None) when it is durable, done(QueueFull | QueueFailed) when it was not kept."""
        self._primary.append(message, done)

    # For the holder of a message

    def record(self, message: Message) -> None:
        """Keep the state of a message, which stays with the caller."""
        self.shards[message.shard].record(message)

    def park(self, message: Message) -> None:
        """Keep the state of a message and let go of it."""
        self.shards[message.shard].park(message)

    def remove(self, message: Message) -> None:
        """All recipients are done: forget it."""
        self.shards[message.shard].remove(message)

    def content(self, message: Message) -> list[bytes]:
        """The content in wire form. Raises Damaged."""
        if message.content is not None:
            return message.content
        return self.shards[message.shard].content(message)

    # Out

    def due(self, now: float, limit: int) -> list[Message]:
        """Up to limit messages whose next attempt has come, fairly from all shards; the caller holds them."""
        found: list[Message] = []
        shards = list(self.shards.values())
        self._turn += 1
        for k in range(len(shards)):
            room = limit - len(found)
            if room <= 0:
                break
            share = room if k == len(shards) - 1 else max(1, room // (len(shards) - k))
            found += shards[(self._turn + k) % len(shards)].due(now, share)
        return found

    def next_due(self) -> float | None:
        """When the next message is due; None when none waits."""
        times = [time for shard in self.shards.values() if (time := shard.next_due()) is not None]
        return min(times, default=None)

    def flush(self) -> None:
        """Begin a walk over all that is in the queue now."""
        for shard in self.shards.values():
            shard.flush()

    def flushed(self, limit: int) -> list[Message] | None:
        """The next messages of that walk that nobody holds; the caller holds them. None: the end."""
        found: list[Message] = []
        more = False
        for shard in self.shards.values():
            if len(found) >= limit:
                return found
            given = shard.flushed(limit - len(found))
            if given is not None:
                more = True
                found += given
        return found if more else None

    def held(self) -> list[Message]:
        """All messages that somebody holds."""
        return [message for shard in self.shards.values() for message in shard.held()]

    # By queue id

    def _shard_of(self, queue_id: str) -> Shard | None:
        number = id_number(queue_id)
        return self.shards.get(number % SHARDS_MOST) if number >= 0 else None

    def find(self, queue_id: str) -> Message | None:
        """The message of that queue id, as it is now."""
        shard = self._shard_of(queue_id)
        return None if shard is None else shard.find(queue_id)

    def take(self, queue_id: str) -> Message | None:
        """The message of that queue id if nobody holds it; the caller holds it then."""
        shard = self._shard_of(queue_id)
        return None if shard is None else shard.take(queue_id)

    def hold(self, queue_id: str) -> bool:
        """Put it on hold."""
        shard = self._shard_of(queue_id)
        return shard is not None and shard.hold(queue_id)

    def release(self, queue_id: str) -> bool:
        """Release it; it is due at once."""
        shard = self._shard_of(queue_id)
        return shard is not None and shard.release(queue_id)

    def delete(self, queue_id: str) -> bool:
        """Remove it."""
        shard = self._shard_of(queue_id)
        return shard is not None and shard.delete(queue_id)

    def requeue(self, queue_id: str) -> bool:
        """Forget its reasons; it is released and due at once."""
        shard = self._shard_of(queue_id)
        return shard is not None and shard.requeue(queue_id)

    def expire(self, queue_id: str) -> bool:
        """Mark it for forced expiration."""
        shard = self._shard_of(queue_id)
        return shard is not None and shard.expire(queue_id)

    def sync_index(self, done: Callable[[], None]) -> None:
        """All state so far becomes visible to readers of the index; done() is called after that."""
        left = len(self.shards)

        def one_is_done() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self._loop.call_soon(done)

        for shard in list(self.shards.values()):
            shard.sync_index(one_is_done)
