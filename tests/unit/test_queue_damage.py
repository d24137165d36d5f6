"""One shard whose index or log is damaged: the index is made anew, a bad record set aside, the rest delivered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastmta.model.message import Message
from fastmta.model.outcome import Deferred
from fastmta.queue.errors import Damaged
from tests.queue_kit import Keeper, content_of, segment_files

REFUSED = Deferred("4.4.1", "connect to mx.example.org[192.0.2.1]:25: Connection refused")


def defer(keeper: Keeper, message: Message, delay: float) -> None:
    message.attempts += 1
    message.next_attempt = time.time() + delay
    message.deferred = {0: REFUSED}
    keeper.shard.park(message)


# The index


def damage_nothing(index: Path) -> None:
    pass


def delete_index(index: Path) -> None:
    shutil.rmtree(index)


def truncate(index: Path) -> None:
    os.truncate(index / "data.mdb", (index / "data.mdb").stat().st_size // 2 // 4096 * 4096)


def truncate_to_nothing(index: Path) -> None:
    os.truncate(index / "data.mdb", 0)


def garbage(index: Path) -> None:
    (index / "data.mdb").write_bytes(os.urandom((index / "data.mdb").stat().st_size))


def flip_entries(index: Path) -> None:
    data = bytearray((index / "data.mdb").read_bytes())
    at = 0
    while (at := data.find(b"rcpt0@example.org", at + 1)) > 0:
        data[at] ^= 1
    (index / "data.mdb").write_bytes(data)


def zero_pages(index: Path) -> None:
    data = bytearray((index / "data.mdb").read_bytes())
    for page in range(2, len(data) // 4096, 2):
        data[page * 4096 : page * 4096 + 4096] = bytes(4096)
    (index / "data.mdb").write_bytes(data)


def noise_in_pages(index: Path) -> None:
    data = bytearray((index / "data.mdb").read_bytes())
    for page in range(2, len(data) // 4096, 3):
        data[page * 4096 + 16 : page * 4096 + 64] = os.urandom(48)
    (index / "data.mdb").write_bytes(data)


@pytest.mark.parametrize("orderly", [True, False])
@pytest.mark.parametrize(
    "damage",
    [damage_nothing, delete_index, truncate, truncate_to_nothing, garbage, flip_entries, zero_pages, noise_in_pages],
)
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage, orderly: bool) -> None:  # type: ignore[no-untyped-def]
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(60)
    kept = {message.queue_id: content_of(message) for message in messages[20:]}
    for message in messages[20:40]:
        defer(keeper, message, -1)
    keeper.tick(3)
    for message in messages[:20]:
        keeper.shard.remove(message)
    keeper.settle()
    queue = tmp_path / "q" if orderly else keeper.crash(tmp_path / "copy")
    keeper.close()
    damage(queue / "shard-00" / "index")
    again = Keeper(queue)
    assert again.waiting() == kept
    for message in messages[20:40]:
        found = again.shard.find(message.queue_id)
        assert found is not None
        assert found.deferred == {0: REFUSED}
    assert bool(again.warnings) == (damage not in (damage_nothing, delete_index))
    again.close()


def test_an_index_of_another_boot_is_not_trusted_unless_it_was_closed(tmp_path: Path) -> None:
    """After a loss of power the index file can be a mixture of old and new pages."""
    keeper = Keeper(tmp_path / "q")
    keeper.shard.behind._boot_id = "another"
    messages = keeper.keep(3)
    keeper.tick(3)
    copy = keeper.crash(tmp_path / "copy")
    index = keeper.shard.index
    assert index is not None
    with index:
        for message in messages:
            index.delete(message.queue_id)
    lying = keeper.crash(tmp_path / "lying")
    keeper.close()
    for queue in (copy, lying):
        again = Keeper(queue)
        assert set(again.waiting()) == {message.queue_id for message in messages}
        again.close()


def test_damage_of_the_index_that_is_met_later_is_repaired_in_the_running_shard(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    parked = keeper.keep(20)
    kept = {message.queue_id: content_of(message) for message in parked}
    for message in parked:
        defer(keeper, message, -1)
    keeper.tick(3)
    held = keeper.keep(5)
    index = keeper.shard.index
    assert index is not None
    index.begin()
    assert index._txn is not None
    index._txn.put(parked[7].queue_id.encode(), b"", db=index._entries)
    with index._txn.cursor(db=index._entries) as cursor:
        for key, _ in cursor:
            index._txn.put(key, b"nonsense", db=index._entries)
    index.commit()
    given = keeper.shard.due(time.time(), 100)
    assert given == []
    assert any("index" in warning for warning in keeper.warnings)
    keeper.until(lambda: not keeper.shard.recovering)
    assert keeper.waiting() == kept
    for message in held:
        keeper.shard.remove(message)
    keeper.tick(4)
    keeper.close()
    again = Keeper(tmp_path / "q")
    assert set(again.waiting()) == set(kept)
    again.close()


def test_readers_of_the_index_see_what_was_synced(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(10)
    keeper.shard.remove(messages[0])
    defer(keeper, messages[1], 77)
    keeper.shard.sync_index()
    code = (
        "import sys; from pathlib import Path; from fastmta.queue.index import Index\n"
        "index = Index(Path(sys.argv[1]), 64 << 20, read_only=True)\n"
        "print(*(entry.envelope.queue_id for _, entry in index.entries()))\n"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "q/shard-00/index")], capture_output=True, text=True, check=True
    )
    assert sorted(seen.stdout.split()) == sorted(message.queue_id for message in messages[1:])
    keeper.close()


# Damage of the log


def test_a_damaged_content_is_set_aside_and_the_rest_delivered(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(5)
    victim = messages[2]
    place = victim.place
    assert place is not None
    keeper.close()
    (segment,) = segment_files(tmp_path / "q")
    with segment.open("r+b") as file:
        file.seek(place.offset + place.length - 100)
        file.write(b"?")
    again = Keeper(tmp_path / "q")
    good = []
    for message in again.shard.due(time.time(), 10):
        if message.queue_id == victim.queue_id:
            with pytest.raises(Damaged):
                again.shard.content(message)
        else:
            good.append(b"".join(again.shard.content(message)))
    assert good == [content_of(message) for message in messages if message is not victim]
    (aside,) = (tmp_path / "q" / "corrupt").iterdir()
    assert victim.queue_id.encode() in aside.read_bytes()
    assert victim.queue_id in again.warnings[0]
    assert again.shard.find(victim.queue_id) is None
    again.close()


@pytest.mark.parametrize("at", [0, 5, 8, 24, 36, 41, 50, 90])
def test_a_damaged_head_in_the_middle_is_set_aside_when_the_log_is_read(tmp_path: Path, at: int) -> None:
    keeper = Keeper(tmp_path / "q")
    before, (victim,), after = keeper.keep(3), keeper.keep(1), keeper.keep(3)
    place = victim.place
    assert place is not None
    queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    (segment,) = segment_files(queue)
    data = bytearray(segment.read_bytes())
    data[place.offset + at] ^= 0x80
    segment.write_bytes(data)
    again = Keeper(queue)
    assert again.waiting() == {message.queue_id: content_of(message) for message in before + after}
    assert len(again.warnings) == 1
    (aside,) = (queue / "corrupt").iterdir()
    assert aside.stat().st_size == place.length
    again.close()


def test_a_damaged_segment_header_costs_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(5) + keeper.keep(5)
    queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    (segment,) = segment_files(queue)
    data = bytearray(segment.read_bytes())
    data[20] ^= 0x80
    segment.write_bytes(data)
    again = Keeper(queue)
    assert set(again.waiting()) == {message.queue_id for message in messages}
    again.close()


def test_a_sealed_segment_that_lost_its_end_is_reported(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    while len(segment_files(tmp_path / "q")) < 2:
        keeper.keep(10)
    queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    first = segment_files(queue)[0]
    os.truncate(first, first.stat().st_size - 10)
    again = Keeper(queue)
    assert again.warnings
    again.close()
