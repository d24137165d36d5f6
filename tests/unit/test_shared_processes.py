"""Memory shared by workers, with real processes that are killed at any moment."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import pytest

from fastmta._ext.shared import Client, SharedTable
from fastmta._ext.window import Window

FORK = get_context("fork")


@pytest.fixture
def table() -> Iterator[SharedTable]:
    made = SharedTable.create(256)
    made.bind(0)
    made.fixed_time = 1_000_000.0
    yield made
    made.close()


def worker(table: SharedTable, slot: int) -> SharedTable:
    """The same memory, as another worker sees it."""
    other = SharedTable.attach(table.fd)
    other.bind(slot)
    other.fixed_time = table.fixed_time
    return other


def acquire_all(window: Window) -> int:
    taken = 0
    while window.try_acquire():
        taken += 1
    return taken


def _hammer(table: SharedTable, slot: int, seconds: int, answer: Connection) -> None:
    """Take and give back places of one window as fast as possible; wait for a wakeup where there is none."""
    table.bind(slot)
    window = Window(table, "smtp:example.com", 3)
    signal.alarm(seconds * 10)
    taken = slow = most = 0
    poll = select.poll()
    poll.register(table.wake_fd(), 1)
    while taken < 3000:
        if not window.try_acquire():
            window.wait()
            if not window.try_acquire():
                # No timer here: a lost wakeup shows as a wait that ends with the time limit.
                if not poll.poll(2000):
                    slow += 1
                else:
                    os.eventfd_read(table.wake_fd())
                window.stop_waiting()
                continue
            window.stop_waiting()
        most = max(most, window.in_use())
        taken += 1
        window.release()
    answer.send((taken, slow, most))


def test_no_wakeup_is_lost_between_processes() -> None:
    table = SharedTable.create(256)
    pairs = [FORK.Pipe(duplex=False) for _ in range(4)]
    children = [
        FORK.Process(target=_hammer, args=(table, slot, 3, sender)) for slot, (_receiver, sender) in enumerate(pairs)
    ]
    for child in children:
        child.start()
    results = []
    for receiver, _sender in pairs:
        assert receiver.poll(30)
        results.append(receiver.recv())
    for child in children:
        child.join(10)
    for taken, slow, most in results:
        assert taken == 3000
        assert slow == 0
        # Somebody who looks may count one that another process adds before it sees that it must step back.
        assert most <= 3 + 3
    table.bind(9)
    assert Window(table, "smtp:example.com", 3).in_use() == 0
    table.close()


def _hold(table: SharedTable, slot: int, ready: Connection) -> None:
    table.bind(slot)
    window = Window(table, "smtp:example.com", 4)
    held: list[Client] = []
    acquire_all(window)
    held.extend(table.client("smtpd", "192.0.2.1") for _ in range(10))
    ready.send(window.mine)
    threading.Event().wait()


def test_a_killed_process_leaves_nothing_behind() -> None:
    table = SharedTable.create(256)
    table.bind(0)
    for _ in range(5):
        receiver, sender = FORK.Pipe(duplex=False)
        child = FORK.Process(target=_hold, args=(table, 1, sender))
        child.start()
        assert receiver.poll(10)
        assert receiver.recv() == 4
        window = Window(table, "smtp:example.com", 4)
        assert not window.try_acquire()
        child.kill()
        child.join(10)
        table.clear_worker(1)
        assert acquire_all(window) == 4
        assert table.client("smtpd", "192.0.2.1").count == 1
        del window
    table.close()


def _work_until_killed(table: SharedTable, slot: int, ready: Connection) -> None:
    table.bind(slot)
    window = Window(table, "smtp:example.com", 2)
    table.max_idle = -1.0
    ready.send(True)
    turn = 0
    while True:
        turn += 1
        client = table.client("smtpd", f"10.0.0.{turn % 100}")
        if window.try_acquire():
            window.release()
        else:
            window.wait()
            window.stop_waiting()
        client.disconnect()


def test_killed_at_any_moment() -> None:
    """Workers that take, give and make entries in a table with hardly any room, killed at random."""
    table = SharedTable.create(64)
    table.bind(0)
    running: dict[int, Any] = {}
    for turn in range(60):
        slot = 1 + turn % 3
        if slot in running:
            running[slot].kill()
            running[slot].join(10)
            table.clear_worker(slot)
        receiver, sender = FORK.Pipe(duplex=False)
        running[slot] = FORK.Process(target=_work_until_killed, args=(table, slot, sender))
        running[slot].start()
        assert receiver.poll(10)
    for slot, child in running.items():
        child.kill()
        child.join(10)
        table.clear_worker(slot)
    assert all(places == 0 for _key, places, *_rest in table.entries_in_use())
    table.max_idle = -1.0
    clients = [table.client("smtpd", f"10.1.0.{i}") for i in range(40)]
    assert sum(client.count for client in clients) >= 38  # no entry was lost for good
    assert acquire_all(Window(table, "smtp:example.com", 2)) == 2
    table.close()


def _churn(table: SharedTable, slot: int, answer: Connection) -> None:
    """Make and drop entries of few keys in a small table, so that they are claimed and reclaimed all the time."""
    table.bind(slot)
    table.max_idle = -1.0
    wrong = 0
    for i in range(20000):
        client = table.client("smtpd", f"10.0.0.{(i * 7 + slot) % 100}")
        if client.count == 0:
            wrong += 1
        client.disconnect()
    answer.send(wrong)


def test_entries_are_claimed_and_reclaimed_by_several_processes() -> None:
    table = SharedTable.create(64)
    pairs = [FORK.Pipe(duplex=False) for _ in range(3)]
    children = [FORK.Process(target=_churn, args=(table, slot, sender)) for slot, (_r, sender) in enumerate(pairs)]
    for child in children:
        child.start()
    for receiver, _sender in pairs:
        assert receiver.poll(30)
        assert receiver.recv() < 200  # a place may be taken by the others for a moment, then the client goes uncounted
    for child in children:
        child.join(10)
    assert sum(places for _key, places, *_rest in table.entries_in_use()) == 0
    table.close()
