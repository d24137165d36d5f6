"""The bench's measuring: what it counts is what happened, a run that went wrong has no figure, the table says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import disk, results, stone
from bench.contest import Bar, Bench, Line, Result
from bench.fill import fill
from bench.processes import children, cpu_seconds, pss, tree
from bench.rows_latency import paced
from bench.servers import BenchError
from bench.stone import Load, Sample, ends, transfer
from fastmta.model.outcome import Deferred
from fastmta.queue.listing import DEFERRED, Listing
from fastmta.queue.settings import shard_directory
from tests.live import free_port
from tests.unit.queue_at_rest import QueueAtRest

ROOT = Path(__file__).parents[2]
BURN = "import time\nend = time.process_time() + 0.15\nwhile time.process_time() < end: pass\n"

needs_stone = pytest.mark.skipif(bool(stone.missing()), reason=stone.missing() or "-")


# Processes


@pytest.fixture
def program() -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Runs Python text that says something when it is ready."""
    running = []

    def run(text: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield run
    for process in running:
        process.communicate(b"")


def test_cpu_time_has_children_that_ended(program: Callable[[str], subprocess.Popen[bytes]]) -> None:
    child = f"subprocess.run([sys.executable, '-c', {BURN!r}])"
    process = program(f"import subprocess, sys\n{child}\nprint('ready', flush=True)\nsys.stdin.read()")
    assert children(process.pid) == []
    assert cpu_seconds(process.pid) >= 0.15


def test_a_tree_has_all_its_processes(program: Callable[[str], subprocess.Popen[bytes]]) -> None:
    text = "import os, sys\nr, w = os.pipe()\npid = os.fork()\nif pid: print('ready', flush=True)\nsys.stdin.read()"
    process = program(text)
    (child,) = children(process.pid)
    assert tree(process.pid) == [process.pid, child]
    total, anonymous, count = pss(process.pid)
    assert count == 2
    assert 1 << 20 < anonymous < total < 1 << 28


def test_memory_that_is_shared_counts_once(program: Callable[[str], subprocess.Popen[bytes]]) -> None:
    size = 64 << 20
    text = f"import os, sys\nx = bytearray(b'1') * {size}\nif os.fork(): print('ready', flush=True)\nsys.stdin.read()"
    assert size < pss(program(text).pid)[0] < 1.7 * size


# Disk


def test_a_disk_has_figures(tmp_path: Path) -> None:
    found = disk.measure(tmp_path, pieces=2, syncs=5)
    assert 0 < found.sync_4k <= found.sync_4k_p99 < 5000
    assert found.sequential > 0
    assert list(tmp_path.iterdir()) == []


def test_file_systems_are_told_apart(tmp_path: Path) -> None:
    assert disk.filesystem_of(Path("/proc/self")) == "proc"
    assert disk.filesystem_of(tmp_path) != "proc"


# Runs


def test_ends_says_when_and_stops_at_a_failure() -> None:
    good = subprocess.Popen([sys.executable, "-c", ""])
    assert 0 < ends([good])[good] < 30
    bad = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    waits = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        assert list(ends([waits, bad])) == [bad]
    finally:
        waits.communicate(b"")


@needs_stone
def test_the_direct_way() -> None:
    port = free_port()
    sample = transfer(Load(sessions=3), 50, port, port, "direct")
    assert sample.messages == 50
    assert sample.end_to_end > 1


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A server that takes mail and delivers none."""
    port = free_port()
    command = [sys.executable, "-m", "bench.sink", f"127.0.0.1:{port}", "--seconds=60"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    stone.wait_listening(port)
    yield port
    process.terminate()
    process.wait()


class BlackHole:
    """It as a row sees it."""

    name = "black hole"

    def __init__(self, port: int, sink: int) -> None:
        self.port = port
        self.sink = sink
        self.folder = Path()

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def kill(self) -> None: ...

    def flush(self) -> None: ...

    def master(self) -> int:
        return os.getpid()

    def left(self) -> int:
        return 3


@needs_stone
def test_messages_that_do_not_arrive_are_an_error(black_hole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stone, "LIMIT", 1.0)
    with pytest.raises(BenchError, match="20 messages were not all delivered"):
        transfer(Load(sessions=2), 20, black_hole, free_port(), "black hole")


@needs_stone
def test_a_server_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(BenchError, match=r"nobody: smtp-source: .*refused"):
        transfer(Load(sessions=2), 20, free_port(), free_port(), "nobody")


def test_messages_that_do_not_arrive_in_open_loop_are_an_error(
    black_hole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stone, "LIMIT", 2.0)
    with pytest.raises(BenchError, match="did not all arrive"):
        paced(BlackHole(black_hole, free_port()), 1000.0, 20, tmp_path)


def test_messages_left_in_the_queue_are_an_error() -> None:
    with pytest.raises(BenchError, match="3 messages in the queue when all had come"):
        stone.empty(BlackHole(1, 2), 2)


def test_contenders_take_turns(tmp_path: Path) -> None:
    calls: list[tuple[str, int]] = []

    def contender(name: str, rate: float) -> Callable[[int], Sample]:
        def run(messages: int) -> Sample:
            calls.append((name, messages))
            return Sample(messages, rate, rate)

        return run

    bench = Bench(tmp_path, 1, repeat=2, seconds=3.0)
    found = bench.rounds({"a": contender("a", 5000.0), "b": contender("b", 100.0)})
    assert calls[:4] == [("a", 1000), ("a", 5000), ("b", 1000), ("b", 1000)]
    assert calls[4:] == [("a", 15000), ("b", 1000)] * 2
    assert [len(found[name]) for name in "ab"] == [2, 2]


def test_a_full_queue_is_as_a_server_would_leave_it(tmp_path: Path) -> None:
    queue = QueueAtRest(tmp_path)
    shard = queue.shard(2)
    begin = time.time()
    fill(shard, queue.loop, 1500, "dead.example", 4000.0)
    queue.close()
    listing = Listing(shard_directory(queue.directory, 2))
    entries = list(listing.entries())
    listing.close()
    assert len(entries) == 1500
    assert {entry.queue for entry in entries} == {DEFERRED}
    assert all(begin - 1 <= entry.next_attempt <= time.time() + 4000 for entry in entries)
    due_soon = sum(entry.next_attempt < begin + 2000 for entry in entries)
    assert 500 < due_soon < 1000
    for entry in entries:
        assert entry.deferred is not None
        assert isinstance(entry.deferred[0], Deferred)
        assert entry.envelope.recipients[0].address.endswith("@dead.example")


# Table and picture


def made(**changes: object) -> Result:
    lines = [Line("4 KB", "7.5 x", "9,000 msg/s", "900 msg/s", "10.0 x", True)]
    values = {"lines": lines, "bars": [Bar("4 KB", 9000.0, 900.0, 9300.0)], "date": "today", "commit": "abc", **changes}
    return Result("main", "the main row", **values)  # type: ignore[arg-type]


def test_the_table_shows_what_was_found() -> None:
    text = results.table([made(notes=["a remark"])], "python -m bench", "2 cores.")
    assert "| 4 KB | 7.5 x | 9,000 msg/s | 900 msg/s | 10.0 x | yes |" in text
    assert "- a remark" in text
    assert "| main | today | abc | 0 | 0 s |" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lines": [], "error": "lost | all\nof it"}, "| the main row | | failed: lost / all of it | | | **no** |"),
        ({"lines": [], "skipped": "no Postfix"}, "| the main row | | skipped: no Postfix | | |  |"),
        ({"lines": [Line("x", "y", "z", reached=False)]}, "| x | y | z |  |  | **no** |"),
        ({"lines": [Line("x", "y", "z")]}, "| x | y | z |  |  |  |"),
    ],
)
def test_the_table_hides_nothing(change: dict[str, object], said: str) -> None:
    assert said in results.table([made(**change)], "python -m bench", "2 cores.")


def test_results_come_back_in_order(tmp_path: Path) -> None:
    results.keep(made(), tmp_path)
    results.keep(Result("one", "one session", samples={"FastMTA": [1.0]}), tmp_path)
    assert [result.row for result in results.kept(tmp_path, ["one", "nothing", "main"])] == ["one", "main"]
    assert results.kept(tmp_path, ["main"]) == [made()]


def test_the_picture_names_what_it_shows(tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    results.picture([made()], path)
    text = path.read_text()
    assert "<svg" in text
    for word in ("4 KB", " 9,000 (10.0 x)", " 900", "Postfix", "messages per second, end to end"):
        assert f"<!-- {word} -->" in text, word


def test_a_disk_that_is_none_is_refused() -> None:
    shm = Path("/dev/shm")
    if disk.filesystem_of(shm) != "tmpfs" or shutil.which("git") is None:
        pytest.skip("no tmpfs here")
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--folder", str(shm)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "is no disk but tmpfs" in done.stderr
    assert not list(shm.glob("fastmta-bench-*"))


def test_rows_that_there_are_not_are_named() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--rows", "main,fast"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no such row: fast; there are main, sessions100" in done.stderr
