"""The index fails while the queue is at work, the disk is full, an opening fails: nothing is lost or sent twice."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import lmdb
import pytest

from fastmta._ext import commit
from fastmta.model.message import Message
from fastmta.model.outcome import Deferred
from fastmta.queue import ids, shard
from fastmta.queue.index import Index, IndexDamaged
from tests.queue_kit import SMALL, Keeper, content_of

LATER = Deferred("4.4.1", "connect to mx: Connection refused")


def defer(keeper: Keeper, message: Message) -> None:
    message.attempts += 1
    message.deferred = {0: LATER}
    message.next_attempt = message.envelope.arrival + 300
    keeper.shard.park(message)


@pytest.mark.parametrize("failing", range(6))
def test_a_failed_index_write_loses_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = keeper.keep(10)
    expected = {message.queue_id: content_of(message) for message in kept}
    for message in kept[:5]:
        defer(keeper, message)
    keeper.settle()
    original = Index.__exit__
    count = 0

    def full(index: Index, kind: object, error: object, trace: object) -> None:
        nonlocal count
        count += 1
        if count - 1 == failing:
            original(index, lmdb.DiskError, None, None)
            raise lmdb.DiskError("No space left on device")
        original(index, kind, error, trace)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "__exit__", full)
    keeper.tick(4)
    for message in kept[5:]:
        defer(keeper, message)
    keeper.tick(4)
    monkeypatch.undo()
    assert keeper.waiting() == expected
    keeper.crash(tmp_path / "after")
    keeper.close()
    again = Keeper(tmp_path / "after")
    assert again.waiting() == expected
    again.close()


def test_a_listing_does_not_wait_for_a_full_disk(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(3)
    keeper.tick()
    keeper.shard.log.inject(commit.WRITE, errno.ENOSPC, times=0)
    for message in messages:
        defer(keeper, message)
    rescue = threading.Timer(5.0, lambda: keeper.shard.log.inject(commit.WRITE, 0, times=-1))
    rescue.start()
    keeper.shard.sync_index()
    in_time = rescue.is_alive()
    rescue.cancel()
    rescue.join()
    keeper.shard.log.inject(commit.WRITE, 0, times=-1)
    assert in_time
    keeper.settle()
    assert len(keeper.waiting()) == 3
    keeper.close()


@pytest.mark.parametrize("failing", range(5))
@pytest.mark.parametrize("anew", [False, True])
def test_a_recovery_on_a_full_disk_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool, failing: int
) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = keeper.keep(100)
    expected = {message.queue_id: content_of(message) for message in kept}
    for message in kept[:50]:
        defer(keeper, message)
    keeper.tick(3)
    for message in kept[50:]:
        defer(keeper, message)
    keeper.settle()
    if anew:
        keeper.power_cut(tmp_path / "after")
    else:
        keeper.crash(tmp_path / "after")
    live = {number: (segment.live, segment.live_bytes) for number, segment in keeper.shard.segments.items()}
    keeper.close()
    original = Index.__exit__
    count = 0

    def full(index: Index, kind: object, error: object, trace: object) -> None:
        nonlocal count
        count += 1
        if failing <= count - 1 < failing + 2:
            original(index, lmdb.DiskError, None, None)
            raise lmdb.DiskError("No space left on device")
        original(index, kind, error, trace)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "__exit__", full)
    monkeypatch.setattr(shard, "RECOVERY_PAUSE", 0.01)
    again = Keeper(tmp_path / "after")
    monkeypatch.undo()
    if count > failing:
        assert any("cannot make its index: No space left on device: trying again" in line for line in again.warnings)
    known = again.shard.segments
    assert {number: (known[number].live, known[number].live_bytes) for number in live} == live
    assert again.waiting() == expected
    again.close()


def test_a_recovery_that_waits_for_the_disk_does_not_outlive_its_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = keeper.keep(3)
    keeper.crash(tmp_path / "after")
    keeper.close()

    def full(*_: object) -> None:
        raise lmdb.DiskError("No space left on device")

    monkeypatch.setattr(Index, "__exit__", full)
    monkeypatch.setattr(shard, "RECOVERY_PAUSE", 0.01)
    again = Keeper(tmp_path / "after", wait=False)
    again.until(lambda: len(again.warnings) > 2)
    more = again.keep(2)
    again.close()
    monkeypatch.undo()
    again.loop.turn(0.05)
    last = Keeper(tmp_path / "after")
    assert last.waiting().keys() == {message.queue_id for message in [*kept, *more]}
    last.close()


def test_a_listing_waits_for_the_end_of_a_recovery(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = keeper.keep(300)
    for message in kept:
        defer(keeper, message)
    keeper.settle()
    keeper.power_cut(tmp_path / "after")
    keeper.close()
    again = Keeper(tmp_path / "after", wait=False)
    done: list[bool] = []
    again.shard.sync_index(lambda: done.append(True))
    assert not done
    again.until(lambda: bool(done))
    assert not again.shard.recovering
    assert again.shard.index is not None
    assert again.shard.index.count() == 300
    again.close()


def test_an_index_that_is_gone_is_made_anew(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = keeper.keep(30)
    for message in kept:
        defer(keeper, message)
    keeper.tick(2)
    shutil.rmtree(tmp_path / "q" / "shard-00" / "index")
    keeper.shard.tick()
    assert keeper.shard.recovering
    keeper.until(lambda: not keeper.shard.recovering)
    assert (tmp_path / "q" / "shard-00" / "index" / "data.mdb").exists()
    assert keeper.waiting().keys() == {message.queue_id for message in kept}
    keeper.close()


def test_a_listing_is_not_held_up_by_the_work_under_way(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    stays = keeper.keep(200)
    for message in stays:
        defer(keeper, message)
    keeper.settle()
    keeper.shard.log.inject(commit.SYNC, 0, delay=1.0)  # the cycle waits for a batch that takes its time
    keeper.shard.remove(stays.pop())
    keeper.shard.tick()
    keeper.loop.turn(0.0)
    new = keeper.keep(5)
    done: list[bool] = []
    keeper.shard.sync_index(lambda: done.append(keeper.shard.busy))
    keeper.until(lambda: bool(done))
    index = keeper.shard.index
    assert index is not None
    assert index.count() == len(stays) + len(new)
    assert all(index.get(message.queue_id) is not None for message in [*stays, *new])
    keeper.until(lambda: not keeper.shard.busy)
    assert keeper.waiting().keys() == {message.queue_id for message in stays}  # new ones are held
    keeper.close()


def test_what_is_removed_while_the_index_is_rebuilt_stays_removed(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q", SMALL)
    old = keeper.keep(300, size=50)
    for message in old:
        defer(keeper, message)
    keeper.tick(3)
    fast = keeper.keep(5)
    for message in fast:  # not durable yet when the index is lost
        keeper.shard.remove(message)
    keeper.shard._index_failed(IndexDamaged("for a test"), keeper.shard.index)
    during = keeper.keep(5)
    keeper.until(lambda: not keeper.shard.recovering)
    for message in during:
        keeper.shard.remove(message)
    keeper.settle()
    assert keeper.waiting().keys() == {message.queue_id for message in old}
    keeper.close()


def test_the_index_lost_twice_is_rebuilt_once(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(20)
    for message in messages:
        defer(keeper, message)
    keeper.tick(2)
    keeper.shard._index_failed(IndexDamaged("for a test"), keeper.shard.index)
    keeper.shard._index_failed(IndexDamaged("for a test"), keeper.shard.index)
    keeper.until(lambda: not keeper.shard.recovering)
    assert len(keeper.waiting()) == 20
    assert len(keeper.warnings) == 1
    keeper.close()


def test_an_index_that_lmdb_calls_damaged_is_rebuilt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(20)
    for message in messages:
        defer(keeper, message)
    keeper.tick(3)

    def damaged(*_: object) -> None:
        raise lmdb.CorruptedError("mdb_cursor_get: MDB_CORRUPTED")

    monkeypatch.setattr(Index, "due", damaged)
    assert keeper.shard.due(2e9, 10) == []
    monkeypatch.undo()
    keeper.until(lambda: not keeper.shard.recovering)
    assert len(keeper.shard.due(messages[0].envelope.arrival + 1000, 100)) == 20
    keeper.close()


def test_a_shard_that_could_not_be_opened_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path / "q")
    keeper.keep(1)
    keeper.close()

    def too_many(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(ids.Serials, "__init__", too_many)
    with pytest.raises(OSError, match="Too many"):
        Keeper(tmp_path / "q")
    monkeypatch.undo()
    again = Keeper(tmp_path / "q")
    assert len(again.waiting()) == 1
    again.close()
