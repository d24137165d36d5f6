"""What the processes of a server cost: CPU time and memory of a whole process tree, from /proc.

Used by bench/servers.py and bench/rows*.py. Sources: proc(5); PSS is a process's private pages and its share of the
shared ones, so that forked workers are not counted for the pages that they have in common.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (state); empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def by_parent() -> dict[int, list[int]]:
    """All processes by their parents."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        if fields := stat_fields(pid):
            found.setdefault(int(fields[1]), []).append(pid)
    return found


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    return by_parent().get(parent, [])


def tree(root: int) -> list[int]:
    """The process and all its descendants."""
    processes = by_parent()
    found = [root]
    for pid in found:
        found += processes.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """utime + stime of all processes of the tree and of their children that ended and were waited for."""
    ticks = 0
    for pid in tree(root):
        if fields := stat_fields(pid):
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / TICKS


def pss(root: int) -> tuple[int, int, int]:
    """Sum of PSS of the tree in bytes, the part of it that has no file behind it, and the number of processes."""
    total = anonymous = count = 0
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        count += 1
        for line in text.splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) << 10
            elif line.startswith("Pss_Anon:"):
                anonymous += int(line.split()[1]) << 10
    return total, anonymous, count


class PeakMemory:
    """Samples the PSS of a tree in a thread: `with PeakMemory(pid) as peak: load(); peak.bytes`."""

    def __init__(self, root: int, interval: float = 0.25) -> None:
        """root: its uppermost process."""
        self.bytes = 0
        self.anonymous = 0
        self.processes = 0
        self._root = root
        self._interval = interval
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PeakMemory:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._end.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._end.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        total, anonymous, processes = pss(self._root)
        if total > self.bytes:
            self.bytes, self.anonymous, self.processes = total, anonymous, processes
