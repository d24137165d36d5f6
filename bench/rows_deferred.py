"""The row about a large queue: a million deferred messages beside an empty queue, on two servers in turn.

Called by bench/__main__.py. bench/fill.py makes the queue; its messages are for a destination that refuses connections,
and come due evenly within the longest backoff, so that some are tried all the time. Raises BenchError when new mail
does not arrive, or when messages are missing in the end.
"""

from __future__ import annotations

import smtplib
import subprocess
import sys
import time

from bench import stone
from bench.contest import Bar, Bench, Contender, Line, Result, median, raw, spread
from bench.processes import PeakMemory, pss
from bench.servers import PROJECT, BenchError, FastMTA, settle
from bench.stone import Load, Sample, sink_command, through, wait_free, wait_listening
from fastmta.admin.client import connect_all
from fastmta.admin.protocol import STATUS, Request

DOMAIN = "dead.example"
MB = 1e6
PATIENCE = 180.0  # seconds that scheduling everything may take before the row fails


def fill(server: FastMTA, count: int) -> None:
    """Deferred messages in equal parts in the shards that the server has made. It does not run."""
    shards = sorted(int(path.name[-2:]) for path in server.queue.glob("shard-*"))
    share = -(-count // len(shards))
    python = [sys.executable, "-m", "bench.fill", str(server.config)]
    processes = [
        subprocess.Popen([*python, str(number), str(min(share, count - k * share)), DOMAIN], cwd=PROJECT)
        for k, number in enumerate(shards)
    ]
    try:
        if any(process.wait(timeout=600) for process in processes):
            raise BenchError("the queue could not be filled")
    finally:
        for process in processes:
            process.kill()
            process.wait()


def kept(server: FastMTA) -> int:
    """How many messages are alive in its shards, as its workers count them."""
    total = 0
    for worker in connect_all(server.queue):
        try:
            status = worker.ask(Request(STATUS)).status
            total += sum(shard.messages for shard in status.shards) if status is not None else 0
        finally:
            worker.close()
    return total


def until_tried(server: FastMTA, since: int, begin: float) -> float:
    """Seconds from begin until every worker has tried a message of the queue: it then has all of them scheduled."""
    missing = {f"[{pid}]: " for pid in server.workers()}
    text = ""
    with server.log.open(errors="replace") as log:
        log.seek(since)
        while missing:
            text = text.rpartition("\n")[2] + log.read()
            for line in text.splitlines():
                if "status=deferred" in line:
                    missing -= {pid for pid in missing if pid in line}
            if time.perf_counter() - begin > PATIENCE:
                raise BenchError(f"the queue was not scheduled within {PATIENCE:.0f} s of the start")
            time.sleep(0.02)
    return time.perf_counter() - begin


def restart(server: FastMTA) -> tuple[float, float]:
    """Start a server whose queue is full: seconds until it took a message, and until it has everything scheduled."""
    size = server.log.stat().st_size
    begin = time.perf_counter()
    server.start()
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        client.sendmail("sender@example.com", ["recipient@example.org"], b"Subject: first\r\n\r\nafter the start\r\n")
        accepted = time.perf_counter() - begin
    return accepted, until_tried(server, size, begin)


def deferred(bench: Bench) -> Result:
    """New mail beside a million deferred messages, memory, and restarts."""
    if why := stone.missing():
        raise BenchError(why)
    load = Load()
    relay = {"relay_domains": DOMAIN, "relay_transport": f"relay:[127.0.0.1]:{bench.port + 5}"}
    empty = bench.fastmta("empty queue", 3, parameters=relay)
    full = bench.fastmta("full queue", 4, parameters=relay)
    begin = time.perf_counter()
    found: dict[str, tuple[float, float]] = {}

    def loaded(messages: int) -> Sample:
        return through(full, load, messages)

    with bench.running(empty, full):
        full.stop()
        fill(full, bench.deferred)
        bench.say(f"  filled with {bench.deferred} messages in {time.perf_counter() - begin:.0f} s")
        found["first start"] = restarted(bench, full)
        contenders: dict[str, Contender] = {"empty queue": bench.contender(empty, load), "full queue": loaded}
        samples = bench.rounds(contenders)
        resting = pss(full.master())
        with PeakMemory(full.master()) as peak:
            through(full, load, samples["full queue"][0].messages)
        bench.say(f"  {peak.bytes / MB:.0f} MB, of it {peak.anonymous / MB:.0f} MB with no file behind")
        listing = [first_line(full), 0.0]
        full.stop()
        listing[1] = first_line(full)
        found["restart in order"] = restarted(bench, full)
        full.kill()
        found["restart after SIGKILL"] = restarted(bench, full)
        settle(full.master(), 3)
        now = kept(full)
        if now < bench.deferred:
            raise BenchError(f"{bench.deferred - now} deferred messages are missing")
    return _result(bench, samples, peak, resting, found, listing)


def first_line(server: FastMTA) -> float:
    """Seconds from the start of postqueue -p to its first output."""
    begin = time.perf_counter()
    arguments = [sys.executable, "-m", "fastmta", "postqueue", "-c", str(server.config), "-p"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=PROJECT) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.read(1):
                raise BenchError("postqueue -p said nothing")
            return time.perf_counter() - begin
        finally:
            process.kill()


def restarted(bench: Bench, server: FastMTA) -> tuple[float, float]:
    """`restart`, with a sink for the message."""
    wait_free(server.sink)
    for _ in range(200):  # after SIGKILL, until the last process is gone
        if not server.master():
            break
        time.sleep(0.05)
    receiver = subprocess.Popen(sink_command(server.sink))
    try:
        wait_listening(server.sink)
        accepted, scheduled = restart(server)
    finally:
        receiver.kill()
        receiver.wait()
    bench.say(f"  started: first 250 after {accepted:.2f} s, all scheduled after {scheduled:.1f} s")
    return accepted, scheduled


def _result(
    bench: Bench,
    samples: dict[str, list[Sample]],
    peak: PeakMemory,
    resting: tuple[int, int, int],
    found: dict[str, tuple[float, float]],
    listing: list[float],
) -> Result:
    count = f"{bench.deferred:,} deferred messages"
    with_full, with_empty = median(samples["full queue"]), median(samples["empty queue"])
    taken = median(samples["full queue"], "accepted") / median(samples["empty queue"], "accepted")
    accepted = max(one for one, _ in found.values())
    scheduled = max(one for _, one in found.values())
    lines = [
        Line(
            f"{count}: new mail, 4 KB, 20 sessions",
            "within 15 % of an empty queue",
            f"{spread(samples['full queue'])}; empty queue {with_empty:,.0f} msg/s",
            ratio=f"{with_full / with_empty:.0%}, acceptance {taken:.0%}",
            reached=with_full / with_empty >= 0.85 and taken >= 0.85,
        ),
        Line(
            f"{count}: memory under that load (sum of PSS, peak)",
            "300 MB",
            f"{peak.bytes / MB:.0f} MB, of it {peak.anonymous / MB:.0f} MB with no file behind it",
            reached=peak.bytes <= 300e6,
        ),
        Line(
            f"{count}: restart",
            "accepts within 2 s, all scheduled within 30 s",
            "; ".join(f"{name} {one:.2f} s, {two:.1f} s" for name, (one, two) in found.items()),
            reached=accepted <= 2 and scheduled <= 30,
        ),
        Line(
            f"{count}: first line of postqueue -p",
            "within 0.5 s",
            f"{listing[0]:.2f} s on the running system, {listing[1]:.2f} s on the stopped one",
            reached=max(listing) <= 0.5,
        ),
    ]
    kept_samples = {
        **raw(samples),
        "restarts": found,
        "first line": listing,
        "pss peak": [peak.bytes, peak.anonymous],
        "pss": resting,
    }
    bar = Bar(f"4 KB, beside {count}", with_full, 0.0)
    return Result("deferred", count, lines, [bar], samples=kept_samples)
