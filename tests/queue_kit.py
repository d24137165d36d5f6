"""A shard in a folder, driven by a loop of its own, for the tests of the queue. Crashes are copies of the folder.

`crash()` is what SIGKILL leaves: the files as the kernel has them at that moment. `power_cut()` is what a loss of
power may leave.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from fastmta.model.envelope import Envelope, Origin, Recipient
from fastmta.model.message import Message
from fastmta.queue.chores import BareLoop
from fastmta.queue.settings import QueueSettings
from fastmta.queue.shard import Shard

ORIGIN = Origin("client.example.com", "192.0.2.7", 40000, "client.example.com", "ESMTP")
SMALL = QueueSettings(segment_size=64 << 10, reserve=16 << 10, index_map_size=64 << 20, lazy=0.005)


class Keeper:
    """One open shard and the loop that drives it."""

    def __init__(self, queue: Path, settings: QueueSettings = SMALL, number: int = 0, wait: bool = True) -> None:
        self.queue = queue
        self.settings = settings
        self.warnings: list[str] = []
        self.loop = BareLoop()
        queue.mkdir(exist_ok=True)
        self.shard = Shard(queue / f"shard-{number:02d}", number, settings, self.warnings.append, self.loop)
        self.shard.open()
        if wait:
            self.until(lambda: not self.shard.recovering)

    def until(self, condition: Callable[[], bool]) -> None:
        assert self.loop.until(condition, 20.0), "did not happen in time"

    def message(self, size: int = 600, recipients: int = 1, mark: bytes = b"") -> Message:
        now = time.time()
        to = tuple(Recipient(f"rcpt{k}@example.org") for k in range(recipients))
        queue_id = self.shard.new_queue_id(now)
        content = [
            b"Received: from client.example.com by mx id " + queue_id.encode() + b"\r\n",
            mark + b"\r\n" + b"x" * size + b"\r\n",
        ]
        return Message(Envelope(queue_id, now, "sender@example.com", to, size, origin=ORIGIN), content)

    def append(self, *messages: Message) -> list[BaseException | None]:
        """Append them in one turn; the answers when all are in."""
        answers: list[BaseException | None] = []
        for message in messages:
            self.shard.append(message, answers.append)
        self.until(lambda: len(answers) == len(messages))
        return answers

    def keep(self, count: int = 1, size: int = 600, recipients: int = 1) -> list[Message]:
        """So many new messages, durable."""
        messages = [self.message(size, recipients) for _ in range(count)]
        assert self.append(*messages) == [None] * count
        return messages

    def settle(self) -> None:
        """All state changes are durable."""
        self.shard.log.kick()
        last = self.shard.log.last_sequence
        self.until(lambda: self.shard.durable >= last)

    def tick(self, times: int = 1) -> None:
        """Let the index be written, and space be reclaimed."""
        for _ in range(times):
            self.settle()
            self.shard.tick()
            self.until(lambda: not self.shard.busy)

    def waiting(self) -> dict[str, bytes]:
        """All that the queue gives out when everything is due, with contents. Nothing else may be held before."""
        found: dict[str, bytes] = {}
        self.shard.flush()
        while (given := self.shard.flushed(100)) is not None:
            for message in given:
                assert message.queue_id not in found, "given out twice"
                found[message.queue_id] = b"".join(self.shard.content(message))
        return found

    def close(self) -> None:
        self.shard.close()

    def crash(self, to: Path) -> Path:
        """A copy of the queue as it is on disk right now."""
        self.shard.segments.join()  # a copy takes its time, a crash does not
        shutil.copytree(self.queue, to)
        return to

    def power_cut(self, to: Path) -> Path:
        """The same, and what was written without a sync cannot be trusted: the machine was started anew."""
        self.crash(to)
        forget_boot(to)
        return to


def forget_boot(queue: Path) -> None:
    """As after a start of the machine: the index is of another boot."""
    for index in queue.glob("shard-*/index"):
        shutil.rmtree(index)


def content_of(message: Message) -> bytes:
    """What must come back."""
    assert message.content is not None
    return b"".join(message.content)


def segment_files(queue: Path) -> list[Path]:
    """The segments, oldest first."""
    return sorted(queue.glob("shard-*/log/*.seg"))
