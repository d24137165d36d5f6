"""Measure several things in turn, A B C A B C, so that what else the machine does meets all of them alike.

Used by bench/rows*.py: `Bench` is what a row is given; `rounds` runs the contenders; `Result` is what it gives back,
kept as JSON by bench/results.py.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from bench.disk import Disk, measure
from bench.servers import BenchError, FastMTA, Postfix, Server
from bench.stone import Load, Sample, empty, through, transfer

Contender: TypeAlias = Callable[[int], Sample]


class Line(msgspec.Struct):
    """One line of the table of results; reached is None where nothing must be reached, or nothing could be compared."""

    what: str
    must: str
    fastmta: str
    postfix: str = ""
    ratio: str = ""
    reached: bool | None = None


class Bar(msgspec.Struct):
    """One pair of bars of the picture: messages per second, end to end; 0 where not measured."""

    label: str
    fastmta: float
    postfix: float
    limit: float = 0.0


class Result(msgspec.Struct):
    """What one row found: lines for the table, bars for the picture, and every single measurement."""

    row: str
    title: str
    lines: list[Line] = []
    bars: list[Bar] = []
    notes: list[str] = []
    samples: dict[str, Any] = {}
    error: str = ""
    skipped: str = ""
    date: str = ""
    commit: str = ""
    seconds: float = 0.0
    repeat: int = 0


class Bench(msgspec.Struct):
    """What a row needs: where to put servers, which ports, how often and how long to measure."""

    folder: Path
    port: int
    repeat: int = 5
    seconds: float = 4.0  # that one measurement should take
    postfix: bool = True
    deferred: int = 1_000_000
    arrivals: str = "poisson"
    maximal: dict[str, float] = {}  # messages per second by server, as the main row found them
    disk: Disk | None = None

    def say(self, text: str) -> None:
        """Tell the one who waits."""
        print(text, file=sys.stderr, flush=True)

    def the_disk(self) -> Disk:
        """The disk's own figures, measured once."""
        if self.disk is None:
            self.disk = measure(self.folder)
        return self.disk

    def fastmta(self, name: str = "FastMTA", offset: int = 1, **options: Any) -> FastMTA:
        """A FastMTA of its own in a new folder, not started."""
        folder = self.folder / f"{name.replace(' ', '-')}-{time.monotonic_ns()}"
        return FastMTA(folder, self.port + offset, self.port, name=name, **options)

    def yardstick(self, offset: int = 9) -> list[Server]:
        """The Postfix of the yardstick in a new folder, not started; none where it is not to be had."""
        if not self.postfix:
            return []
        return [Postfix(self.folder / f"postfix-{time.monotonic_ns()}", self.port + offset, self.port)]

    @contextmanager
    def running(self, *servers: Server) -> Iterator[None]:
        """These servers run; afterwards they are gone, with their folders."""
        try:
            for server in servers:
                server.start()
            yield
            for server in servers:
                server.stop()
        finally:
            for server in servers:
                server.kill()
                shutil.rmtree(server.folder, ignore_errors=True)

    def contender(self, server: Server, load: Load) -> Contender:
        """Throughput through a server, its queue empty again afterwards."""

        def run(messages: int) -> Sample:
            sample = through(server, load, messages)
            empty(server, load.sessions)
            return sample

        return run

    def direct(self, load: Load) -> Contender:
        """Throughput of the generator straight to the sink."""
        return lambda messages: transfer(load, messages, self.port, self.port, "generator straight to sink")

    def rounds(self, contenders: Mapping[str, Contender], warm: int = 1000) -> dict[str, list[Sample]]:
        """All contenders in turn, `repeat` times, each with as many messages as it needs to run `seconds`."""
        messages = {}
        for name, run in contenders.items():
            first = run(warm)
            again = run(max(warm, int(first.end_to_end)))
            messages[name] = max(warm, int(again.end_to_end * self.seconds))
        samples: dict[str, list[Sample]] = {name: [] for name in contenders}
        for turn in range(self.repeat):
            for name, run in contenders.items():
                sample = run(messages[name])
                samples[name].append(sample)
                self.say(
                    f"  {turn + 1}/{self.repeat} {name}: {sample.end_to_end:.0f} msg/s end to end"
                    f" ({sample.messages} messages), {sample.cpu:.0f} us CPU each"
                )
        return samples


def median(samples: list[Sample], field: str = "end_to_end") -> float:
    """The median of one field."""
    return float(statistics.median(getattr(sample, field) for sample in samples))


def spread(samples: list[Sample]) -> str:
    """Median and range of the end-to-end rates, for the table."""
    rates = sorted(sample.end_to_end for sample in samples)
    return f"{statistics.median(rates):,.0f} msg/s ({rates[0]:,.0f} to {rates[-1]:,.0f})"


def raw(samples: Mapping[str, list[Sample]]) -> dict[str, Any]:
    """Every measurement, for the JSON file."""
    found: dict[str, Any] = msgspec.to_builtins(samples)
    return found


__all__ = ["Bar", "Bench", "BenchError", "Contender", "Line", "Result", "median", "raw", "spread"]
