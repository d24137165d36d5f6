"""`python -m bench`: measure FastMTA beside Postfix and write bench/RESULTS.md; `make bench` runs it.

    python -m bench                            every row, medians of five
    python -m bench --quick                    the main row alone, three short runs; prints, and keeps nothing
    python -m bench --rows main,latency        these rows; the others of the table stay as they were measured last

Ends with 1 when a row could not be measured, not when a figure is short of what it must reach: the table says that.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import results, rows, rows_deferred, rows_latency
from bench.contest import Bench, Result
from bench.disk import filesystem_of
from bench.servers import PROJECT, BenchError, Postfix

ROWS: dict[str, tuple[str, Callable[[Bench], Result]]] = {
    "main": ("4 KB, 20 sessions kept open", rows.main),
    "sessions100": ("4 KB, 100 sessions kept open, and memory", rows.sessions100),
    "newsession": ("4 KB, a new session for each message", rows.newsession),
    "size100k": ("100 KB, 20 sessions kept open", rows.size100k),
    "one": ("4 KB, one session", rows.one),
    "latency": ("latency of the 250 at half of the maximal rate", rows_latency.latency),
    "deferred": ("1,000,000 deferred messages in the queue", rows_deferred.deferred),
    "workers": ("1, 2, 4 workers", rows.workers),
}
QUIET = 0.5  # load average above which the figures are not to be trusted


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="FastMTA beside Postfix, in turn.")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"any of {','.join(ROWS)} (default: all)")
    parser.add_argument("--repeat", type=int, default=0, help="runs of each (default: 5)")
    parser.add_argument("--seconds", type=float, default=4.0, help="that one run takes, about (default: 4)")
    parser.add_argument("--quick", action="store_true", help="main row, 3 runs of 2 s unless said otherwise; not kept")
    parser.add_argument("--no-postfix", action="store_true", help="FastMTA alone")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="disk for the queues (default: /var/tmp)")
    parser.add_argument("--port", type=int, default=21600, help="first of ten free ports on 127.0.0.1 (default: 21600)")
    parser.add_argument("--deferred", type=int, default=1_000_000, help="messages in the full queue (default: 1000000)")
    parser.add_argument("--out", type=Path, default=PROJECT / "bench", help="where RESULTS.md and out/ go")
    options = parser.parse_args()
    if options.quick:
        if options.rows == parser.get_default("rows"):
            options.rows = "main"
        options.seconds = min(options.seconds, 2.0)
    options.repeat = options.repeat or (3 if options.quick else 5)
    options.rows = options.rows.split(",")
    if unknown := [row for row in options.rows if row not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return options


def measure(row: str, bench: Bench, commit: str) -> Result:
    """One row; what goes wrong becomes its result."""
    title, function = ROWS[row]
    bench.say(f"{row}: {title}")
    begin = time.monotonic()
    try:
        result = function(bench)
    except BenchError as error:
        result = Result(row, title, error=str(error))
        bench.say(f"  failed: {error}")
    result.date = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    result.commit = commit
    result.seconds = time.monotonic() - begin
    result.repeat = bench.repeat
    return result


def main() -> int:
    """Measure, show, keep."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="fastmta-bench-", dir=options.folder))
    folder.chmod(0o755)
    bench = Bench(folder, options.port, options.repeat, options.seconds, deferred=options.deferred)
    filesystem = filesystem_of(folder)
    if filesystem in {"tmpfs", "ramfs"}:
        shutil.rmtree(folder)
        print(f"bench: {options.folder} is no disk but {filesystem}: choose another --folder", file=sys.stderr)
        return 2
    if why := "asked for FastMTA alone" if options.no_postfix else Postfix.missing():
        bench.postfix = False
        bench.say(f"without Postfix: {why}")
    load = os.getloadavg()[0]
    if load > QUIET:
        bench.say(f"the load average is {load:.1f}: others use this machine, figures will be noisy")
    commit = results.commit(PROJECT)
    command = shlex.join(["python", "-m", "bench", *sys.argv[1:]])
    found = []
    try:
        for row in options.rows:
            result = measure(row, bench, commit)
            found.append(result)
            if not options.quick:
                results.keep(result, options.out / "out")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    about = results.machine(folder, filesystem, load)
    if not options.quick:
        shown = results.kept(options.out / "out", list(ROWS))
        results.picture(shown, options.out / "out" / "throughput.svg")
        (options.out / "RESULTS.md").write_text(results.table(shown, command, about))
    print(results.table(found, command, about))
    return 1 if any(result.error for result in found) else 0


if __name__ == "__main__":
    sys.exit(main())
