"""Memory shared by workers: counts, rates, windows; one process that plays several workers, and real ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from multiprocessing import get_context

import pytest

from fastmta._ext.shared import SharedTable
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


# -- clients


def test_connections_of_a_client_are_counted_over_all_workers(table: SharedTable) -> None:
    other = worker(table, 1)
    first = table.client("smtpd", "192.0.2.1")
    second = other.client("smtpd", "192.0.2.1")
    assert (first.count, second.count) == (1, 2)
    assert table.client("smtpd", "192.0.2.2").count == 1
    assert table.client("submission", "192.0.2.1").count == 1
    first.disconnect()
    first.disconnect()
    assert other.client("smtpd", "192.0.2.1").count == 2
    del second
    assert table.client("smtpd", "192.0.2.1").count == 1


def test_each_event_has_its_own_rate(table: SharedTable) -> None:
    client = table.client("smtpd", "192.0.2.1")
    assert [client.message() for _ in range(3)] == [1, 2, 3]
    assert [client.recipient() for _ in range(2)] == [1, 2]
    assert client.newtls() == 1
    assert client.newtls_rate() == 1
    assert client.auth() == 1
    other = worker(table, 1).client("smtpd", "192.0.2.1")
    assert other.connection_rate == 2
    assert other.message() == 4


def test_rates_begin_anew_with_the_next_time_unit(table: SharedTable) -> None:
    client = table.client("smtpd", "192.0.2.1")
    client.message()
    table.fixed_time += 60
    assert client.message() == 2  # anvil: the unit ends when *more* than 60 seconds passed
    table.fixed_time += 1
    assert client.newtls_rate() == 0
    assert client.message() == 1
    # All counters of a client share one unit: it began with this message.
    table.fixed_time += 30
    assert client.recipient() == 1
    table.fixed_time += 31
    assert client.recipient() == 1


def test_a_dead_worker_loses_its_connections_and_not_its_rates(table: SharedTable) -> None:
    other = worker(table, 1)
    held = [other.client("smtpd", "192.0.2.1") for _ in range(5)]
    assert table.client("smtpd", "192.0.2.1").count == 6
    table.clear_worker(1)
    assert table.client("smtpd", "192.0.2.1").connection_rate == 7
    assert table.client("smtpd", "192.0.2.1").count == 1
    assert len(held) == 5


def test_a_full_table_answers_instead_of_failing(table: SharedTable) -> None:
    clients = [table.client("smtpd", f"10.0.{i // 256}.{i % 256}") for i in range(400)]
    counts = [client.count for client in clients]
    assert counts.count(1) <= 256
    assert counts.count(0) == 400 - counts.count(1)
    assert all(client.message() == client.count for client in clients)


def test_idle_entries_are_reclaimed(table: SharedTable) -> None:
    for turn in range(10):
        clients = [table.client("smtpd", f"10.{turn}.0.{i}") for i in range(128)]
        assert sum(client.count for client in clients) == 128
        del clients
        table.fixed_time += 200


def test_an_entry_in_use_is_not_reclaimed(table: SharedTable) -> None:
    kept = table.client("smtpd", "192.0.2.1")
    table.fixed_time += 10_000
    for i in range(1000):
        table.client("smtpd", f"10.0.{i // 256}.{i % 256}").disconnect()
        table.fixed_time += 130
    again = table.client("smtpd", "192.0.2.1")
    assert again.count == 2
    assert kept.message() == 1


def test_long_and_strange_addresses(table: SharedTable) -> None:
    names = ["", "x" * 500, "x" * 499 + "y", "ü" * 100, "\udcff"]
    clients = [table.client("smtpd", name) for name in names]
    assert [client.count for client in clients] == [1] * 5
    assert table.client("smtpd", "x" * 500).count == 2


def test_peaks_are_told_once(table: SharedTable) -> None:
    busy = table.client("smtpd", "192.0.2.1")
    for _ in range(3):
        busy.message()
    table.client("smtpd", "192.0.2.2").message()
    assert table.peaks() == [
        ("connection", 1, "smtpd:192.0.2.1", 1_000_000),
        ("message", 3, "smtpd:192.0.2.1", 1_000_000),
        ("count", 1, "smtpd:192.0.2.1", 1_000_000),
    ]
    assert table.peaks() == []


def test_bad_slots_and_descriptors(table: SharedTable) -> None:
    with pytest.raises(ValueError, match="no column 64"):
        table.bind(64)
    with pytest.raises(ValueError, match="no column -1"):
        table.clear_worker(-1)
    fd = os.memfd_create("other")
    os.ftruncate(fd, 8192)
    try:
        with pytest.raises(ValueError, match="no shared table"):
            SharedTable.attach(fd)
    finally:
        os.close(fd)


# -- windows


def acquire_all(window: Window) -> int:
    taken = 0
    while window.try_acquire():
        taken += 1
    return taken


def test_places_are_limited_over_all_workers(table: SharedTable) -> None:
    windows = [Window(worker(table, slot), "smtp:example.com", 5) for slot in range(4)]
    assert acquire_all(windows[0]) == 5
    assert acquire_all(windows[1]) == 0
    windows[0].release()
    assert acquire_all(windows[2]) == 1
    assert [window.mine for window in windows] == [4, 0, 1, 0]
    assert windows[3].in_use() == 5
    assert acquire_all(Window(table, "smtp:example.com", 5, 3)) == 0


def test_a_dead_worker_gives_its_places_back(table: SharedTable) -> None:
    dead = Window(worker(table, 7), "smtp:example.com", 5)
    acquire_all(dead)
    alive = Window(table, "smtp:example.com", 5)
    assert not alive.try_acquire()
    alive.wait()
    table.clear_worker(7)
    assert os.eventfd_read(table.wake_fd(0)) >= 1
    assert acquire_all(alive) == 5
    # What the dead one's objects do now must not disturb it; here they are only dropped.


def test_a_dropped_window_gives_its_places_back(table: SharedTable) -> None:
    window = Window(table, "smtp:example.com", 3)
    acquire_all(window)
    del window
    assert acquire_all(Window(table, "smtp:example.com", 3)) == 3


def test_who_waits_is_woken(table: SharedTable) -> None:
    holder = Window(worker(table, 1), "smtp:example.com", 1)
    waiter = Window(worker(table, 2), "smtp:example.com", 1)
    assert holder.try_acquire()
    assert not waiter.try_acquire()
    waiter.wait()
    assert holder.others_waiting() == 1 << 2
    holder.release()
    assert os.eventfd_read(table.wake_fd(2)) == 1
    waiter.stop_waiting()
    holder.try_acquire()
    holder.release()
    with pytest.raises(BlockingIOError):
        os.eventfd_read(table.wake_fd(2))


def test_fair_shares(table: SharedTable) -> None:
    first = Window(worker(table, 1), "smtp:example.com", 5)
    second = Window(worker(table, 2), "smtp:example.com", 5)
    assert acquire_all(first) == 5
    assert not first.over_share(True)  # nobody else wants one
    assert first.may_acquire()
    second.wait()
    given = 0
    while first.over_share(False):
        first.release()
        assert second.try_acquire()
        given += 1
    assert given == 2  # three for the one, two for the other
    assert first.over_share(True)  # the odd one goes round
    assert not first.may_acquire()


def test_an_idle_window_begins_anew(table: SharedTable) -> None:
    window = Window(table, "smtp:example.com", 5)
    for _ in range(15):
        window.try_acquire()
        window.positive(5, 1.0, 0)
    assert window.size() > 5
    for _ in range(window.mine):
        window.release()
    table.fixed_time += 20
    assert window.size() > 5
    table.fixed_time += 31
    assert window.size() == 5


def test_dead_until_and_its_reason(table: SharedTable) -> None:
    window = Window(table, "smtp:example.com", 1)
    other = Window(worker(table, 1), "smtp:example.com", 1)
    window.try_acquire()
    assert window.dead_until() == 0
    window.set_reason("4.4.1", "connect to mx.example.com[192.0.2.1]:25: Connection refused")
    assert window.negative(1, 1.0, 0, 1_000_300.0)
    assert other.dead_until() == 1_000_300.0
    assert other.reason() == ("4.4.1", "connect to mx.example.com[192.0.2.1]:25: Connection refused")
    window.release()
    assert not other.try_acquire()
    assert not window.negative(1, 1.0, 0, 1_000_400.0)
    assert other.dead_until() == 1_000_300.0
    other.revive()
    assert window.size() == 1
    assert window.dead_until() == 0
    window.set_reason("4.4.1", "x" * 1000)
    assert (other.reason() or ("", ""))[1].startswith("x" * 100)


def test_the_site_that_answers_after_all_is_revived_with_what_is_in_use(table: SharedTable) -> None:
    window = Window(table, "smtp:example.com", 5)
    acquire_all(window)
    window.release()
    window.release()
    while not window.negative(1, 0.0, 0, 1_000_300.0):
        pass
    assert window.size() == 0
    window.positive(5, 1.0, 0)
    assert window.size() == 3


def test_rate_delays(table: SharedTable) -> None:
    window = Window(table, "smtp:example.com", 5)
    other = Window(worker(table, 1), "smtp:example.com", 5)
    other.size()
    window.delay_until(1_000_010.0)
    window.delay_until(1_000_005.0)
    assert other.not_before() == 1_000_010.0
    transport = Window(table, "transport smtp", 65535)
    assert transport.claim_start(1_000_000.0, 2.0)
    assert not transport.claim_start(1_000_001.0, 2.0)
    assert transport.claim_start(1_000_002.0, 2.0)
    assert transport.claim_start(900_000.0, 2.0)  # the clock was put back


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("base", [1.0, 0.5, 1 / 3, 0.13, 0.0])
def test_feedback_is_postfixs(table: SharedTable, base: float, kind: int) -> None:
    """Against the formulas of qmgr_queue.c, in floating point; with values where its rounding does not decide."""
    window = Window(table, f"smtp:{base}{kind}", 5, 20)
    model = PostfixQueue(5, base, kind, cohort_limit=3.0, limit=20)
    pattern = [True] * 40 + [False] * 3 + [True, False] * 15 + [True] * 20 + [False] * 60
    while window.mine < 18:
        if not window.try_acquire():
            window.positive(100, 1.0, 0)
    while window.size() > 5:
        window.negative(0, 1.0, 0, 0.0)
    while window.mine > 12:
        window.release()
    model.window, model.busy = window.size(), 12
    window.alive()
    for good in pattern:
        if good:
            window.positive(5, base, kind)
            model.unthrottle()
        else:
            window.negative(3.0, base, kind, 2_000_000.0)
            model.throttle()
        assert window.size() == model.window
        if model.window == 0:
            break


class PostfixQueue:
    """qmgr_queue_throttle and qmgr_queue_unthrottle."""

    def __init__(self, window: int, base: float, kind: int, cohort_limit: float, limit: int) -> None:
        self.window = window
        self.base, self.kind = base, kind
        self.cohort_limit, self.limit = cohort_limit, limit
        self.busy = 0
        self.success = self.failure = self.cohorts = 0.0

    def feedback(self) -> float:
        return self.base / (1, self.window, self.window**0.5)[self.kind]

    def unthrottle(self) -> None:
        self.cohorts = 0.0
        if self.limit > self.window and self.window < self.busy + 5:
            feedback = self.feedback()
            self.success += feedback
            while self.success + feedback / 2 >= 1:
                self.window += 1
                self.success -= 1
                self.failure = 0
            self.window = min(self.window, self.limit)

    def throttle(self) -> None:
        if self.window == 0:
            return
        self.cohorts += 1 / self.window
        if self.cohorts >= self.cohort_limit:
            self.window = 0
            return
        feedback = self.feedback()
        self.failure -= feedback
        while self.failure - feedback / 2 < 0:
            self.window -= 1
            self.success = 0
            self.failure += 1
        self.window = max(self.window, 1)
