"""Results kept as JSON, shown as a table (bench/RESULTS.md) and as a picture (bench/out/throughput.svg).

Called by bench/__main__.py. The table is made of the last result of each row, so that a row can be measured again by
itself; each says when, and at which commit, it was measured.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import msgspec

from bench.contest import Result

HEADING = """\
# Results

Made by `{command}`; what the rows are and how they are measured: [docs/bench.md](../docs/bench.md).

{machine}

Figures are medians of the runs, with the lowest and the highest. All servers of a row ran in turn on the same machine,
with the generator and the sink beside them; FastMTA keeps every message durably before its 250 and writes its full log.
Postfix is Debian's, as `../shared/yardstick/postfix` sets it up{syslog}.

| what | must reach | FastMTA | Postfix | ratio | reached |
|---|---|---|---|---|---|
"""

WORDS = {True: "yes", False: "**no**", None: ""}


def machine(folder: Path, filesystem: str, load: float) -> str:
    """One line about the machine; load: its load average before anything was measured."""
    model = "unknown processor"
    memory = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(": ")[2]
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal"):
            memory = int(line.split()[1]) >> 20
    cores = len(os.sched_getaffinity(0))
    python = platform.python_version()
    return (
        f"{cores} cores ({model}), {memory} GB, Linux {platform.release()}, Python {python},"
        f" queue on {filesystem or folder}; load average {load:.1f} before the first run."
    )


def commit(project: Path) -> str:
    """The commit that is measured, with "+" where the sources differ from it."""
    try:
        name = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [
                "git",
                "-C",
                str(project),
                "status",
                "--porcelain",
                "--untracked-files=no",
                "fastmta",
                "ext",
                "bench/*.py",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name + ("+" if changed else "")


def keep(result: Result, out: Path) -> None:
    """Write one row's result."""
    out.mkdir(parents=True, exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(result), indent=1)
    (out / f"{result.row}.json").write_bytes(text + b"\n")


def kept(out: Path, order: list[str]) -> list[Result]:
    """The last result of each row, in order."""
    found = []
    for row in order:
        path = out / f"{row}.json"
        if path.exists():
            found.append(msgspec.json.decode(path.read_bytes(), type=Result))
    return found


def table(results: list[Result], command: str, about: str) -> str:
    """RESULTS.md."""
    syslog = (
        "" if Path("/dev/log").exists() else " (there is no syslog on this machine: it logs nothing, to its advantage)"
    )
    text = [HEADING.format(command=command, machine=about, syslog=syslog)]
    for result in results:
        if result.error or result.skipped:
            why = f"failed: {result.error}" if result.error else f"skipped: {result.skipped}"
            why = " ".join(why.replace("|", "/").split())
            text.append(f"| {result.title} | | {why} | | | {'**no**' if result.error else ''} |\n")
        text += [
            f"| {line.what} | {line.must} | {line.fastmta} | {line.postfix} | {line.ratio} | {WORDS[line.reached]} |\n"
            for line in result.lines
        ]
    notes = [note for result in results for note in result.notes]
    if notes:
        text.append("\n" + "".join(f"- {note}\n" for note in notes))
    text.append("\n![messages per second, end to end](out/throughput.svg)\n")
    text.append("\n| row | measured | commit | runs | took |\n|---|---|---|---|---|\n")
    text += [
        f"| {result.row} | {result.date} | {result.commit} | {result.repeat} | {result.seconds:.0f} s |\n"
        for result in results
    ]
    return "".join(text)


def picture(results: list[Result], path: Path) -> None:
    """Bars of the rates, end to end."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "fastmta"
    from matplotlib import pyplot

    bars = [bar for result in results for bar in result.bars]
    if not bars:
        return
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.8 * len(bars)))
    for place, bar in enumerate(reversed(bars)):
        for value, shift, colour, name in (
            (bar.fastmta, 0.2, "#2a6fbb", "FastMTA"),
            (bar.postfix, -0.2, "#b0b0b0", "Postfix"),
        ):
            axes.barh(place + shift, value, 0.36, color=colour, label=name if place == 0 else None)
            ratio = f" ({bar.fastmta / bar.postfix:.1f} x)" if name == "FastMTA" and bar.postfix else ""
            if value:
                axes.text(value, place + shift, f" {value:,.0f}{ratio}", va="center", fontsize=8)
        if bar.limit:
            mark = "limit of two hops: half of generator straight to sink"
            axes.plot([bar.limit] * 2, [place - 0.42, place + 0.42], color="#c03030", lw=2, label=mark)
    axes.set_yticks(range(len(bars)), [bar.label for bar in reversed(bars)])
    axes.set_xlabel("messages per second, end to end")
    axes.set_xlim(0, max(max(bar.fastmta, bar.limit) for bar in bars) * 1.18)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
