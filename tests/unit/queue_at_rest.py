"""A queue on disk without a server, for tests of the tools: shards filled through the queue's own code."""

from __future__ import annotations

import time
from pathlib import Path

from fastmta.model.envelope import Envelope, Origin, Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Deferred, Result
from fastmta.queue.chores import BareLoop
from fastmta.queue.settings import QueueSettings, shard_directory
from fastmta.queue.shard import Shard

REFUSED = Deferred("4.4.1", "connect to 127.0.0.1[127.0.0.1]:25: Connection refused")
CONTENT = [b"Received: from x\r\n\tby y\r\nSubject: t\r\n", b"\r\nhello\r\n..dot\r\n"]
PLAIN = "Received: from x\n\tby y\nSubject: t\n\nhello\n.dot\n"


class QueueAtRest:
    """A queue directory and a configuration for it."""

    def __init__(self, folder: Path, **parameters: str) -> None:
        self.directory = folder / "queue"
        self.directory.mkdir()
        self.config = folder / "conf"
        self.config.mkdir()
        self.settings = QueueSettings()
        self.loop = BareLoop()
        self._shards: dict[int, Shard] = {}
        values = {
            "queue_directory": str(self.directory),
            "maillog_file": str(folder / "maillog"),
            "maillog_file_prefixes": "/",
            "myhostname": "mx.example",
            "mail_owner": "nobody",
            **parameters,
        }
        (self.config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in values.items()))

    def shard(self, number: int) -> Shard:
        """An open shard."""
        if number not in self._shards:
            shard = Shard(shard_directory(self.directory, number), number, self.settings, print, self.loop)
            shard.open()
            assert self.loop.until(lambda: not shard.recovering)
            self._shards[number] = shard
        return self._shards[number]

    def add(
        self,
        *to: str,
        shard: int = 0,
        sender: str = "alice@a.example",
        flags: int = 0,
        tried: Result | None = None,
        size: int = 100,
        age: float = 0.0,
        content: list[bytes] = CONTENT,
    ) -> str:
        """A durable message; tried: the reason that its recipients were deferred with, once. Its queue id."""
        owner = self.shard(shard)
        now = time.time()
        queue_id = owner.new_queue_id(now)
        recipients = tuple(Recipient(address) for address in to or ("bob@b.example",))
        envelope = Envelope(queue_id, now - age, sender, recipients, size, origin=Origin(protocol="ESMTP"))
        message = Message(envelope, list(content))
        answers: list[BaseException | None] = []
        owner.append(message, answers.append)
        assert self.loop.until(lambda: bool(answers))
        assert answers == [None]
        if flags or tried is not None:
            message.flags = flags
            if tried is not None:
                message.attempts = 1
                message.next_attempt = now + 1000
                message.deferred = dict.fromkeys(range(len(recipients)), tried)
            owner.park(message)
        return queue_id

    def close(self) -> None:
        """Close the shards in order."""
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()
