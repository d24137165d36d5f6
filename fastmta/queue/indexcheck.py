"""Reads a whole index and says whether it can be trusted; run in a process of its own, which a damaged file may crash.

Forked by queue/recover.py; writes a Verdict as JSON. With what it reads it counts what is alive in each segment.
"""

from __future__ import annotations

import faulthandler
import os
import resource
from pathlib import Path
from typing import NoReturn

import lmdb
import msgspec

from fastmta.queue.index import Index, IndexDamaged


class Verdict(msgspec.Struct):
    """problem: what is wrong, "" for nothing.

    segments: number -> messages, their bytes.
    """

    problem: str = ""
    segments: dict[int, tuple[int, int]] = {}


def check(directory: Path) -> Verdict:
    """Read everything."""
    try:
        index = Index(directory, (directory / "data.mdb").stat().st_size, read_only=True, lock=False)
        if not index.fits_file():
            return Verdict("the file is too short")
        counts: dict[int, list[int]] = {}
        total = elsewhere = 0
        for head in index.heads():
            total += 1
            home = counts.setdefault(head.segment, [0, 0])
            home[0] += 1
            home[1] += head.length
            if head.state_segment != head.segment:
                elsewhere += 1
        due, places = index.walk_rows()
    except (lmdb.Error, IndexDamaged, OSError, msgspec.DecodeError) as error:
        return Verdict(f"{type(error).__name__}: {error}")
    if due > total or places != total + elsewhere:
        return Verdict("its tables do not fit together")
    return Verdict("", {number: (live, live_bytes) for number, (live, live_bytes) in counts.items()})


def report(directory: Path, pipe: int) -> NoReturn:
    """Check that folder and write the Verdict to a pipe: the whole life of a process that was forked for it.

    What it inherited it closes first, lest a lock or a socket outlives the worker; how it dies is nobody's concern.
    """
    try:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))
        os.write(pipe, msgspec.json.encode(check(directory)))
    finally:
        os._exit(0)
