"""The commit thread by itself: what waits for what, how many syncs that takes, and who is told."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fastmta._ext import commit
from fastmta._ext.commit import CommitThread
from fastmta._ext.records import MESSAGE, OUTCOME, REMOVE, Scanner, parse_segment_header
from fastmta.queue.model import decode_remove

if TYPE_CHECKING:
    from fastmta._ext.commit import Batch

LAZY = 0.2


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[CommitThread]:
    made = CommitThread(str(tmp_path), 2, 7, segment_size=1 << 20, lazy=LAZY)
    yield made
    made.close()


def wait(thread: CommitThread, timeout: float = 10.0) -> list[Batch]:
    """The next news."""
    poll = select.poll()
    poll.register(thread.fileno(), select.POLLIN)
    assert poll.poll(timeout * 1000), "no news"
    return thread.collect()


def records(folder: Path, number: int) -> list[tuple[int, bytes]]:
    with (folder / f"{number:010d}.seg").open("rb") as file:
        header = parse_segment_header(file.read(64))
        assert header is not None
        assert header[:2] == (2, number)
        scanner = Scanner(file.fileno(), file.seek(0, 2), 64, header[2])
        found = []
        while (item := scanner.next()) is not None:
            found.append((item[0], item[3]))
        return found


def test_state_changes_ride_with_the_next_message(thread: CommitThread, tmp_path: Path) -> None:
    for k in range(5):
        thread.remove(f"00000{k}1234", 3)
        thread.message(MESSAGE, b"meta", [b"content"], k)
        thread.kick()
        ((_, segment, base, end, error, entries),) = wait(thread)
        assert (segment, error) == (7, 0)
        ((token, place, failure),) = entries
        assert (token, failure) == (k, 0)
        assert place is not None
        assert base < place.offset < place.offset + place.length == end
    assert thread.syncs == 5
    found = records(tmp_path, 7)
    assert [kind for kind, _ in found] == [REMOVE, MESSAGE] * 5
    assert decode_remove(found[0][1]) == ("0000001234", 3)


def test_state_changes_alone_wait_a_little_and_not_for_ever(thread: CommitThread) -> None:
    start = time.monotonic()
    for _ in range(100):
        thread.record(OUTCOME, b"state")
    ((_, _, _, _, error, entries),) = wait(thread)
    assert LAZY * 0.9 <= time.monotonic() - start < LAZY + 5
    assert (error, entries, thread.syncs) == (0, [], 1)


def test_a_message_does_not_wait_for_that(thread: CommitThread) -> None:
    thread.record(OUTCOME, b"state")
    start = time.monotonic()
    thread.message(MESSAGE, b"meta", [b"content"], None)
    thread.kick()
    wait(thread)
    assert time.monotonic() - start < LAZY * 0.9


def test_what_comes_during_a_sync_shares_the_next_one(thread: CommitThread) -> None:
    for _ in range(5):
        before = thread.syncs
        thread.inject(commit.SYNC, 0, delay=1.0)
        begin = time.monotonic()
        thread.message(MESSAGE, b"meta", [b"first"], -1)
        thread.kick()
        while thread.syncs == before:
            time.sleep(0.001)
        for k in range(50):
            thread.message(MESSAGE, b"meta", [b"later"], k)
            thread.kick()
        in_time = time.monotonic() - begin < 0.8  # else the machine stood still, and this says nothing
        tokens: list[list[object]] = []
        while sum(map(len, tokens)) < 51:
            tokens += [[token for token, _, _ in batch[5]] for batch in wait(thread)]
        if in_time:
            assert tokens == [[-1], list(range(50))]
            assert thread.syncs == before + 2
            return
    pytest.fail("50 messages took a second, five times")


def test_closing_makes_everything_durable(thread: CommitThread, tmp_path: Path) -> None:
    thread.message(MESSAGE, b"meta", [b"content"] * 2000, "token")
    thread.record(OUTCOME, b"state")
    thread.close()
    ((_, _, _, _, _, ((token, place, error),)),) = thread.collect()
    assert (token, error) == ("token", 0)
    assert place is not None
    assert {kind for kind, _ in records(tmp_path, 7)} == {MESSAGE, OUTCOME}
    with pytest.raises(RuntimeError):
        thread.message(MESSAGE, b"meta", [b"content"], None)


def test_a_message_larger_than_a_segment_gets_one_for_itself(thread: CommitThread, tmp_path: Path) -> None:
    for size in (100, 3 << 20, 100):
        thread.message(MESSAGE, b"meta", [b"x" * size], size)
        thread.kick()
        wait(thread)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:010d}.seg" for n in (7, 8, 9)]
    assert (tmp_path / "0000000008.seg").stat().st_size > 3 << 20


def test_nothing_is_kept_alive_when_it_is_dropped(tmp_path: Path) -> None:
    class Token:
        alive = 0

        def __init__(self) -> None:
            Token.alive += 1

        def __del__(self) -> None:
            Token.alive -= 1

    thread = CommitThread(str(tmp_path), 0, 1, segment_size=1 << 20, lazy=LAZY)
    for _ in range(10):
        thread.message(MESSAGE, b"meta", [b"content"], Token())
    del thread
    assert Token.alive == 0
