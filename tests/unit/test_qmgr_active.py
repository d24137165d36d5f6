"""The active queue: what becomes of a message, in virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from fastmta._ext.sched import DeliveryRequest
from fastmta.model.envelope import NOTIFY_SUCCESS
from fastmta.model.message import FLAG_DELAY_WARNED, FLAG_EXPIRE, FLAG_HOLD, Message
from fastmta.model.outcome import Bounced, Deferred, Result
from fastmta.qmgr.operations import Operations
from tests.unit.qmgr_world import BUSY, OK, REFUSED, START, UNKNOWN, SimAgent, Way, Worker, World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def local_part(request: DeliveryRequest, index: int) -> str:
    return request.message.envelope.recipients[index].address.rpartition("@")[0]


def by_name(request: DeliveryRequest, index: int) -> Result:
    """ok..., later... and never... have the fate that they say."""
    name = local_part(request, index)
    return BUSY if name.startswith("later") else UNKNOWN if name.startswith("never") else OK


def logged(worker: Worker, queue_id: str) -> list[str]:
    """What the log says about a message, without figures of time."""
    return [line for line in worker.lines if f" {queue_id}: " in f" {line}"]


# -- rounds


def test_mixed_fates(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(answer=by_name))
    message = worker.send("ok@a.example", "later@a.example", "never@a.example", "never@b.example", "ok@b.example")
    world.run(3)
    assert len(worker.bounced) == 1
    assert [(index, type(result)) for index, result in sorted(worker.bounced[0][1])] == [(2, Bounced), (3, Bounced)]
    assert message.done == bytearray([1, 0, 1, 1, 1])
    assert message.deferred == {1: BUSY}
    assert message.queue_id in worker.parked
    assert message.attempts == 1
    worker.active.start()
    world.run(400)
    assert sum("nrcpt=1 (queue active)" in line for line in logged(worker, message.queue_id)) == 1
    assert sum("nrcpt=5 (queue active)" in line for line in logged(worker, message.queue_id)) == 1
    assert len(worker.bounced) == 1


def test_a_bounce_is_durable_before_the_message_goes(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(answer=by_name))
    message = worker.send("never@a.example")
    world.run(1.0)
    assert worker.bounced
    assert not worker.removed
    assert worker.active.sweep.run() == []
    world.run(0.1)
    assert worker.removed == [message.queue_id]
    assert logged(worker, message.queue_id)[-1].endswith(": removed")


def test_a_bounce_that_cannot_be_kept(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(answer=by_name))
    worker.bounce_error = OSError("no space")
    message = worker.send("never@a.example", "ok@a.example")
    world.run(3)
    assert message.done == bytearray([0, 1])
    assert message.deferred is not None
    assert message.deferred[0].text == "bounce or trace service failure"
    assert message.queue_id in worker.parked
    worker.bounce_error = None
    worker.active.start()
    world.run(400)
    assert worker.removed == [message.queue_id]


def test_backoff_is_the_age_between_the_limits(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(0.0, answer=lambda _request, _index: BUSY))
    worker.active.start()
    message = worker.send("later@a.example")
    tries = []
    for _ in range(8):
        world.run(0)
        tries.append(message.next_attempt - START)
        world.run(message.next_attempt - world.time + 1)
    waits = [later - earlier for earlier, later in pairwise(tries)]
    assert tries[0] == 300
    assert waits[0] == pytest.approx(300, abs=2)
    assert waits[1] == pytest.approx(600, abs=3)
    assert waits[2] == pytest.approx(1200, abs=5)
    assert waits[3] == pytest.approx(2400, abs=9)
    assert waits[4:] == pytest.approx([4000] * 3, abs=3)


def test_expired_mail_returns_to_its_sender(world: World) -> None:
    worker = world.worker(maximal_queue_lifetime=1000.0, bounce_queue_lifetime=100.0)
    worker.transport(SimAgent(answer=by_name))
    message = worker.send("later@a.example", "ok@a.example", arrival=START - 1000)
    young = worker.send("later@a.example", arrival=START - 990)
    notice = worker.send("later@a.example", sender="", arrival=START - 200)
    world.run(3)
    assert logged(worker, message.queue_id)[-2:] == [
        f"qmgr: {message.queue_id}: from=<sender@example.org>, status=expired, returned to sender",
        f"qmgr: {message.queue_id}: removed",
    ]
    assert f"qmgr: {notice.queue_id}: from=<>, status=expired, returned to sender" in worker.lines
    assert (message.queue_id, [(0, Bounced(BUSY.dsn, BUSY.text))]) in worker.bounced
    assert worker.parked == {young.queue_id}


def test_an_expired_message_whose_report_cannot_be_kept_stays(world: World) -> None:
    worker = world.worker(maximal_queue_lifetime=0.0)
    worker.transport(SimAgent(answer=by_name))
    worker.bounce_error = OSError("no space")
    message = worker.send("later@a.example")
    world.run(3)
    assert message.queue_id in worker.parked
    assert message.next_attempt > world.time


def test_delay_warning_once(world: World) -> None:
    worker = world.worker(delay_warning_time=100.0)
    worker.transport(SimAgent(answer=by_name))
    message = worker.send("later@a.example", arrival=START - 50)
    world.run(3)
    assert worker.notices == []
    worker.active.start()
    world.run(2000)
    assert worker.notices == [(message.queue_id, [(0, BUSY)])]
    assert message.flags & FLAG_DELAY_WARNED
    assert message.attempts > 2


def test_multi_recipient_progress_is_recorded(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(), destination_recipient_limit=1, destination_concurrency_limit=1)
    worker.ways["a.example"] = Way("smtp", "same", "")
    worker.send(*(["u@a.example"] * 20))
    before = worker.records
    world.run(10.5)
    assert 8 <= worker.records - before <= 11


def test_success_is_reported_where_it_was_asked_for_and_the_next_hop_will_not(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(answer=by_name))
    silent = worker.send("ok@a.example", notify=NOTIFY_SUCCESS)
    world.run(3)
    agent.relayed = True
    plain = worker.send("ok@a.example")
    asked = worker.send("ok@a.example", "never@a.example", notify=NOTIFY_SUCCESS)
    world.run(3)
    assert worker.successes == [(asked.queue_id, [(0, OK)], "mx.example[192.0.2.1]:25", "relayed")]
    assert worker.bounced == [(asked.queue_id, [(1, UNKNOWN)])]
    assert worker.removed == [silent.queue_id, plain.queue_id, asked.queue_id]


# -- what is decided without a delivery


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("", "dsn=5.1.3, status=bounced (null recipient address)"),
        ("-x@a.example", "dsn=5.1.3, status=bounced (bad address syntax)"),
        ("x@bad.example", "dsn=5.1.0, status=bounced (no such thing)"),
        ("x@tempfail.example", "dsn=4.3.0, status=deferred (try again)"),
        ("x@off.example", "dsn=4.3.2, status=deferred (deferred transport)"),
        ("x@none.example", "dsn=4.3.0, status=deferred (mail transport unavailable)"),
    ],
)
def test_fates_without_a_delivery(world: World, address: str, text: str) -> None:
    worker = world.worker(defer_transports=frozenset({"slow"}))
    agent = worker.transport(SimAgent())
    worker.transport(SimAgent(), "slow")
    worker.ways = {
        "bad.example": Bounced("5.1.0", "no such thing"),
        "tempfail.example": Deferred("4.3.0", "try again"),
        "off.example": Way("slow", "x", ""),
        "none.example": Way("nothing", "x", ""),
    }
    single = worker.send(address)
    double = worker.send(address, "ok@a.example")
    world.run(3)
    lines = [line for line in worker.lines if line.endswith(text)]
    assert len(lines) == 2
    assert all(line.startswith("error: ") and f"to=<{address}>, relay=none, delay=0" in line for line in lines)
    assert len(agent.requests) == 1
    assert worker.active.sweep.run() == []
    for message in (single, double):
        assert (message.queue_id in worker.parked) == ("deferred" in text)


def test_a_flush_tries_all_and_puts_nothing_off(world: World) -> None:
    worker = world.worker(defer_transports=frozenset({"slow"}))
    agent = worker.transport(SimAgent())
    slow = worker.transport(SimAgent(), "slow")
    worker.ways["off.example"] = Way("slow", "x", "")
    agent.site_down = lambda _request: REFUSED
    for _ in range(5):
        worker.send("a@dead.example")
    worker.send("a@off.example")
    held = worker.message("a@held.example", flags=FLAG_HOLD)
    assert not worker.active.admit(held)
    world.run(5)
    assert len(worker.parked) == 7
    worker.active.start()
    agent.site_down = None
    worker.active.flush()
    world.run(5)
    assert len(worker.removed) == 6
    assert len(slow.requests) == 1
    assert worker.parked == {held.queue_id}
    # and only while it lasts
    worker.send("a@off.example")
    assert worker.lines[-1].endswith("(deferred transport)")


# -- limits


def test_the_active_queue_is_limited_and_what_waits_comes_later(world: World) -> None:
    worker = world.worker(message_active_limit=10)
    worker.transport(SimAgent())
    worker.active.start()
    for number in range(50):
        worker.send(f"a@{number}.example")
    assert len(worker.active.messages) == 10
    assert len(worker.parked) == 40
    world.run(60, lambda: len(worker.removed) == 50)
    assert worker.panics == []


def test_recipients_in_memory_are_limited(world: World) -> None:
    worker = world.worker(message_recipient_limit=100)
    worker.transport(SimAgent())
    worker.active.start()
    big = worker.send(*(f"u{i}@a.example" for i in range(150)))
    small = worker.send("a@b.example")
    assert list(worker.active.messages) == [big.queue_id]
    world.run(60, lambda: len(worker.removed) == 2)
    assert worker.removed == [big.queue_id, small.queue_id]


def test_mail_that_is_due_leaves_room_for_fresh_mail(world: World) -> None:
    worker = world.worker(message_active_limit=100)
    worker.transport(SimAgent(1e6))
    for number in range(200):
        old = worker.message(f"a@{number}.example", arrival=START - 1000)
        old.next_attempt = START - 10
        worker.parked.add(old.queue_id)
    worker.active.start()
    world.run(10)
    assert len(worker.active.messages) == 75
    assert worker.active.admit(worker.message("new@example.com"))


def test_due_mail_is_taken_when_it_is_due(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent())
    worker.active.start()
    message = worker.message("a@a.example", arrival=START - 1000)
    message.next_attempt = START + 50
    worker.parked.add(message.queue_id)
    worker.active.arm_refill(START + 50)
    world.run(60)
    assert [when for when, *_ in agent.requests] == [START + 50]


def test_a_queue_that_raises_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent())
    worker.active.start()
    world.run(1)
    message = worker.message("a@a.example", arrival=START - 1000)
    message.next_attempt = START + 50
    worker.parked.add(message.queue_id)

    def broken(*_: object) -> list[Message]:
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "due", broken)
    worker.active.arm_refill(START + 50)
    with pytest.raises(ZeroDivisionError):
        world.run(60)
    monkeypatch.undo()
    world.run(worker.active.settings.queue_run_delay)
    assert len(agent.requests) == 1


# -- operations


def test_hold_and_release_in_flight(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(10.0), destination_recipient_limit=1, destination_concurrency_limit=1)
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    worker.ways["a.example"] = Way("smtp", "same", "")
    message = worker.send("x@a.example", "x@a.example", "x@a.example")
    assert operations.queue_of(message.queue_id) == "active"
    assert operations.hold(message.queue_id)
    assert not operations.hold(message.queue_id)
    world.run(5)
    assert message.queue_id in worker.active.messages  # one is on its way
    assert worker.active.sweep.run() == []
    world.run(10)
    assert worker.idle
    assert len(agent.requests) == 1
    assert message.done is not None
    assert sum(message.done) == 1
    assert operations.queue_of(message.queue_id) == "hold"
    assert worker.parked == {message.queue_id}


def test_delete_in_flight(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(10.0, answer=by_name), destination_concurrency_limit=1)
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    flying = worker.send("never@a.example")
    waiting = [worker.send("x@a.example") for _ in range(5)]
    for message in (flying, *waiting):
        assert operations.delete(message.queue_id)
    assert not operations.delete(flying.queue_id)
    world.run(1)
    assert set(worker.removed) == {message.queue_id for message in waiting}
    world.run(20)
    assert flying.queue_id in worker.removed
    assert len(agent.requests) == 1
    assert worker.bounced == []
    assert worker.idle
    assert worker.active.sweep.run() == []


def test_delivered_while_a_hold_was_asked_for(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(10.0))
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    message = worker.send("x@a.example")
    operations.hold(message.queue_id)
    world.run(20)
    assert worker.removed == [message.queue_id]


def test_requeue_in_flight(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(10.0, answer=by_name))
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    message = worker.send("later@a.example")
    operations.requeue(message.queue_id)
    world.run(15)
    assert len(agent.requests) == 2
    world.run(10)
    assert worker.parked == {message.queue_id}


def test_forced_expiration(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent(answer=by_name))
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    worker.active.start()
    fresh = worker.send("ok@a.example", flags=FLAG_EXPIRE)
    known = worker.send("later@a.example")
    world.run(2)
    assert logged(worker, fresh.queue_id)[1:] == [
        f"error: {fresh.queue_id}: to=<ok@a.example>, relay=none, delay=0, delays=0/0/0/0, dsn=4.7.0,"
        " status=deferred (message is administratively expired)",
        f"qmgr: {fresh.queue_id}: from=<sender@example.org>, status=force-expired, returned to sender",
        f"qmgr: {fresh.queue_id}: removed",
    ]
    known.flags |= FLAG_EXPIRE
    assert operations.flush_id(known.queue_id)
    world.run(2)
    assert worker.bounced[-1] == (known.queue_id, [(0, Bounced(BUSY.dsn, BUSY.text))])
    assert len(agent.requests) == 1


def test_flush_one_message(world: World) -> None:
    worker = world.worker()
    agent = worker.transport(SimAgent())
    agent.site_down = lambda _request: REFUSED
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    messages = [worker.send("x@a.example") for _ in range(6)]
    world.run(3)
    agent.site_down = None
    assert operations.flush_id(messages[3].queue_id)
    assert not operations.flush_id(messages[3].queue_id)
    assert not operations.flush_id("none")
    world.run(3)
    assert worker.removed == [messages[3].queue_id]
    assert operations.flush_site([message.queue_id for message in messages]) == 5


# -- the sweep


def test_the_sweep_finds_what_was_lost_and_gives_it_back(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent(1e6))
    worker.active.start()
    lost = worker.send("x@a.example")
    fine = worker.send("x@b.example")
    orphan = worker.message("x@c.example")
    lost.remaining += 1
    worker.active.recipients += 1
    world.run(61)
    assert worker.panics == [f"{lost.queue_id}: 2 recipients without a result, but 1 with an owner"]
    assert lost.queue_id in worker.parked
    assert list(worker.active.messages) == [fine.queue_id]
    world.run(60)
    assert worker.panics[-1] == f"{orphan.queue_id}: taken from the queue, and owned by nobody"
    assert orphan.queue_id in worker.parked


def test_an_agent_that_never_answers(world: World) -> None:
    worker = world.worker(daemon_timeout=1000.0)
    worker.transport(SimAgent(1e6))
    worker.active.start()
    message = worker.send("x@a.example")
    world.run(1100)
    assert worker.panics == [f"{message.queue_id}: no answer from transport smtp"]
    assert message.queue_id in worker.parked
    assert worker.active.scheduler.transports["smtp"].destinations["a.example"].busy == 1


def test_destinations_without_mail_are_forgotten(world: World) -> None:
    worker = world.worker()
    worker.transport(SimAgent())
    worker.active.start()
    for number in range(100):
        worker.send(f"x@{number}.example")
    world.run(10)
    assert len(worker.active.scheduler.transports["smtp"].destinations) == 100
    world.run(200)
    assert worker.active.scheduler.transports["smtp"].destinations == {}


def test_a_clogging_destination_is_told(world: World) -> None:
    worker = world.worker(message_active_limit=100)
    worker.transport(SimAgent(1e6), destination_concurrency_limit=2)
    worker.active.start()
    for _ in range(30):
        worker.send("x@a.example")
    for number in range(5):
        worker.send(f"x@{number}.example")
    world.run(200)
    warnings = [line.partition("warning: ")[2] for line in worker.lines if "warning: " in line]
    assert warnings == [
        "mail for a.example is using up 30 of 35 active queue entries",
        "this may slow down other mail deliveries",
        "you may need to increase the main.cf smtp_destination_concurrency_limit from 2",
        "to turn off these warnings specify: qmgr_clog_warn_time = 0",
    ]


def test_warnings_about_what_cannot_be(world: World) -> None:
    worker = world.worker(maximal_queue_lifetime=10.0, bounce_queue_lifetime=20.0)
    worker.ways["none.example"] = Way("nothing", "x", "")
    worker.active.start()
    for _ in range(3):
        worker.send("x@none.example")
    warnings = [line for line in worker.lines if "warning: " in line]
    assert warnings == [
        "qmgr: warning: bounce_queue_lifetime is larger than maximal_queue_lifetime - adjusting bounce_queue_lifetime",
        "qmgr: warning: connect to transport private/nothing: No such file or directory",
    ]
