"""One shard: what comes in comes out until it is removed; state is kept; an index can be lost; space is given back."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from fastmta.model.message import FLAG_EXPIRE, FLAG_HOLD, Message
from fastmta.model.outcome import Deferred
from fastmta.queue.chores import BareLoop
from fastmta.queue.errors import QueueFull, QueueLocked
from fastmta.queue.shard import Shard
from fastmta.queue.store import Store
from tests.queue_kit import SMALL, Keeper, content_of, forget_boot, segment_files

REFUSED = Deferred("4.4.1", "connect to mx.example.org[192.0.2.1]:25: Connection refused")


def defer(keeper: Keeper, message: Message, delay: float) -> None:
    message.attempts += 1
    message.next_attempt = time.time() + delay
    message.deferred = {0: REFUSED}
    keeper.shard.park(message)


def test_a_message_is_there_after_any_end(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    kept = {message.queue_id: content_of(message) for message in keeper.keep(20)}
    copy = keeper.crash(tmp_path / "killed")
    cut = keeper.power_cut(tmp_path / "cut")
    keeper.close()
    for queue in (tmp_path / "q", copy, cut):
        again = Keeper(queue)
        assert again.waiting() == kept
        assert again.warnings == []
        again.close()


def test_an_envelope_comes_back_equal(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    (message,) = keeper.keep(recipients=3)
    envelope = message.envelope
    keeper.close()
    again = Keeper(tmp_path / "q")
    (found,) = again.shard.due(time.time(), 10)
    assert found.envelope == envelope
    assert (found.flags, found.attempts, found.done, found.deferred) == (0, 0, None, None)
    assert found.shard == 0
    again.close()


def test_a_lone_message_costs_one_sync_and_many_of_one_turn_cost_one(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    keeper.keep()
    assert keeper.shard.log.syncs == 1
    keeper.keep(50)
    assert keeper.shard.log.syncs == 2
    keeper.close()


def test_a_delivered_message_never_touches_the_index(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    for message in keeper.keep(30):
        keeper.shard.remove(message)
    keeper.tick(4)
    assert keeper.shard.index is not None
    assert keeper.shard.index.count() == 0
    assert keeper.shard.behind.covered == keeper.shard.behind.position
    keeper.close()


@pytest.mark.parametrize("how", ["close", "crash", "power cut", "index written, crash"])
def test_removed_is_removed(tmp_path: Path, how: str) -> None:
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(10)
    if "index" in how:
        keeper.tick(3)
    for message in messages[::2]:
        keeper.shard.remove(message)
        keeper.shard.remove(message)  # once more does nothing
    keeper.settle()
    queue = tmp_path / "q"
    if "crash" in how:
        queue = keeper.crash(tmp_path / "copy")
    elif how == "power cut":
        queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    again = Keeper(queue)
    assert set(again.waiting()) == {message.queue_id for message in messages[1::2]}
    again.close()


@pytest.mark.parametrize("how", ["close", "crash", "power cut"])
def test_state_comes_back(tmp_path: Path, how: str) -> None:
    keeper = Keeper(tmp_path / "q")
    (message,) = keeper.keep(recipients=3)
    message.done = bytearray([0, 1, 0])
    message.deferred = {0: REFUSED, 2: REFUSED}
    message.flags = FLAG_EXPIRE
    message.attempts = 4
    message.next_attempt = time.time() - 1
    keeper.shard.park(message)
    keeper.settle()
    queue = tmp_path / "q"
    if how == "crash":
        queue = keeper.crash(tmp_path / "copy")
    elif how == "power cut":
        queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    again = Keeper(queue)
    (found,) = again.shard.due(time.time() + 1, 10)
    assert found.done == bytearray([0, 1, 0])
    assert found.deferred == {0: REFUSED, 2: REFUSED}
    assert (found.flags, found.attempts, found.next_attempt) == (FLAG_EXPIRE, 4, message.next_attempt)
    again.close()


def test_due_gives_each_message_once_and_in_its_time(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    now = time.time()
    messages = keeper.keep(5)
    for k, message in enumerate(messages):
        defer(keeper, message, 100 + k)
    for written in (False, True):  # parked in memory; then in the index
        if written:
            keeper.tick(3)
            assert not keeper.shard.behind.parked
        assert keeper.shard.due(now, 10) == []
        due = keeper.shard.next_due()
        assert due is not None
        assert now + 99 < due < now + 102
        first = keeper.shard.due(now + 102.9, 10)
        assert {message.queue_id for message in first} == {message.queue_id for message in messages[:3]} or written
        assert keeper.shard.due(now + 102.9, 10) == []
        rest = keeper.shard.due(now + 200, 10)
        assert sorted(m.queue_id for m in first + rest) == sorted(m.queue_id for m in messages)
        assert keeper.shard.due(now + 200, 10) == []
        for message in first + rest:
            defer(keeper, message, 100 + [m.queue_id for m in messages].index(message.queue_id))
    keeper.close()


def test_a_message_that_is_due_earlier_than_what_was_given_out_is_not_forgotten(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    now = time.time()
    early, late = keeper.keep(2)
    defer(keeper, late, 1000)
    defer(keeper, early, 5000)
    keeper.tick(3)
    (given,) = keeper.shard.due(now + 2000, 10)
    assert given.queue_id == late.queue_id
    given.next_attempt = now + 500  # before the rows that were looked at already
    keeper.shard.park(given)
    keeper.tick(3)
    assert [m.queue_id for m in keeper.shard.due(now + 600, 10)] == [late.queue_id]
    keeper.close()


def test_limit_of_due(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    for message in keeper.keep(50):
        defer(keeper, message, 10)
    keeper.tick(3)
    later = time.time() + 20
    given: list[Message] = []
    while more := keeper.shard.due(later, 7):
        assert len(more) <= 7
        given += more
    assert len({message.queue_id for message in given}) == 50
    keeper.close()


def test_orders_on_messages_that_nobody_holds(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    shard = keeper.shard
    later = time.time() + 50
    for written in (False, True):
        (message,) = keeper.keep()
        queue_id = message.queue_id
        assert not shard.hold(queue_id), "the one who appended it holds it"
        defer(keeper, message, 10)
        if written:
            keeper.tick(3)
        assert shard.hold(queue_id)
        assert not shard.hold(queue_id)
        if written:
            keeper.tick(3)
        assert shard.due(later, 10) == []
        found = shard.find(queue_id)
        assert found is not None
        assert found.flags & FLAG_HOLD
        assert not shard.release("0000012345")
        assert shard.release(queue_id)
        assert not shard.release(queue_id)
        assert shard.expire(queue_id)
        (given,) = shard.due(time.time() + 1, 10)
        assert given.flags == FLAG_EXPIRE
        assert given.attempts == 1
        shard.park(given)
        assert shard.requeue(queue_id)
        (given,) = shard.due(time.time() + 1, 10)
        assert given.attempts == 0
        assert not shard.delete(queue_id), "somebody holds it"
        shard.park(given)
        assert shard.delete(queue_id)
        assert not shard.delete(queue_id)
        assert shard.find(queue_id) is None
    keeper.tick(3)
    assert shard.empty
    keeper.close()


def test_a_flush_gives_everything_once_that_is_not_on_hold(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    shard = keeper.shard
    messages = keeper.keep(12)
    for message in messages:
        defer(keeper, message, 1000)
    keeper.tick(3)
    for message in keeper.keep(3):  # parked only in memory
        messages.append(message)
        defer(keeper, message, 1000)
    assert shard.hold(messages[0].queue_id)
    taken = shard.take(messages[1].queue_id)
    assert taken is not None
    shard.flush()
    given = []
    while (step := shard.flushed(4)) is not None:
        assert len(step) <= 4
        for message in step:
            given.append(message.queue_id)
            defer(keeper, message, 1000)
        keeper.tick()
    assert sorted(given) == sorted(message.queue_id for message in messages[2:])
    keeper.close()


def test_content_leaves_memory_over_the_budget_and_is_read_back(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q", msgspec.structs.replace(SMALL, memory_budget=20_000))
    messages = [keeper.message(2000) for _ in range(30)]
    contents = [content_of(message) for message in messages]
    assert keeper.append(*messages) == [None] * 30
    assert sum(message.content is not None for message in messages) <= 10
    for message, content in zip(messages, contents, strict=True):
        assert b"".join(keeper.shard.content(message)) == content
    assert sum(message.content is not None for message in messages) <= 10
    keeper.close()


def test_content_is_not_kept_in_memory_for_a_parked_message(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    (message,) = keeper.keep()
    content = content_of(message)
    defer(keeper, message, 10)
    assert message.content is None
    assert b"".join(keeper.shard.content(message)) == content
    keeper.close()


def test_another_process_cannot_open_it(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    with pytest.raises(QueueLocked):
        Shard(tmp_path / "q" / "shard-00", 0, SMALL, print, BareLoop()).open()
    keeper.close()
    Keeper(tmp_path / "q").close()


def test_too_little_space_refuses_new_mail_only(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    (message,) = keeper.keep()
    keeper.close()
    keeper = Keeper(tmp_path / "q", msgspec.structs.replace(SMALL, minimum_free=1 << 60))
    assert not keeper.shard.has_space()
    (answer,) = keeper.append(keeper.message())
    assert isinstance(answer, QueueFull)
    (found,) = keeper.shard.due(time.time(), 10)
    assert found.queue_id == message.queue_id
    keeper.shard.remove(found)
    keeper.tick(3)
    assert keeper.shard.empty
    keeper.close()


def test_queue_ids_are_unique_over_crashes(tmp_path: Path) -> None:
    seen: set[str] = set()
    queue = tmp_path / "q0"
    for life in range(5):
        keeper = Keeper(queue)
        ids = [keeper.shard.new_queue_id(1_700_000_000.0) for _ in range(50)]
        assert not seen & set(ids)
        seen |= set(ids)
        if life == 2:
            (queue / "shard-00" / "serial").unlink()
        keeper.keep()
        queue = keeper.crash(tmp_path / f"q{life + 1}")
        keeper.close()


# Space


def disk_use(queue: Path) -> int:
    return sum(path.stat().st_size for path in segment_files(queue))


def test_dead_segments_go_at_once_and_survivors_are_moved(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    kept: dict[str, bytes] = {}
    for _ in range(30):
        for k, message in enumerate(keeper.keep(20)):
            if k == 7:
                kept[message.queue_id] = content_of(message)
                defer(keeper, message, 5000)
            else:
                keeper.shard.remove(message)
        keeper.tick()
    keeper.tick(6)
    assert disk_use(tmp_path / "q") < 4 * SMALL.segment_size
    for how in (keeper.crash, keeper.power_cut):
        queue = how(tmp_path / how.__name__)
        again = Keeper(queue)
        assert again.waiting() == kept
        for queue_id in kept:
            found = again.shard.find(queue_id)
            assert found is not None
            assert found.attempts == 1
        assert again.warnings == []
        again.close()
    assert keeper.waiting() == kept
    keeper.close()


def test_a_removed_message_does_not_come_back_when_its_tombstone_s_segment_goes_first(tmp_path: Path) -> None:
    """The dead message lies in a segment that stays (most of it is alive), its tombstone in one that is all dead."""
    keeper = Keeper(tmp_path / "q")
    messages = keeper.keep(40, size=1000)
    stays, dead = messages[:-1], messages[-1]
    home = dead.place
    assert home is not None
    for message in stays:
        defer(keeper, message, 5000)
    while segment_files(tmp_path / "q")[-1].name == segment_files(tmp_path / "q")[0].name:
        for message in keeper.keep(5):
            keeper.shard.remove(message)
    keeper.shard.remove(dead)
    keeper.settle()
    number = int(segment_files(tmp_path / "q")[-1].stem)
    while keeper.shard.segments.get(number):
        for message in keeper.keep(20):
            keeper.shard.remove(message)
        keeper.tick()
    assert home.segment in keeper.shard.segments
    queue = keeper.power_cut(tmp_path / "copy")
    again = Keeper(queue)
    assert set(again.waiting()) == {message.queue_id for message in stays}
    again.close()
    keeper.close()
    reopened = Keeper(tmp_path / "q")  # tombstones are not counted for old segments: they are looked at
    for message in reopened.keep(200):
        reopened.shard.remove(message)
    reopened.tick(6)
    queue = reopened.power_cut(tmp_path / "copy2")
    reopened.close()
    again = Keeper(queue)
    assert set(again.waiting()) == {message.queue_id for message in stays}
    again.close()


def test_a_moved_message_that_was_removed_does_not_come_back_from_its_first_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first home stays, since another message there cannot be moved yet; its second home goes."""
    keeper = Keeper(tmp_path / "q", msgspec.structs.replace(SMALL, segment_size=8 << 10))
    shard = keeper.shard
    moves, stays, *fill = keeper.keep(10, size=300)
    old = moves.place
    assert old is not None
    for message in (moves, stays):
        defer(keeper, message, 5000)

    is_changing = shard.behind.is_changing
    monkeypatch.setattr(shard.behind, "is_changing", lambda key: key == stays.queue_id or is_changing(key))

    def churn() -> None:
        for message in keeper.keep(10):
            shard.remove(message)
        keeper.settle()
        shard.tick()
        keeper.until(lambda: not shard.busy)

    for message in fill:
        shard.remove(message)
    for _ in range(50):
        churn()
        found = shard.find(moves.queue_id)
        assert found is not None
        assert found.place is not None
        if found.place.segment != old.segment:
            break
    else:
        pytest.fail("it was never moved")
    second = found.place.segment
    assert shard.delete(moves.queue_id)
    for _ in range(50):
        churn()
        if second not in shard.segments:
            break
    else:
        pytest.fail("its second home was never given back")
    assert old.segment in shard.segments
    queue = keeper.power_cut(tmp_path / "copy")
    keeper.close()
    again = Keeper(queue)
    assert set(again.waiting()) == {stays.queue_id}
    again.close()


def test_many_small_segments_of_many_restarts_are_merged(tmp_path: Path) -> None:
    kept = set()
    for _ in range(12):
        keeper = Keeper(tmp_path / "q")
        kept.add(keeper.keep()[0].queue_id)
        keeper.close()
    keeper = Keeper(tmp_path / "q")
    kept.add(keeper.keep()[0].queue_id)
    for message in keeper.shard.due(time.time(), 100):
        defer(keeper, message, 100)
    keeper.tick(8)
    assert len(segment_files(tmp_path / "q")) <= 3
    assert set(keeper.waiting()) | {m.queue_id for m in keeper.shard.held()} == kept
    keeper.close()


def test_an_empty_queue_takes_no_space_after_its_end(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    for message in keeper.keep(50):
        keeper.shard.remove(message)
    keeper.close()
    assert segment_files(tmp_path / "q") == []
    keeper = Keeper(tmp_path / "q")
    assert keeper.waiting() == {}
    keeper.close()


# The store


def test_a_store_takes_over_the_mail_of_a_shard_without_owner(tmp_path: Path) -> None:
    other = Keeper(tmp_path / "q", number=3)
    messages = other.keep(4)
    loop = BareLoop()
    store = Store(tmp_path / "q", SMALL, 1, print, loop)
    store.open()
    assert not store.adopt(range(16)), "its owner lives"
    other.close()
    assert store.adopt(range(16))
    assert loop.until(lambda: not store.recovering)
    given = store.due(time.time(), 100)
    assert {message.queue_id for message in given} == {message.queue_id for message in messages}
    own = other.message()
    answers: list[BaseException | None] = []
    store.append(own, answers.append)
    assert loop.until(lambda: bool(answers))
    assert own.shard == 1
    found = store.find(messages[0].queue_id)
    assert found in given
    for message in given:
        store.remove(message)
    assert loop.until(lambda: set(store.shards) == {1}), "an empty shard is given up"
    assert not store.adopt(range(16))
    store.close()
    Keeper(tmp_path / "q", number=3).close()


def test_forgetting_the_boot_forgets_the_index(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "q")
    keeper.close()
    forget_boot(tmp_path / "q")
    assert not list((tmp_path / "q").glob("shard-*/index"))
