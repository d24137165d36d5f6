"""The scheduler in virtual time: windows, limits, delays, dead destinations, and workers that share them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from fastmta.model.message import Message
from fastmta.model.outcome import Attempt
from fastmta.qmgr.settings import Feedback
from tests.unit.qmgr_world import OK, REFUSED, START, SimAgent, Way, World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def test_a_message_goes_its_way(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent())
    message = worker.send("a@example.com")
    world.run(5)
    queue_id = message.queue_id
    assert worker.lines == [
        f"qmgr: {queue_id}: from=<sender@example.org>, size=1000, nrcpt=1 (queue active)",
        f"smtp: {queue_id}: to=<a@example.com>, relay=mx.example[192.0.2.1]:25, delay=1, delays=0/0/0.1/0.9,"
        f" dsn=2.0.0, status=sent ({OK.text})",
        f"qmgr: {queue_id}: removed",
    ]
    assert worker.removed == [queue_id]
    assert worker.idle
    assert worker.active.sweep.run() == []


def test_the_window_opens_slowly_and_up_to_the_limit(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), destination_concurrency_limit=12)
    for _ in range(200):
        worker.send("a@example.com")
    assert agent.busy["example.com"] == 5  # initial_destination_concurrency
    world.run(1.5)
    assert agent.busy["example.com"] == 10  # each success opened it by one
    world.run(1.0)
    assert agent.busy["example.com"] == 12
    world.run(100, lambda: worker.idle)
    assert agent.most["example.com"] == 12


def test_less_positive_feedback_opens_it_more_slowly(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), positive_feedback=Feedback.parse("x", "1/concurrency"))
    for _ in range(200):
        worker.send("a@example.com")
    seen = []
    for _ in range(6):
        world.run(1.0)
        seen.append(agent.busy["example.com"])
    assert seen == [6, 7, 8, 9, 10, 11]  # one for each cohort


def test_a_limit_below_the_initial_concurrency(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), destination_concurrency_limit=2)
    for _ in range(10):
        worker.send("a@example.com")
    world.run(100, lambda: worker.idle)
    assert agent.most["example.com"] == 2


def test_failures_close_the_window_and_then_the_destination_is_dead(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent())
    agent.site_down = lambda _request: REFUSED
    messages = [worker.send("a@example.com") for _ in range(50)]
    world.run(1.5)
    # 1/5 + 1/4 + 1/3 + 1/2 > 1: the fourth failure is the last that counts.
    assert len(agent.requests) == 5
    assert worker.idle
    texts = [line for line in worker.lines if "status=deferred" in line]
    assert len(texts) == 50
    refused = [line for line in texts if line.startswith("smtp: ")]
    assert len(refused) == 5
    assert all(line.endswith(f"dsn=4.4.1, status=deferred ({REFUSED.text})") for line in refused)
    suspended = [line for line in texts if line.startswith("error: ")]
    assert len(suspended) == 45
    assert all(
        "relay=none" in line and line.endswith(f"status=deferred (delivery temporarily suspended: {REFUSED.text})")
        for line in suspended
    )
    assert {message.next_attempt for message in messages} == {START + 301}
    # Mail that comes meanwhile is not tried.
    late = worker.send("a@example.com")
    assert worker.lines[-1].endswith(f"(delivery temporarily suspended: {REFUSED.text})")
    assert late.queue_id in worker.parked
    # Other destinations do not care, and after minimal_backoff_time it gets its chance.
    other = worker.send("a@example.net")
    agent.site_down = None
    world.run(5)
    assert other.queue_id in worker.removed
    worker.active.start()
    world.run(400)
    assert len(worker.removed) == 52


def test_the_failed_cohort_limit_counts_failures_in_a_row(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), failed_cohort_limit=3, destination_concurrency_limit=1)
    outcomes = iter([True, True, False] * 3 + [True] * 10)
    agent.site_down = lambda _request: REFUSED if next(outcomes) else None
    for _ in range(20):
        worker.send("a@example.com")
    world.run(60, lambda: worker.idle)
    assert len(agent.requests) == 12  # the ninth success forgets what was; three more failures are too many


def test_no_cohort_limit_means_never_dead(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), failed_cohort_limit=0)
    agent.site_down = lambda _request: REFUSED
    for _ in range(20):
        worker.send("a@example.com")
    world.run(60, lambda: worker.idle)
    assert len(agent.requests) == 20
    assert worker.active.scheduler.transports["smtp"].destinations["example.com"].window.size() == 1


def test_destination_rate_delay(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), destination_rate_delay=10.0)
    for _ in range(4):
        worker.send("a@example.com")
    worker.send("a@example.net")
    world.run(100, lambda: worker.idle)
    times = [when - START for when, site, _queue_id, _recipients in agent.requests if site == "example.com"]
    assert times == pytest.approx([0, 11, 22, 33])  # the delay begins when a delivery ends
    assert [when - START for when, site, *_ in agent.requests if site == "example.net"] == [0]
    assert agent.most["example.com"] == 1


def test_a_rate_delayed_destination_is_not_dead_for_long(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), destination_rate_delay=10.0)
    agent.site_down = lambda _request: REFUSED
    worker.send("a@example.com")
    world.run(2)
    worker.send("a@example.com")
    world.run(20)
    assert len(agent.requests) == 2


def test_transport_rate_delay(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), transport_rate_delay=2.0)
    for site in range(5):
        worker.send(f"a@example{site}.com")
    world.run(100, lambda: worker.idle)
    assert [when - START for when, *_ in agent.requests] == pytest.approx([0, 2, 4, 6, 8])


def test_the_process_limit_is_shared_in_turn(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), process_limit=3)
    for _ in range(30):
        for site in ("a", "b", "c", "d", "e", "f"):
            worker.send(f"x@{site}.example")
    assert sum(agent.busy.values()) == 3
    world.run(31)
    got = {site: sum(1 for _w, name, *_ in agent.requests if name == f"{site}.example") for site in "abcdef"}
    assert sum(got.values()) == 3 * 32
    assert max(got.values()) - min(got.values()) <= 2
    world.run(100, lambda: worker.idle)


def test_one_big_destination_does_not_starve_a_small_one(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), process_limit=2)
    for _ in range(500):
        worker.send("x@big.example")
    world.run(10)
    worker.send("x@small.example")
    world.run(2.5)
    assert "small.example" in [site for _w, site, *_ in agent.requests]


def test_recipient_limit(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(), destination_recipient_limit=20)
    addresses = [f"u{i:03d}@example.com" for i in range(50)] + ["u@example.net"]
    message = worker.send(*addresses)
    world.run(60, lambda: worker.idle)
    assert sorted(len(recipients) for *_rest, recipients in agent.requests) == [1, 10, 20, 20]
    assert sorted(index for *_rest, recipients in agent.requests for index in recipients) == list(range(51))
    assert sum("status=sent" in line for line in worker.lines) == 51
    assert worker.removed == [message.queue_id]


def test_one_recipient_at_a_time_has_a_queue_for_each(world: World) -> None:
    worker = world.worker(recipient_delimiter="+")
    worker.ways["example.com"] = Way("local", "example.com", "")
    agent = worker.transport(SimAgent(), "local", destination_recipient_limit=1, destination_concurrency_limit=2)
    worker.send("Joe@example.com", "joe+list@example.com", "ann@example.com", "joe+x@example.com")
    assert agent.busy == {"joe@example.com": 2, "ann@example.com": 1}
    world.run(60, lambda: worker.idle)
    assert agent.most == {"joe@example.com": 2, "ann@example.com": 1}


def test_big_mail_does_not_delay_small_mail(world: World) -> None:
    """A list of 50,000 recipients to one destination; a password reset comes when it is under way."""
    worker = world.worker(message_recipient_limit=100_000)
    agent = worker.transport(SimAgent(), destination_recipient_limit=50)
    big = worker.send(*(f"u{i}@example.com" for i in range(50_000)))
    world.run(3)
    small = worker.send("reset@example.com")
    world.run(2.5)
    assert small.queue_id in worker.removed
    assert big.queue_id not in worker.removed
    # A stream of small mail does not stop the list either: it has at least four of five deliveries.
    begun = len(agent.requests)
    while len(agent.requests) < begun + 500 and big.queue_id in worker.active.messages:
        for _ in range(20):
            worker.send("many@example.com")
        world.run(1)
    big_ones = sum(1 for _w, _s, queue_id, _r in agent.requests[begun : begun + 400] if queue_id == big.queue_id)
    assert 400 * 0.75 <= big_ones <= 400 * 0.9
    world.run(3000, lambda: worker.idle)
    assert worker.active.sweep.run() == []


def test_slots_may_be_taken_ahead_for_pipelining(world: World) -> None:
    worker = world.worker()
    slots = []

    class Ahead(SimAgent):
        def slot(self, slot) -> None:  # type: ignore[no-untyped-def]
            slots.append(slot)

    worker.transport(Ahead(), destination_concurrency_limit=1)
    for _ in range(3):
        worker.send("a@example.com")
    (slot,) = slots
    first = slot.take()
    second = slot.take()
    assert first and second
    first.finish([OK], Attempt())
    third = slot.take()
    assert third
    assert slot.take() is None
    # The place is still in use: two deliveries are on their way.
    worker.send("b@example.com")
    assert len(slots) == 1
    second.finish([OK], Attempt())
    assert len(slots) == 1
    third.finish([OK], Attempt())
    assert len(slots) == 2
    fourth = slots[1].take()
    assert fourth.message.envelope.recipients[0].address == "b@example.com"
    fourth.finish([OK], Attempt())
    fourth.finish([REFUSED], Attempt())  # a second time does nothing
    assert slots[1].take() is None
    assert worker.idle
    destination = worker.active.scheduler.transports["smtp"].destinations["example.com"]
    assert destination.window.in_use() == destination.busy == 0


def test_an_agent_that_gives_the_place_back(world: World) -> None:
    worker = world.worker()
    slots = []

    class Shy(SimAgent):
        def slot(self, slot) -> None:  # type: ignore[no-untyped-def]
            slots.append(slot)

    worker.transport(Shy(), destination_concurrency_limit=1)
    message = worker.send("a@example.com")
    slots[0].release()
    slots[0].release()
    assert len(slots) == 2  # there is still work
    assert slots[0].take() is None
    request = slots[1].take()
    slots[1].release()
    request.finish([OK], Attempt())
    assert worker.removed == [message.queue_id]


def test_an_agent_that_raises(world: World) -> None:
    worker = world.worker()

    class Broken(SimAgent):
        def slot(self, slot) -> None:  # type: ignore[no-untyped-def]
            slot.take()
            raise RuntimeError("no such luck")

    worker.transport(Broken(), "smtp")
    message = worker.send("a@example.com")
    assert worker.panics == ["smtp: RuntimeError: no such luck"]
    assert worker.idle
    assert message.queue_id in worker.parked
    assert worker.active.scheduler.in_flight == 0


def test_an_agent_that_miscounts(world: World) -> None:
    worker = world.worker()
    slots = []

    class Poor(SimAgent):
        def slot(self, slot) -> None:  # type: ignore[no-untyped-def]
            slots.append(slot)

    worker.transport(Poor())
    message = worker.send("a@example.com", "b@example.com")
    request = slots[0].take()
    request.finish([OK], Attempt())
    assert worker.panics == ["smtp: ValueError: 1 results for 2 recipients"]
    assert message.done == bytearray(b"\x01\x00")
    assert message.deferred is not None
    assert message.deferred[1].text == "unknown mail transport error"


def test_a_request_may_be_passed_on(world: World) -> None:
    worker = world.worker()
    other = worker.transport(SimAgent(), "bestmx")

    class Best(SimAgent):
        def slot(self, slot) -> None:  # type: ignore[no-untyped-def]
            request = slot.take()
            worker.active.pass_on(request, "bestmx" if request.message.queue_id == "Q00001" else "none:x")
            assert slot.take() is None

    worker.transport(Best())
    worker.send("a@example.com")
    worker.send("b@example.com")
    world.run(5)
    assert [site for _w, site, *_ in other.requests] == ["example.com"]
    assert worker.removed == ["Q00001"]
    assert "mail transport unavailable" in next(line for line in worker.lines if "Q00002" in line and "status=" in line)
    assert worker.active.sweep.run() == []


# -- several workers


def test_the_window_is_one_for_all_workers(world: World) -> None:
    workers = [world.worker(slot) for slot in range(3)]
    agents = [worker.transport(SimAgent(), destination_concurrency_limit=10) for worker in workers]
    seen: list[int] = []
    for agent in agents:
        agent.on_change = lambda: seen.append(sum(one.busy.get("example.com", 0) for one in agents))
    for worker in workers:
        worker.active.start()
        for _ in range(100):
            worker.send("a@example.com")
    world.run(500, lambda: all(worker.idle for worker in workers))
    assert max(seen) == 10
    took = world.time - START
    assert took < 300 / 10 + 15  # the places were used all the time


def test_the_process_limit_is_one_for_all_workers(world: World) -> None:
    workers = [world.worker(slot) for slot in range(2)]
    agents = [worker.transport(SimAgent(), process_limit=4) for worker in workers]
    seen: list[int] = []
    for agent in agents:
        agent.on_change = lambda: seen.append(sum(sum(one.busy.values()) for one in agents))
    for worker in workers:
        worker.active.start()
        for number in range(100):
            worker.send(f"a@example{number % 9}.com")
    world.run(500, lambda: all(worker.idle for worker in workers))
    assert max(seen) == 4
    assert world.time - START < 200 / 4 + 15


def test_no_worker_starves(world: World) -> None:
    """One worker holds all places and has work for hours; another one comes with mail for the same site."""
    first, second = world.worker(0), world.worker(1)
    busy = first.transport(SimAgent(0.1), destination_concurrency_limit=6)
    late = second.transport(SimAgent(0.1), destination_concurrency_limit=6)
    for worker in (first, second):
        worker.active.start()
    for _ in range(2000):
        first.send("a@example.com")
    world.run(5)
    assert busy.busy["example.com"] == 6
    for _ in range(200):
        second.send("a@example.com")
    world.run(1.0)
    assert (busy.busy["example.com"], late.busy["example.com"]) == (3, 3)
    world.run(10, lambda: second.idle)
    world.run(1.0)
    assert busy.busy["example.com"] == 6  # and gets them back


def test_a_single_place_goes_round(world: World) -> None:
    workers = [world.worker(slot) for slot in range(3)]
    agents = [worker.transport(SimAgent(0.2), destination_concurrency_limit=1) for worker in workers]
    for worker in workers:
        worker.active.start()
        for _ in range(100):
            worker.send("a@example.com")
    world.run(30)
    done = [len(agent.requests) for agent in agents]
    assert sum(done) >= 140
    assert max(done) - min(done) <= 5


def test_a_dead_destination_is_dead_for_all(world: World) -> None:
    first, second = world.worker(0), world.worker(1)
    down = first.transport(SimAgent())
    down.site_down = lambda _request: REFUSED
    other = second.transport(SimAgent())
    for _ in range(10):
        first.send("a@example.com")
    world.run(1.5)
    second.send("b@example.com")
    assert other.requests == []
    assert second.lines[-1].endswith(f"(delivery temporarily suspended: {REFUSED.text})")


def test_a_worker_that_died_is_cleared(world: World) -> None:
    first, second = world.worker(0), world.worker(1)
    first.transport(SimAgent(1e9))
    agent = second.transport(SimAgent())
    for worker in (first, second):
        worker.active.start()
        for _ in range(10):
            worker.send("a@example.com")
    world.run(10)
    assert agent.requests == []
    world.table.clear_worker(0)
    world.run(10)
    assert len(second.removed) == 10


def test_rate_delay_over_workers(world: World) -> None:
    workers = [world.worker(slot) for slot in range(2)]
    agents = [worker.transport(SimAgent(), destination_rate_delay=5.0) for worker in workers]
    for worker in workers:
        worker.active.start()
        for _ in range(3):
            worker.send("a@example.com")
    world.run(100, lambda: all(worker.idle for worker in workers))
    times = sorted(when - START for agent in agents for when, *_ in agent.requests)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(times) == 6
    assert min(gaps) >= 6


def test_draining_does_not_wait_for_the_rest_of_a_message(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(), destination_recipient_limit=1, destination_concurrency_limit=2)
    worker.ways["example.com"] = Way("smtp", "same", "")
    message = worker.send(*(["u@example.com"] * 10))
    world.run(0.5)
    ended = []
    worker.active.drain(lambda: ended.append(world.time))
    world.run(10)
    assert ended == [START + 1]
    assert message.done is not None
    assert sum(message.done) == 2
    assert worker.parked == {message.queue_id}


def test_draining_gives_out_nothing_and_ends_with_what_is_on_its_way(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent())
    messages: list[Message] = [worker.send("a@example.com") for _ in range(20)]
    world.run(0.5)
    ended = []
    worker.active.drain(lambda: ended.append(world.time))
    assert not worker.active.admit(worker.message("late@example.com"))
    world.run(10)
    assert ended == [START + 1]
    assert len(agent.requests) == 5
    assert set(worker.removed) | worker.parked == {message.queue_id for message in messages} | {"Q00021"}
    assert worker.idle
