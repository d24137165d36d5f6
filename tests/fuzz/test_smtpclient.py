"""The client machine against its oracle on mutations of a committed corpus: server dialogues, good and bad.

FASTMTA_FUZZ_SECONDS says for how long (2 by default). A failing input is written beside the corpus as crash-*, to be
kept there.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

from fastmta.model.envelope import Envelope, Recipient
from tests.client_oracle import Oracle, play_machine

CORPUS = Path(__file__).parent / "corpus" / "smtpclient"
PIECES = [
    b"\r\n",
    b"\n",
    b"\r",
    b"250 ",
    b"250-",
    b"354 go\r\n",
    b"250 2.1.0 Ok\r\n",
    b"550 5.1.1 x\r\n",
    b"421 bye\r\n",
    b"\xc3\xa4",
    b"\xff",
]
PIECES += [
    b"250-PIPELINING\r\n",
    b"250 DSN\r\n",
    b"SIZE=",
    b"25",
    b"4.",
    b"\0",
    b"a" * 2100,
    b"-" * 50,
    b"220 x ESMTP\r\n",
]


def messages() -> list[tuple[Envelope, list[bytes]]]:
    made = []
    for number, count in enumerate((1, 3, 2)):
        recipients = tuple(Recipient(f"r{at}@example.com") for at in range(count))
        made.append((Envelope(f"Q{number}", 0.0, "s@example.org", recipients, 10), [b"Subject: x\r\n\r\nbody\r\n"]))
    return made


def check(data: bytes, chance: random.Random) -> None:
    options = {"lmtp": chance.random() < 0.3, "prefetch": chance.random() < 0.5}
    expected = Oracle(data, messages(), **options).run()
    assert play_machine([data], messages(), **options) == expected
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6)))
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert play_machine(pieces, messages(), **options) == expected


def mutate(data: bytes, others: list[bytes], chance: random.Random) -> bytes:
    for _ in range(chance.randrange(1, 6)):
        at = chance.randrange(len(data) + 1)
        to = min(len(data), at + chance.randrange(1, 30))
        kind = chance.randrange(6)
        if kind == 0:
            data = data[:at] + chance.choice(PIECES) + data[at:]
        elif kind == 1:
            data = data[:at] + data[to:]
        elif kind == 2:
            data = data[:at] + data[at:to] * 2 + data[to:]
        elif kind == 3:
            data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
        elif kind == 4:
            other = chance.choice(others)
            data = data[:at] + other[chance.randrange(len(other) + 1) :]
        else:
            lines = data.split(b"\n")
            chance.shuffle(lines)
            data = b"\n".join(lines)
    return data[:20000]


def test_corpus() -> None:
    names = sorted(CORPUS.iterdir())
    assert names
    for name in names:
        for seed in range(20):
            check(name.read_bytes(), random.Random(seed))


def test_mutations() -> None:
    chance = random.Random(os.environ.get("FASTMTA_FUZZ_SEED"))
    corpus = [name.read_bytes() for name in sorted(CORPUS.iterdir())]
    end = time.monotonic() + float(os.environ.get("FASTMTA_FUZZ_SECONDS", "2"))
    while time.monotonic() < end:
        data = mutate(chance.choice(corpus), corpus, chance)
        try:
            check(data, chance)
        except BaseException:
            (CORPUS / f"crash-{hashlib.sha1(data).hexdigest()[:12]}").write_bytes(data)
            raise
