"""Mutations of real sessions against the machine: the same events however the input is cut, content as the oracle says.

The corpus is committed: seeds, and what once failed. `make test` runs it and a second of mutations; for longer:
python -m tests.fuzz.test_smtpserver_fuzz SECONDS [SEED]
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from tests.properties.smtpserver_oracle import MODES, cut, read_content, run

CORPUS = Path(__file__).with_name("corpus_smtpserver")
CRUMBS = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b".",
        b"\r\n.\r\n",
        b"\n.\n",
        b"\n.\r\n",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b"<",
        b">",
        b'"',
        b"\\",
        b":",
    ),
    *(
        b"MAIL FROM:<a@b.example>\r\n",
        b"RCPT TO:<c@d.example>\r\n",
        b"DATA\r\n",
        b"BDAT 5\r\n",
        b"BDAT 3 LAST\r\n",
        b"RSET\r\n",
    ),
    *(
        b"EHLO x\r\n",
        b" SIZE=1",
        b" NOTIFY=NEVER",
        b" ORCPT=rfc822;x+41",
        b" RET=FULL",
        b" SMTPUTF8",
        b"@",
        b" ",
        b"\t",
    ),
    *(b"x" * 60, b"x" * 64, b"x" * 2047, b"x" * 2048, b"x" * 5000),
]
LIMITS: list[dict[str, int]] = [{}, {"line_length_limit": 64}, {"message_size_limit": 100}, {"recipient_limit": 1}]


def seeds() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def mutate(data: bytes, pick: random.Random, pool: list[bytes]) -> bytes:
    for _ in range(pick.randint(1, 6)):
        at = pick.randint(0, len(data))
        how = pick.randint(0, 5)
        if how == 0:
            data = data[:at] + pick.choice(CRUMBS) + data[at:]
        elif how == 1:
            data = data[:at] + data[at + pick.randint(1, 8) :]
        elif how == 2 and data:
            data = data[:at] + bytes([pick.randint(0, 255)]) + data[at + 1 :]
        elif how == 3:
            data = data[:at] + pick.choice(pool)[pick.randint(0, 40) :]
        elif how == 4:
            end = min(len(data), at + pick.randint(1, 60))
            data = data[:end] + data[at:end] + data[end:]
        else:
            data = data[:at] + pick.choice(CRUMBS) + data[at + pick.randint(0, 4) :]
    return data[:20000]


def check(data: bytes, pick: random.Random) -> None:
    mode = pick.choice(MODES)
    limits = pick.choice(LIMITS)
    whole = run([data], mode, **limits)
    marks = [pick.randint(0, 20000) for _ in range(pick.randint(0, 8))]
    pieces = cut(data, marks) if pick.random() < 0.8 else [bytes([byte]) for byte in data]
    assert run(pieces, mode, later=pick.random() < 0.5, through_buffer=pick.random() < 0.5, **limits) == whole
    begin = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
    expected = read_content(data, mode, limit=limits.get("line_length_limit", 2048))
    found = next((event for event in run([begin, data], mode, **limits).events if event[0] == "content"), None)
    if expected.end < 0 or (mode & 2 and expected.bare_lf) or expected.size > limits.get("message_size_limit", 1 << 30):
        return
    assert found is not None
    assert (found[1], found[2], found[4]) == (expected.wire, expected.size, expected.flags)


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_corpus(path: Path) -> None:
    for seed in range(20):
        check(path.read_bytes(), random.Random(seed))


def test_mutations() -> None:
    fuzz(1.0, 1)


def fuzz(seconds: float, seed: int) -> int:
    """Returns how many inputs were tried; a failing one is written to the corpus."""
    pick = random.Random(seed)
    pool = seeds()
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        data = mutate(pick.choice(pool), pick, pool)
        state = pick.getstate()
        try:
            check(data, pick)
        except BaseException:
            (CORPUS / f"failed-{seed}-{tried}").write_bytes(data)
            print(f"input failed-{seed}-{tried}, state of the generator: {hash(state)}", file=sys.stderr)
            raise
        tried += 1
        if len(data) < 3000 and pick.random() < 0.01:
            pool.append(data)
    return tried


if __name__ == "__main__":
    print(fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())), "inputs")
