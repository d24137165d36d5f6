"""The rows of the table that are about throughput, CPU time and memory, measured with smtp-source and smtp-sink.

Called by bench/__main__.py through `ROWS`. Each row starts its own servers with empty queues, and raises BenchError
when messages did not arrive: such a row has no figure.
"""

from __future__ import annotations

import statistics

from bench import stone
from bench.contest import Bar, Bench, Line, Result, median, raw, spread
from bench.processes import PeakMemory
from bench.rows_latency import paced
from bench.servers import BenchError, Server, settle
from bench.stone import Load, Sample, through

MB = 1e6
PACE = 500.0  # messages a second for each worker: four of them stay under a half of what two cores can do


def times(fast: float, slow: float) -> str:
    """A ratio as the table shows it."""
    return f"{fast / slow:.1f} x" if slow else ""


def reaches(fast: float, slow: float, least: float) -> bool | None:
    """Whether the ratio is at least so much; None where there is nothing to compare with."""
    return fast / slow >= least if slow else None


def contest(bench: Bench, load: Load, *, direct: bool = False, warm: int = 1000) -> dict[str, list[Sample]]:
    """FastMTA, the yardstick, and if asked the generator straight to the sink, in turn."""
    if why := stone.missing():
        raise BenchError(why)
    fast = bench.fastmta()
    servers: list[Server] = [fast, *bench.yardstick()]
    with bench.running(*servers):
        contenders = {"direct": bench.direct(load)} if direct else {}
        contenders |= {server.name: bench.contender(server, load) for server in servers}
        return bench.rounds(contenders, warm)


def throughput(row: str, title: str, samples: dict[str, list[Sample]], least: float, must: str) -> Result:
    """The line and the bar of a row that compares rates."""
    fast = median(samples["FastMTA"])
    slow = median(samples["Postfix"]) if "Postfix" in samples else 0.0
    line = Line(
        title,
        must,
        spread(samples["FastMTA"]),
        spread(samples["Postfix"]) if slow else "",
        times(fast, slow),
        reaches(fast, slow, least),
    )
    return Result(row, title, [line], [Bar(title, fast, slow)], samples=raw(samples))


def main(bench: Bench) -> Result:
    """4 KB, 20 sessions kept open; CPU time per message comes from the same runs."""
    samples = contest(bench, Load(), direct=True)
    title = "4 KB, 20 sessions kept open"
    result = throughput("main", title, samples, 7.5, "7.5 x Postfix, aim 10 x")
    bench.maximal = {name: median(samples[name]) for name in samples}
    limit = median(samples["direct"]) / 2
    fast = median(samples["FastMTA"])
    slow = bench.maximal.get("Postfix", 0.0)
    result.bars[0].limit = limit
    result.lines.append(
        Line(
            "share of the two-hop limit (half of generator straight to sink)",
            "65 %",
            f"{fast / limit:.0%} of {limit:,.0f} msg/s",
            f"{slow / limit:.0%}" if slow else "",
            "",
            fast / limit >= 0.65,
        )
    )
    mine = median(samples["FastMTA"], "cpu")
    theirs = median(samples["Postfix"], "cpu") if slow else 0.0
    result.lines.append(
        Line(
            "CPU time per message, all processes",
            "an eighth of Postfix's",
            f"{mine:.0f} us",
            f"{theirs:.0f} us" if slow else "",
            f"1/{theirs / mine:.1f}" if slow else "",
            mine <= theirs / 8 if slow else None,
        )
    )
    return result


def sessions100(bench: Bench) -> Result:
    """4 KB, 100 sessions kept open; then the same load once more to see the memory, which costs time to look at."""
    if why := stone.missing():
        raise BenchError(why)
    load = Load(sessions=100)
    title = "4 KB, 100 sessions kept open"
    fast = bench.fastmta()
    servers: list[Server] = [fast, *bench.yardstick()]
    memory: dict[str, PeakMemory] = {}
    with bench.running(*servers):
        samples = bench.rounds({server.name: bench.contender(server, load) for server in servers})
        for server in servers:
            with PeakMemory(server.master()) as peak:
                through(server, load, samples[server.name][0].messages)
            memory[server.name] = peak
            bench.say(f"  {server.name}: {peak.bytes / MB:.0f} MB in {peak.processes} processes")
    result = throughput("sessions100", title, samples, 7.5, "7.5 x Postfix")
    mine = memory["FastMTA"].bytes
    theirs = memory["Postfix"].bytes if "Postfix" in memory else 0
    result.samples["pss"] = {name: [peak.bytes, peak.anonymous, peak.processes] for name, peak in memory.items()}
    result.lines.append(
        Line(
            "memory under that load (sum of PSS, peak)",
            "a quarter of Postfix's",
            f"{mine / MB:.0f} MB in {memory['FastMTA'].processes} processes",
            f"{theirs / MB:.0f} MB in {memory['Postfix'].processes} processes" if theirs else "",
            f"1/{theirs / mine:.1f}" if theirs else "",
            mine <= theirs / 4 if theirs else None,
        )
    )
    return result


def newsession(bench: Bench) -> Result:
    """4 KB, 20 sessions at a time, a new one for each message."""
    samples = contest(bench, Load(keep_open=False))
    return throughput("newsession", "4 KB, a new session for each message", samples, 6, "6 x Postfix")


def size100k(bench: Bench) -> Result:
    """100 KB messages, 20 sessions kept open; MB/s beside what the disk does by itself."""
    load = Load(size=100 * 1024)
    samples = contest(bench, load, warm=200)
    result = throughput("size100k", "100 KB, 20 sessions kept open", samples, 4, "4 x Postfix")
    disk = bench.the_disk()
    megabytes = median(samples["FastMTA"]) * load.size / MB
    result.lines[0].fastmta += f", {megabytes:.0f} MB/s"
    result.notes.append(
        f"100 KB: the disk's own sequential rate, 1 MB and fdatasync at a time, is {disk.sequential:.0f} MB/s."
    )
    return result


def one(bench: Bench) -> Result:
    """4 KB, one session, one message after the other: the time of a sync decides."""
    samples = contest(bench, Load(sessions=1), warm=200)
    result = throughput("one", "4 KB, one session", samples, 3, "3 x Postfix")
    result.notes.append(f"One session: an fdatasync of 4 KB takes {bench.the_disk().sync_4k:.2f} ms (median).")
    return result


def workers(bench: Bench) -> Result:
    """20 sessions for each worker, of 1, 2 and 4: the CPU time per message must not grow."""
    if why := stone.missing():
        raise BenchError(why)
    counts = (1, 2, 4)
    servers = {
        count: bench.fastmta(f"{count} workers", offset, workers=str(count)) for offset, count in enumerate(counts, 2)
    }
    # As much for each worker: the fewer messages go together through a loop's turn and a sync, the more each one costs.
    loads = {count: Load(sessions=20 * count) for count in counts}
    # And at the same pace for each worker, far from what the machine can do: four workers, the generator and the sink
    # want more than two cores when they are saturated, and pay for that with more switches between them.
    calm: dict[int, list[float]] = {count: [] for count in counts}
    with bench.running(*servers.values()):
        samples = bench.rounds(
            {server.name: bench.contender(server, loads[count]) for count, server in servers.items()}
        )
        for turn in range(bench.repeat):
            for count, server in servers.items():
                calm[count].append(cpu_at_pace(bench, server, count))
            bench.say(
                f"  {turn + 1}/{bench.repeat} at pace: " + ", ".join(f"{one[-1]:.0f} us" for one in calm.values())
            )
    found = {count: median(samples[server.name], "cpu") for count, server in servers.items()}
    widest = max(found.values()) / min(found.values()) - 1
    line = Line(
        "CPU time per message with 1, 2, 4 workers, 20 sessions for each",
        "flat within 10 %",
        ", ".join(f"{value:.0f} us" for value in found.values()) + f" ({widest:.0%} apart)",
        reached=widest <= 0.10,
    )
    paces = [statistics.median(one) for one in calm.values()]
    grows = max(paces) / paces[0] - 1
    at_pace = Line(
        f"the same at {PACE:.0f} messages a second for each worker",
        "grows by 10 % at most",
        ", ".join(f"{value:.0f} us" for value in paces) + f" ({grows:+.0%})",
        reached=grows <= 0.10,
    )
    rates = ", ".join(f"{median(samples[server.name]):,.0f}" for server in servers.values())
    mean = statistics.fmean(found.values())
    note = f"1, 2, 4 workers: {rates} msg/s end to end; {mean:.0f} us CPU per message on average."
    kept = {**raw(samples), "at pace": {str(count): one for count, one in calm.items()}}
    return Result("workers", line.what, [line, at_pace], notes=[note], samples=kept)


def cpu_at_pace(bench: Bench, server: Server, workers: int) -> float:
    """CPU time per message in microseconds where PACE messages a second come for each worker, at random times."""
    messages = int(PACE * workers * bench.seconds)
    before = settle(server.master())
    paced(server, PACE * workers, messages, bench.folder, sessions=20 * workers)
    return (settle(server.master()) - before) / messages * 1e6
