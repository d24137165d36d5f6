"""What a lookup costs, and a table of a million entries, beside Postfix's postmap in the same run, in turns.

    python -m bench.lookups [ENTRIES]

Ours is in this process, from compiled code and from Python; Postfix's is `postmap -q -` with all keys on its standard
input, less the time that it takes with one key. A million entries: ours is the maker with the lines of a text, the
other is postmap; memory is the largest resident set of a process of its own.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

from fastmta._ext.mapped import CdbFile, LmdbFile
from fastmta.tables.lookup import Context, Flags, open_table
from fastmta.tables.maker import Duplicates, open_maker

ROUNDS = 3
POSTMAP = shutil.which("postmap", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "postmap"


class Defaults:
    """main.cf without a line."""

    def get_str(self, name: str) -> str:
        """All have their defaults."""
        raise KeyError(name)


CONTEXT = Context(Defaults(), print)


def elapsed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def postmap_query(folder: Path, name: str, keys: list[str]) -> float:
    """Seconds that Postfix takes for these keys, without its start."""

    def run(some: list[str]) -> None:
        text = "".join(f"{key}\n" for key in some)
        command = [POSTMAP, "-c", folder, "-q", "-", name]
        subprocess.run(command, input=text, stdout=subprocess.DEVNULL, text=True, check=False)

    one = elapsed(lambda: run(keys[:1]))
    return max(elapsed(lambda: run(keys)) - one, 1e-9)


def report(what: str, ours: float, theirs: float | None = None, compiled: float | None = None) -> None:
    """One line of the table, in lookups a second."""
    columns = [f"{what:32}", f"{compiled:12,.0f}" if compiled else f"{'':12}", f"{ours:12,.0f}"]
    if theirs:
        columns += [f"{theirs:12,.0f}", f"{ours / theirs:7.2f}"]
    print(" ".join(columns), flush=True)


def measure(folder: Path, what: str, name: str, keys: list[str]) -> None:
    """The best of some rounds, ours and Postfix's in turns."""
    table = open_table(name, CONTEXT)
    file = getattr(table, "_file", None)
    encoded = [key.encode() for key in keys]
    ours = theirs = compiled = 1e9
    for _ in range(ROUNDS):
        ours = min(ours, elapsed(lambda: [table.get(key) for key in keys]))
        if isinstance(file, LmdbFile | CdbFile):
            compiled = min(compiled, elapsed(lambda: file.count(encoded)))
        theirs = min(theirs, postmap_query(folder, name, keys))
    table.close()
    count = len(keys)
    report(what, count / ours, count / theirs, count / compiled if compiled < 1e9 else None)


def build(name: str, text: str) -> None:
    """Make a table of a text, and print seconds and megabytes."""
    start = time.perf_counter()
    maker = open_maker(
        name, incremental=False, duplicates=Duplicates.REFUSE, context=CONTEXT, mode=0o644, flags=Flags()
    )
    with open(text) as lines:
        for line in lines:
            key, _, value = line.partition(" ")
            maker.put(key, value.rstrip("\n"))
    maker.commit()
    seconds = time.perf_counter() - start
    print(f"{name.partition(':')[0]:6} ours    {seconds:6.2f} s {peak(resource.RUSAGE_SELF):6.0f} MB", flush=True)


def peak(who: int) -> float:
    """The largest resident set so far, in megabytes."""
    return resource.getrusage(who).ru_maxrss / 1024


def postmap_build(folder: str, name: str) -> None:
    """The same by Postfix."""
    seconds = elapsed(lambda: subprocess.run([POSTMAP, "-c", folder, name], check=True))
    print(f"{name.partition(':')[0]:6} postmap {seconds:6.2f} s {peak(resource.RUSAGE_CHILDREN):6.0f} MB", flush=True)


def main() -> None:
    """All of it."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 1000000
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="fastmta-lookups-") as name:
        folder = Path(name)
        (folder / "main.cf").write_text("compatibility_level = 3.6\n")
        os.utime(folder / "main.cf", (1, 1))
        names = [f"user{chance.getrandbits(48):x}@example{number % 1000}.com" for number in range(entries)]
        text = "".join(f"{key} box{number}@host.example.net\n" for number, key in enumerate(names))
        for path in ("ours", "theirs"):
            (folder / path).write_text(text)
        print(f"{entries} entries")
        processes = get_context("spawn")
        for kind in ("lmdb", "cdb"):
            for _ in range(2):
                jobs: list[tuple[Callable[..., None], tuple[str, ...]]] = [
                    (build, (f"{kind}:{folder}/ours", f"{folder}/ours")),
                    (postmap_build, (name, f"{kind}:{folder}/theirs")),
                ]
                for target, arguments in jobs:
                    process = processes.Process(target=target, args=arguments)
                    process.start()
                    process.join()
        print(f"\n{'lookups/s':32} {'compiled':>12} {'Python':>12} {'postmap':>12} {'ratio':>7}")
        keys = chance.sample(names, min(100000, entries))
        for kind in ("lmdb", "cdb"):
            measure(folder, f"{kind}, {entries} entries, hit", f"{kind}:{folder}/theirs", keys)
            measure(folder, f"{kind}, {entries} entries, miss", f"{kind}:{folder}/theirs", [f"{key}x" for key in keys])
        (folder / "pcre").write_text("".join(f"/^user{n}@(.*)\\.example$/ box{n}@$1\n" for n in range(1000)))
        keys = [f"user{chance.randrange(2000)}@host.example" for _ in range(4000)]
        measure(folder, "pcre, 1000 rules", f"pcre:{folder}/pcre", keys)
        for count in (1000, 10000):
            rules = [f"10.{n >> 8}.{n & 255}.0/{24 + n % 4} OK{n}\n" for n in range(count)]
            (folder / "cidr").write_text("".join(rules))
            keys = [f"10.{chance.randrange(80)}.{chance.randrange(256)}.{chance.randrange(256)}" for _ in range(4000)]
            measure(folder, f"cidr, {count} rules", f"cidr:{folder}/cidr", keys)


if __name__ == "__main__":
    main()
