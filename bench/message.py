"""Messages that can be held to account: each has a run, a number, and a checksum over every byte of it.

bench/generator.py makes them, bench/sink.py reads them again. The field X-Bench-Sum comes first among the fields that
we write; the sum covers all after it: the body, then the other fields, both as they are on the wire (a dot at the
begin of a line doubled). Servers put their own fields on top, and may change nothing below.
"""

from __future__ import annotations

import hashlib
import random

import msgspec

SUM = b"X-Bench-Sum: "
NUMBER = b"\r\nX-Bench: "
POOL = 16  # different bodies


class Identity(msgspec.Struct, frozen=True):
    """What a message that arrived says about itself; whole is False when a byte of it is not as it was."""

    run: str
    number: int
    recipients: int
    whole: bool


class Maker:
    """Makes the messages of one run."""

    def __init__(self, run: str, size: int, recipients: int, sender: str, seed: int = 0) -> None:
        """size is that of the body in wire form, about; recipients how many addresses each message has."""
        self._run = run.encode("ascii")
        self._recipients = recipients
        chance = random.Random(seed)
        self._bodies = [body(size, chance) for _ in range(POOL)]
        self._sums = [hashlib.sha256(one) for one in self._bodies]
        self._fields = (
            b"From: <%s>\r\nTo: undisclosed-recipients:;\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
            b"Subject: measured mail\r\nMessage-ID: <%%d.%s@bench.example>\r\nX-Bench: %s %%d %d\r\n"
        ) % (sender.encode(), self._run, self._run, recipients)

    def make(self, number: int) -> bytes:
        """The message with this number, as it goes over the wire, with the final dot."""
        which = number % POOL
        tail = b"message %d\r\n" % number
        fields = self._fields % (number, number)
        digest = self._sums[which].copy()
        digest.update(tail + fields)
        return b"%s%s\r\n%s\r\n%s%s.\r\n" % (SUM, digest.hexdigest().encode(), fields, self._bodies[which], tail)


def body(size: int, chance: random.Random) -> bytes:
    """Lines of all lengths up to 990 bytes, some that begin with dots, in wire form."""
    lines: list[bytes] = []
    left = size
    while left > 0:
        length = min(left, chance.choice((2, 12, 76, 78, 78, 78, 200, 900)))
        dots = chance.choice((b"", b"", b"", b"..", b"..."))
        line = dots + chance.randbytes(max(0, length - len(dots) - 2) // 2).hex().encode() + b"\r\n"
        lines.append(line)
        left -= len(line)
    return b"".join(lines)


def identify(wire: bytes) -> Identity | None:
    """Read a message that arrived, in wire form without the final dot; None when it is none of ours."""
    end = wire.find(b"\r\n\r\n")
    begin = wire.find(SUM, 0, max(end, 0))
    if begin < 0 or (begin and wire[begin - 1] != 10):
        return None
    after = wire.find(b"\r\n", begin) + 2
    fields = wire[after : end + 2]
    place = fields.find(NUMBER)
    words = fields[place + len(NUMBER) : fields.find(b"\r\n", place + 2)].split(b" ")
    if place < 0 or len(words) != 3 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    digest = hashlib.sha256(memoryview(wire)[end + 4 :])
    digest.update(fields)
    whole = digest.hexdigest().encode() == wire[begin + len(SUM) : after - 2]
    return Identity(words[0].decode("ascii", "replace"), int(words[1]), int(words[2]), whole)


def address(number: int, recipient: int, recipients: int, domains: int, domain: str) -> str:
    """The address of one recipient of one message, which says which it is; spread over the domains in turn."""
    where = f"d{(number * recipients + recipient) % domains}.{domain}" if domains > 1 else domain
    return f"r{number}.{recipient}@{where}"


def recipient_of(local: bytes) -> int:
    """Which recipient of its message an address is, from its local part; -1 when it is none of ours."""
    head, dot, last = local.rpartition(b".")
    return int(last) if dot and last.isdigit() and head[:1] == b"r" and head[1:].isdigit() else -1
