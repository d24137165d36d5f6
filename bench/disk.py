"""What the disk under the queue can do by itself, to read the other figures by. Used by bench/rows*.py.

`Disk.sync_4k` is what a message that comes alone waits for; `Disk.sequential` what a queue could keep at most, if it
wrote large pieces one after the other, each made durable. Raises OSError.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import msgspec


class Disk(msgspec.Struct):
    """Figures of one disk: milliseconds of an fdatasync of 4 KB (median, p99); MB/s in synced pieces of 1 MB."""

    filesystem: str
    sync_4k: float
    sync_4k_p99: float
    sequential: float


def filesystem_of(folder: Path) -> str:
    """The type of the file system that holds the folder: "ext4", "tmpfs" ..."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split(" ")
        mount = mount.encode().decode("unicode_escape")
        if len(mount) > len(best[0]) and folder.resolve().is_relative_to(mount):
            best = (mount, kind)
    return best[1]


def measure(folder: Path, pieces: int = 96, syncs: int = 200) -> Disk:
    """Write and sync in the folder; a few hundred MB at most, removed afterwards. pieces 0: no sequential rate."""
    path = folder / "disk-trial"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        small = []
        page = os.urandom(4096)
        for _ in range(syncs):
            begin = time.perf_counter()
            os.write(fd, page)
            os.fdatasync(fd)
            small.append((time.perf_counter() - begin) * 1000)
        piece = os.urandom(1 << 20)
        begin = time.perf_counter()
        rate = 0.0
        for _ in range(pieces):
            os.write(fd, piece)
            os.fdatasync(fd)
        if pieces:
            rate = pieces * len(piece) / (time.perf_counter() - begin) / 1e6
    finally:
        os.close(fd)
        path.unlink()
    small.sort()
    return Disk(filesystem_of(folder), statistics.median(small), small[int(len(small) * 0.99)], rate)
