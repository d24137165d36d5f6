"""The log under faults: cut anywhere, torn pages, failing writes and syncs. Nothing acknowledged is lost or changed.

The faults of writes and syncs are injected in the commit thread itself (CommitThread.inject); torn ends are made of
what that thread wrote: everything up to the last sync that was answered stays, what came after may be there in any
part.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from pathlib import Path

import msgspec
import pytest

from fastmta._ext import commit
from fastmta.model.message import Message
from fastmta.model.outcome import Deferred
from fastmta.queue.errors import QueueError, QueueFailed, QueueFull
from tests.queue_kit import SMALL, Keeper, content_of, segment_files

PAGE = 4096
SECTOR = 512


class Torn:
    """A queue whose last batch is on disk, but was never answered: [synced, end) of the last segment is in doubt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keeper = Keeper(folder / "q")
        removed, parked, *kept = keeper.keep(8, size=200)
        keeper.shard.remove(removed)
        parked.attempts = 3
        parked.deferred = {0: Deferred("4.0.0", "later")}
        keeper.shard.park(parked)
        keeper.settle()
        self.kept = {message.queue_id: content_of(message) for message in kept}
        self.kept[parked.queue_id] = b"".join(keeper.shard.content(parked))
        self.parked = parked.queue_id
        (self.segment,) = segment_files(folder / "q")
        self.synced = self.segment.stat().st_size
        maybe = [keeper.message(size) for size in (50, 700, 90)]
        keeper.shard.remove(kept[0])  # rides with the doubtful batch
        assert keeper.append(*maybe) == [None] * 3
        self.maybe = {message.queue_id: content_of(message) for message in maybe}
        self.victim = kept[0].queue_id
        keeper.power_cut(folder / "after")
        keeper.close()
        (self.segment,) = segment_files(folder / "after")
        self.data = self.segment.read_bytes()
        assert len(self.data) > self.synced
        other = Keeper(folder / "other")
        other.keep(8)
        self.other = segment_files(folder / "other")[0].read_bytes()[64:]
        other.close()

    def check(self, data: bytes) -> None:
        """Open the queue with that as its only segment."""
        self.segment.write_bytes(data)
        again = Keeper(self.folder / "after")
        found = again.waiting()
        for queue_id, content in self.kept.items():
            if queue_id != self.victim:
                assert found.pop(queue_id) == content
        if self.victim in found:
            assert found.pop(self.victim) == self.kept[self.victim]
        for queue_id, content in found.items():
            assert self.maybe[queue_id] == content
        parked = again.shard.find(self.parked)
        assert parked is not None
        assert parked.attempts == 3
        assert again.warnings == [], "a torn end is no damage"
        # and it goes on
        before = set(again.waiting()) | {message.queue_id for message in again.shard.held()}
        (new,) = again.keep()
        copy = self.folder / "next"
        again.power_cut(copy)
        again.close()
        last = Keeper(copy)
        assert set(last.waiting()) == before | {new.queue_id}
        assert last.warnings == []
        last.close()
        for folder in (copy, self.folder / "after" / "shard-00" / "log", self.folder / "after" / "shard-00" / "index"):
            shutil.rmtree(folder, ignore_errors=True)
        self.segment.parent.mkdir()


@pytest.fixture
def torn(tmp_path: Path) -> Torn:
    return Torn(tmp_path)


def some(values: range, count: int, seed: int) -> list[int]:
    """The ends of the range, and so many between."""
    inner = list(values)[1:-1]
    random.Random(seed).shuffle(inner)
    return sorted({values[0], values[-1], *inner[:count]})


def test_cut_anywhere_after_the_last_sync(torn: Torn) -> None:
    for size in some(range(torn.synced, len(torn.data) + 1), 60, 1):
        torn.check(torn.data[:size])


@pytest.mark.slow
def test_cut_at_every_byte_after_the_last_sync(torn: Torn) -> None:
    for size in range(torn.synced, len(torn.data) + 1):
        torn.check(torn.data[:size])


@pytest.mark.slow
def test_cut_at_every_byte_and_filled_with_zeros(torn: Torn) -> None:
    """The size of the file was on disk before its blocks."""
    for size in range(torn.synced, len(torn.data) + 1):
        torn.check(torn.data[:size] + bytes(len(torn.data) - size))


@pytest.mark.parametrize("granule", [SECTOR, PAGE])
@pytest.mark.parametrize("filler", ["zeros", "noise", "old"])
def test_any_part_of_the_last_batch_may_be_missing(torn: Torn, granule: int, filler: str) -> None:
    generator = random.Random(granule)
    first = torn.synced // granule
    last = (len(torn.data) - 1) // granule
    for _ in range(15):
        data = bytearray(torn.data)
        for page in range(first, last + 1):
            if generator.random() < 0.5:
                start, end = max(page * granule, torn.synced), min((page + 1) * granule, len(data))
                if filler == "zeros":
                    data[start:end] = bytes(end - start)
                elif filler == "noise":
                    data[start:end] = generator.randbytes(end - start)
                else:  # what another file left in these blocks: whole records, of another segment
                    data[start:end] = (torn.other * 3)[: end - start]
        torn.check(bytes(data))


def test_a_new_segment_of_which_nothing_reached_the_disk(tmp_path: Path) -> None:
    for size in (0, 1, 63, 64, 100):
        keeper = Keeper(tmp_path / f"q{size}")
        kept = {message.queue_id for message in keeper.keep(3)}
        keeper.crash(tmp_path / f"copy{size}")
        keeper.close()
        copy = tmp_path / f"copy{size}"
        noise = random.Random(1).randbytes(size)
        (copy / "shard-00" / "log" / "0000000002.seg").write_bytes(noise)
        again = Keeper(copy)
        assert set(again.waiting()) == kept
        assert again.warnings == []
        again.keep()
        again.close()


# Faults of writes and syncs


def acknowledged(messages: list[Message], answers: list[BaseException | None]) -> dict[str, bytes]:
    return {
        message.queue_id: content_of(message)
        for message, answer in zip(messages, answers, strict=True)
        if answer is None
    }


def check_copies(keeper: Keeper, folder: Path, kept: dict[str, bytes], refused: set[str]) -> None:
    """After SIGKILL or a power cut at this point all of `kept` and nothing that was refused is there."""
    for how in (keeper.crash, keeper.power_cut):
        queue = how(folder / f"{how.__name__}-{len(list(folder.iterdir()))}")
        again = Keeper(queue)
        found = again.waiting()
        assert {queue_id: found.get(queue_id) for queue_id in kept} == kept
        assert not refused & set(found)
        again.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("written", [0, 1, 30, 64, 100, 700, 1400, 2100])
def test_a_failed_write_refuses_those_messages_only(tmp_path: Path, number: int, written: int) -> None:
    for fresh_segment in (True, False):
        folder = tmp_path / f"{fresh_segment}"
        folder.mkdir()
        keeper = Keeper(folder / "q")
        kept: dict[str, bytes] = {}
        if not fresh_segment:
            kept = {message.queue_id: content_of(message) for message in keeper.keep(3)}
        keeper.shard.log.inject(commit.WRITE, number, written=written)
        messages = [keeper.message(500) for _ in range(4)]
        answers = keeper.append(*messages)
        assert answers[-1] is not None
        for answer in answers:
            expected = QueueFailed if number == errno.EIO else QueueFull
            assert answer is None or isinstance(answer, expected)
        first_refused = next(k for k, answer in enumerate(answers) if answer is not None)
        assert all(answer is not None for answer in answers[first_refused:])
        kept |= acknowledged(messages, answers)
        refused = {message.queue_id for message in messages} - set(kept)
        check_copies(keeper, folder, kept, refused)
        more = keeper.keep(5)  # there is space again
        kept |= {message.queue_id: content_of(message) for message in more}
        check_copies(keeper, folder, kept, refused)
        assert keeper.warnings == []
        keeper.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_state_changes_outlive_a_failed_write(tmp_path: Path, number: int) -> None:
    keeper = Keeper(tmp_path / "q", msgspec.structs.replace(SMALL, reserve=0))
    removed, parked, stays = keeper.keep(3)
    keeper.shard.log.inject(commit.WRITE, number, times=2, written=20)
    parked.attempts = 7
    keeper.shard.remove(removed)
    keeper.shard.park(parked)
    (answer,) = keeper.append(keeper.message())
    assert isinstance(answer, QueueError)
    keeper.settle()
    queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    again = Keeper(queue)
    assert set(again.waiting()) == {parked.queue_id, stays.queue_id}
    found = again.shard.find(parked.queue_id)
    assert found is not None
    assert found.attempts == 7
    again.close()


def test_the_reserve_lets_state_changes_through_on_a_full_disk(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    assert (tmp_path / "q/shard-00/reserve").stat().st_blocks > 0
    removed, stays = keeper.keep(2)
    keeper.shard.log.inject(commit.WRITE, errno.ENOSPC)  # until the reserve was given up
    keeper.shard.remove(removed)
    refused = keeper.message()
    (answer,) = keeper.append(refused)
    assert isinstance(answer, QueueFull)
    assert (tmp_path / "q/shard-00/reserve").stat().st_blocks == 0
    assert keeper.shard.durable == keeper.shard.log.last_sequence, "the tombstone was written at once"
    queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    again = Keeper(queue)
    assert set(again.waiting()) == {stays.queue_id}
    again.close()


def test_a_failed_sync_is_the_end_of_accepting(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = {message.queue_id: content_of(message) for message in keeper.keep(5)}
    keeper.shard.log.inject(commit.SYNC, errno.EIO)
    refused = [keeper.message() for _ in range(3)]
    syncs = keeper.shard.log.syncs
    answers = keeper.append(*refused)
    assert all(isinstance(answer, QueueFailed) for answer in answers)
    assert keeper.shard.log.syncs == syncs + 1, "it is not tried again"
    assert any("fdatasync" in warning for warning in keeper.warnings)
    (answer,) = keeper.append(keeper.message())
    assert isinstance(answer, QueueFailed)
    assert keeper.shard.failed is not None
    check_copies(keeper, tmp_path, kept, {message.queue_id for message in refused})
    # what was accepted before is delivered and leaves for good
    held = keeper.shard.held()
    assert {message.queue_id for message in held} == set(kept)
    for message in held[:3]:
        keeper.shard.remove(message)
        del kept[message.queue_id]
    keeper.settle()
    check_copies(keeper, tmp_path, kept, {message.queue_id for message in held[:3]})
    keeper.close()
    again = Keeper(tmp_path / "q")
    assert set(again.waiting()) == set(kept)
    again.keep()
    again.close()


@pytest.mark.parametrize("operation", [commit.OPEN, commit.DIRECTORY_SYNC])
def test_a_new_segment_that_cannot_be_made(tmp_path: Path, operation: int) -> None:
    keeper = Keeper(tmp_path / "q")
    keeper.shard.log.inject(operation, errno.ENOSPC)
    (answer,) = keeper.append(keeper.message())
    assert isinstance(answer, QueueFull)
    kept = {message.queue_id: content_of(message) for message in keeper.keep(3)}
    # A full segment goes on growing rather than refuse mail.
    keeper.shard.log.inject(operation, errno.EMFILE, times=0)
    for _ in range(5):
        kept |= {message.queue_id: content_of(message) for message in keeper.keep(20, size=1500)}
    assert len(segment_files(tmp_path / "q")) == 1
    keeper.shard.log.inject(operation, 0, times=-1)
    kept |= {message.queue_id: content_of(message) for message in keeper.keep(3)}
    assert len(segment_files(tmp_path / "q")) == 2
    check_copies(keeper, tmp_path, kept, set())
    keeper.close()


def test_random_faults_under_load(tmp_path: Path) -> None:
    """Whatever fails, what was acknowledged is there, what was removed is not, and what was refused is not."""
    generator = random.Random(3)
    keeper = Keeper(tmp_path / "q", msgspec.structs.replace(SMALL, segment_size=20_000, lazy=0.001))
    kept: dict[str, bytes] = {}
    refused: set[str] = set()
    held: dict[str, Message] = {}
    for step in range(150):
        if generator.random() < 0.4:
            operation = generator.choice([commit.WRITE, commit.OPEN, commit.DIRECTORY_SYNC, commit.TRUNCATE])
            number = generator.choice([errno.ENOSPC, errno.EIO])
            keeper.shard.log.inject(operation, number, generator.randrange(3), 1, generator.randrange(3000))
        messages = [keeper.message(generator.randrange(1500)) for _ in range(generator.randrange(1, 9))]
        answers = keeper.append(*messages)
        good = acknowledged(messages, answers)
        kept |= good
        refused |= {message.queue_id for message in messages} - set(good)
        held |= {message.queue_id: message for message in messages if message.queue_id in good}
        for queue_id in generator.sample(sorted(held), min(len(held), generator.randrange(9))):
            keeper.shard.remove(held.pop(queue_id))
            del kept[queue_id]
            refused.add(queue_id)
        if step % 10 == 0:
            keeper.tick()
        if step % 30 == 29:
            keeper.settle()
            check_copies(keeper, tmp_path, kept, refused)
    keeper.close()


def test_a_really_full_disk(tmp_path: Path) -> None:
    """A file system of 1 MB: mail is refused, deliveries free space, mail is taken again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=1m none {disk} 2>/dev/null") != 0:
        pytest.skip("cannot mount a file system here")
    try:
        keeper = Keeper(disk / "q", msgspec.structs.replace(SMALL, reserve=64 << 10, index_map_size=1 << 20))
        kept: list[Message] = []
        for _ in range(300):
            messages = [keeper.message(3000) for _ in range(5)]
            answers = keeper.append(*messages)
            kept += [message for message, answer in zip(messages, answers, strict=True) if answer is None]
            if any(answers):
                assert all(answer is None or isinstance(answer, QueueFull) for answer in answers)
                break
        else:
            pytest.fail("the disk was never full")
        assert len(kept) > 100
        for message in kept[:-10]:
            keeper.shard.remove(message)
        keeper.settle()
        deadline = time.monotonic() + 10
        while any(keeper.append(keeper.message(3000))):
            keeper.tick()
            assert time.monotonic() < deadline, "space does not come back"
        expected = {message.queue_id: content_of(message) for message in kept[-10:]}
        keeper.close()
        again = Keeper(disk / "q", keeper.settings)
        found = again.waiting()
        assert {queue_id: found.get(queue_id) for queue_id in expected} == expected
        again.close()
    finally:
        os.system(f"umount -l {disk}")
