"""Fill one shard of a queue with deferred mail, while no server runs: `python -m bench.fill CONFIG SHARD COUNT DOMAIN`.

Called by bench/rows_deferred.py, in a process for each shard. It goes through the queue's own code, so that log and
index are what a server would have left: each message was tried some times, and is due again within the longest backoff,
spread evenly. Files get the owner of the shard's folder. Raises OSError, QueueLocked.
"""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

from fastmta.config import load
from fastmta.model.envelope import Envelope, Origin, Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Deferred
from fastmta.queue.chores import BareLoop
from fastmta.queue.settings import QueueSettings, shard_directory
from fastmta.queue.shard import Shard

BATCH = 1000
SIZE = 2048  # bytes of content


def content(number: int, queue_id: str, body: bytes) -> list[bytes]:
    """A message in wire form."""
    head = (
        b"Received: from client.example.com (localhost [127.0.0.1])\r\n\tby yardstick.example (Postfix) with ESMTP"
        b" id %s\r\n\tfor <user%d@example.org>; Thu,  1 Jan 2026 00:00:00 +0000 (UTC)\r\n"
        b"From: <sender@example.com>\r\nTo: <user%d@example.org>\r\nSubject: deferred %d\r\n"
        b"Message-ID: <%d@example.com>\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n\r\n"
    ) % (queue_id.encode(), number, number, number, number)
    return [head, body]


def fill(shard: Shard, loop: BareLoop, count: int, domain: str, spread: float) -> None:
    """So many messages for one domain, durable and parked."""
    chance = random.Random(shard.number)
    line = chance.randbytes(38).hex().encode() + b"\r\n"
    body = line * (SIZE // len(line))
    origin = Origin("localhost", "127.0.0.1", 40000, "client.example.com", "ESMTP")
    reason = Deferred("4.4.1", "connect to 127.0.0.1[127.0.0.1]:25: Connection refused")
    for first in range(0, count, BATCH):
        answers: list[BaseException | None] = []
        batch = []
        now = time.time()
        for number in range(first, min(first + BATCH, count)):
            queue_id = shard.new_queue_id(now)
            to = (Recipient(f"user{number}@{domain}"),)
            chunks = content(number, queue_id, body)
            size = sum(map(len, chunks))
            envelope = Envelope(queue_id, now - chance.uniform(0, 86400), "sender@example.com", to, size, origin=origin)
            message = Message(envelope, chunks)
            shard.append(message, answers.append)
            batch.append(message)
        if not loop.until(lambda: len(answers) == len(batch), 60.0) or any(answers):  # noqa: B023
            raise OSError(f"not kept: {[answer for answer in answers if answer][:1]}")
        for message in batch:
            message.attempts = 1 + int(chance.expovariate(0.2))
            message.next_attempt = now + chance.uniform(0, spread)
            message.deferred = {0: reason}
            shard.park(message)
        shard.tick()
        loop.until(lambda: not shard.busy, 60.0)


def main() -> int:
    """Fill one shard."""
    config = load(Path(sys.argv[1]))
    number, count, domain = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    directory = shard_directory(Path(config.get_str("queue_directory")), number)
    settings = QueueSettings.from_config(config)
    spread = config.get_time("maximal_backoff_time")
    owner = directory.stat()
    loop = BareLoop()
    warnings: list[str] = []
    shard = Shard(directory, number, settings, warnings.append, loop)
    shard.open()
    loop.until(lambda: not shard.recovering, 60.0)
    fill(shard, loop, count, domain, spread)
    shard.close()
    for path in directory.rglob("*"):
        os.chown(path, owner.st_uid, -1)
    for text in warnings:
        print(text, file=sys.stderr)
    return 1 if warnings else 0


if __name__ == "__main__":
    sys.exit(main())
