"""A large queue starts at once, is scheduled soon, and costs the memory of a small one; disk use stays flat.

The limits are those that a user was promised, with room for a busy machine.
"""

from __future__ import annotations

import gc
import resource
import time
from pathlib import Path

import pytest

from fastmta.model.envelope import Envelope, Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Deferred
from fastmta.queue.chores import BareLoop
from fastmta.queue.settings import QueueSettings
from fastmta.queue.store import Store
from tests.queue_kit import ORIGIN, forget_boot, segment_files

MILLION = 1_000_000
BODY = b"x" * 4000 + b"\r\n"


def opened(queue: Path, loop: BareLoop) -> Store:
    store = Store(queue, QueueSettings(), 0, print, loop)
    store.open()
    return store


def message(store: Store) -> Message:
    now = time.time()
    to = (Recipient("recipient@example.org"),)
    return Message(Envelope(store.new_queue_id(now), now, "sender@example.com", to, 4100, origin=ORIGIN), [BODY])


def defer(store: Store, one: Message, delay: float) -> None:
    one.attempts += 1
    one.next_attempt = time.time() + delay
    one.deferred = {0: Deferred("4.4.1", "connect to mx.example.org[192.0.2.1]:25: Connection timed out")}
    store.park(one)


def keep(store: Store, loop: BareLoop, count: int) -> list[Message]:
    answers: list[BaseException | None] = []
    messages = [message(store) for _ in range(count)]
    for one in messages:
        store.append(one, answers.append)
    assert loop.until(lambda: len(answers) == count)
    assert not any(answers)
    return messages


def proportional_memory() -> int:
    """MB of this process, shared pages by share."""
    gc.collect()
    rollup = Path("/proc/self/smaps_rollup").read_text().split()
    return int(rollup[rollup.index("Pss:") + 1]) >> 10


@pytest.mark.slow
def test_a_million_deferred_messages(tmp_path: Path) -> None:
    loop = BareLoop()
    others = proportional_memory()  # what the tests before this one left in the process is not the queue's
    store = opened(tmp_path, loop)
    begun = time.monotonic()
    for step in range(MILLION // 400):
        for one in keep(store, loop, 400):
            defer(store, one, 600 + step)
        while time.monotonic() < begun + step * 400 / 12_000:  # the index is written behind
            loop.turn(0.01)
    assert proportional_memory() - others < 150
    store.close()
    for index_lost in (False, True):
        if index_lost:
            forget_boot(tmp_path)
        begun = time.monotonic()
        store = opened(tmp_path, loop)
        (new,) = keep(store, loop, 1)
        accepted = time.monotonic() - begun
        assert loop.until(lambda store=store: not store.recovering, 60)  # type: ignore[misc]
        scheduled = time.monotonic() - begun
        assert accepted < 2
        assert scheduled < 30
        store.remove(new)
        assert len(store.due(time.time() + 10_000, 500)) == 500
        memory = proportional_memory() - others
        assert memory < 150
        print(f"accepted after {accepted:.3f} s, all scheduled after {scheduled:.1f} s, {memory} MB")
        store.close()
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "MB")


@pytest.mark.slow
def test_disk_use_is_flat_with_a_part_of_the_mail_deferred_for_long(tmp_path: Path) -> None:
    """5 % stays for the time of 60 rounds, and is tried again meanwhile; the rest is delivered at once."""
    loop = BareLoop()
    settings = QueueSettings(segment_size=1 << 20, index_interval=0.05, index_map_size=256 << 20)
    store = Store(tmp_path, settings, 0, print, loop)
    store.open()
    deferred: list[list[str]] = []
    use: list[int] = []
    for _ in range(400):
        stays = []
        for k, one in enumerate(keep(store, loop, 100)):
            if k % 20 == 7:
                stays.append(one.queue_id)
                defer(store, one, 1000)
            else:
                store.remove(one)
        deferred.append(stays)
        if len(deferred) > 60:
            for queue_id in deferred.pop(0):
                assert store.delete(queue_id)
        for queue_id in deferred[len(deferred) // 2]:
            taken = store.take(queue_id)
            assert taken is not None
            defer(store, taken, 1000)
        end = time.monotonic() + 0.03
        while time.monotonic() < end:
            loop.turn(0.005)
        use.append(sum(path.stat().st_size for path in segment_files(tmp_path)))
    alive = 60 * 5 * 4300
    early, late = max(use[100:200]), max(use[300:])
    assert late < 1.25 * early + settings.segment_size
    assert late < 3 * alive + 8 * settings.segment_size
    store.close()
