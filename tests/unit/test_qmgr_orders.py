"""Orders and ends that meet a message in the middle of something: nobody gets it twice, no order is undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastmta._ext.sched import DeliveryRequest
from fastmta.model.envelope import NOTIFY_SUCCESS
from fastmta.model.message import FLAG_EXPIRE, Message
from fastmta.model.outcome import Result
from fastmta.qmgr.operations import Operations
from tests.unit.qmgr_world import BUSY, OK, SimAgent, Way, Worker, World


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def operations(worker: Worker) -> Operations:
    return Operations(worker.active, worker)  # type: ignore[arg-type]


def relayed_and_reporting(world: World) -> tuple[Worker, SimAgent, Message]:
    """A message that was delivered, while its success report is being kept."""
    worker = world.worker()
    agent = worker.transport(SimAgent(1.0))
    agent.relayed = True
    message = worker.send("x@a.example", notify=NOTIFY_SUCCESS)
    world.run(60, until=lambda: bool(worker.successes))
    assert worker.removed == []
    return worker, agent, message


@pytest.mark.parametrize("order", ["hold", "requeue"])
def test_an_order_during_the_success_report_delivers_nothing_again(world: World, order: str) -> None:
    worker, agent, message = relayed_and_reporting(world)
    getattr(operations(worker), order)(message.queue_id)
    world.run(5000)
    assert len(agent.requests) == 1
    assert worker.removed == [message.queue_id]


def test_an_order_that_came_too_late_is_forgotten(world: World) -> None:
    def busy(_request: DeliveryRequest, _index: int) -> Result:
        return BUSY

    worker = world.worker()
    worker.transport(SimAgent(1.0, answer=busy))
    message = worker.send("x@a.example")
    message.flags |= FLAG_EXPIRE
    world.run(60, until=lambda: bool(worker.bounced))
    operations(worker).requeue(message.queue_id)
    world.run(5)
    assert worker.removed == [message.queue_id]
    assert worker.active.orders == {}


@pytest.mark.parametrize("order", ["hold", "requeue"])
def test_what_is_to_be_deleted_takes_no_other_order(world: World, order: str) -> None:
    worker = world.worker()
    worker.transport(SimAgent(10.0, answer=lambda *_: BUSY))
    message = worker.send("x@a.example")
    asked = operations(worker)
    assert asked.delete(message.queue_id)
    assert not getattr(asked, order)(message.queue_id)
    world.run(20)
    assert worker.removed == [message.queue_id]


def test_requeue_releases_what_was_to_be_held(world: World) -> None:
    worker = world.worker()
    answers: list[Result] = [BUSY, OK]
    worker.transport(SimAgent(10.0, answer=lambda *_: answers.pop(0)))
    message = worker.send("x@a.example")
    asked = operations(worker)
    assert asked.hold(message.queue_id)
    assert asked.requeue(message.queue_id)
    world.run(30)
    assert worker.removed == [message.queue_id]


def test_who_is_done_is_recorded_while_others_are_slow(world: World) -> None:
    worker = world.worker()
    quick, slow = SimAgent(0.1), SimAgent(1000.0)
    worker.transport(quick)
    worker.transport(slow, "slow")
    worker.ways["slow.example"] = Way("slow", "slow.example", "")
    recorded: list[bytes] = []
    keep = worker.record

    def record(message: Message) -> None:
        recorded.append(bytes(message.done or b""))
        keep(message)

    worker.record = record  # type: ignore[method-assign]
    worker.send("x@a.example", "y@slow.example")
    world.run(5)
    assert recorded == [b"\1\0"]
