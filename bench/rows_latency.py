"""The row about latency: how long a client waits for the 250 after the dot while the server is half busy.

Called by bench/__main__.py. bench/generator.py sends in open loop, at random times and half of the rate that the main
row found, so that a slow answer delays no other message's beginning; bench/sink.py checks that every byte arrived.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

import msgspec

from bench import stone
from bench.account import Arrived, Sent, complaints
from bench.contest import Bench, Line, Result, median
from bench.disk import measure
from bench.servers import PROJECT, BenchError, Server, settle
from bench.stone import LIMIT, Load, wait_free, wait_listening

SESSIONS = 100  # enough that a message that is due hardly ever waits for one
SLOWEST_SYNC = 0.45  # ms: the row's bound is for disks that sync 4 KB in about 0.3 ms


def paced(server: Server, rate: float, messages: int, folder: Path, sessions: int = SESSIONS) -> Sent:
    """One run in open loop, each byte verified. Raises BenchError."""
    wait_free(server.sink)
    reports = [folder / "sink.json", folder / "generator.json"]
    for path in reports:
        path.unlink(missing_ok=True)
    python = [sys.executable, "-m"]
    what = f"{server.name} at {rate:.0f} messages a second"
    sink = subprocess.Popen(
        [*python, "bench.sink", f"127.0.0.1:{server.sink}", f"--expect={messages}", f"--report={reports[0]}"],
        cwd=PROJECT,
    )
    running = [sink]
    try:
        wait_listening(server.sink)
        target = [f"127.0.0.1:{server.port}", f"--messages={messages}", f"--rate={rate}", f"--sessions={sessions}"]
        generator = subprocess.Popen([*python, "bench.generator", *target, f"--report={reports[1]}"], cwd=PROJECT)
        running.append(generator)
        ended = stone.ends([generator, sink])
        if len(ended) < 2:
            raise BenchError(f"{what}: {messages} messages did not all arrive within {LIMIT:.0f} s")
    finally:
        for process in running:
            process.kill()
            process.wait()
    arrived = msgspec.json.decode(reports[0].read_bytes(), type=Arrived)
    sent = msgspec.json.decode(reports[1].read_bytes(), type=Sent)
    if wrong := complaints(sent, arrived):
        raise BenchError(f"{what}: {'; '.join(wrong)}")
    sent.acknowledged = ""  # all: it says nothing more
    return sent


def latency(bench: Bench) -> Result:
    """Milliseconds from the dot to its 250, and from the time at which the message was due."""
    if why := stone.missing():
        raise BenchError(why)
    servers: list[Server] = [bench.fastmta(), *bench.yardstick()]
    samples: dict[str, list[Sent]] = {server.name: [] for server in servers}
    disks = [measure(bench.folder)]
    with bench.running(*servers):
        if not all(server.name in bench.maximal for server in servers):
            found = bench.rounds({server.name: bench.contender(server, Load()) for server in servers})
            bench.maximal = {name: median(one) for name, one in found.items()}
        for turn in range(bench.repeat):
            for server in servers:
                rate = bench.maximal[server.name] / 2
                sent = paced(server, rate, int(rate * bench.seconds), bench.folder)
                settle(server.master())
                samples[server.name].append(sent)
                bench.say(
                    f"  {turn + 1}/{bench.repeat} {server.name} at {rate:.0f} msg/s:"
                    f" p50 {sent.latency['p50']:.2f}, p99 {sent.latency['p99']:.2f}, max {sent.latency['max']:.1f} ms"
                )
            disks.append(measure(bench.folder, pieces=0))

    def of(name: str, place: str) -> float:
        return statistics.median(sent.latency[place] for sent in samples[name])

    def shown(name: str) -> str:
        if name not in samples:
            return ""
        values = ", ".join(f"{place} {of(name, place):.2f}" for place in ("p50", "p99", "p99.9"))
        return f"{values} ms at {bench.maximal[name] / 2:,.0f} msg/s"

    sync = statistics.median(disk.sync_4k for disk in disks)
    mine = of("FastMTA", "p99")
    line = Line(
        "250 after the dot, at half of the maximal rate of each",
        "p99 under 10 ms where an fdatasync takes 0.3 ms",
        shown("FastMTA"),
        shown("Postfix"),
        reached=True if mine < 10 else (False if sync <= SLOWEST_SYNC else None),
    )
    due = statistics.median(sent.from_due["p99"] for sent in samples["FastMTA"])
    note = (
        f"Latency: an fdatasync of 4 KB took {sync:.2f} ms (median, idle) between the runs;"
        f" from the time at which a message was due to its 250: p99 {due:.2f} ms (that has the generator's own delays)."
    )
    raw = {name: msgspec.to_builtins(one) for name, one in samples.items()}
    return Result("latency", line.what, [line], notes=[note], samples=raw)
