"""Messages whose addresses are in remote tables: in the active queue while they wait, and no order is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from fastmta.qmgr.operations import Operations
from fastmta.qmgr.resolving import Way as Answer
from fastmta.tables.lookup import TempFail
from tests.unit.qmgr_world import SimAgent, Worker, World


class Server:
    """A remote table that answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.answers = asyncio.Event()

    async def ask(self, question: Callable[[], Answer]) -> Answer:
        self.asked += 1
        await self.answers.wait()
        if self.down:
            raise TempFail("down")
        return question()


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


def operations(worker: Worker) -> Operations:
    return Operations(worker.active, worker)  # type: ignore[arg-type]


async def answered(worker: Worker, server: Server) -> None:
    server.answers.set()
    await asyncio.gather(*worker.active.context.resolving.waiting.values())


def test_a_message_waits_in_the_active_queue(world: World) -> None:
    async def main() -> None:
        server = Server()
        worker = world.worker(ask=server.ask)
        agent = worker.transport(SimAgent(1.0))
        message = worker.send("x@a.example", "y@b.example", "x@a.example")
        assert operations(worker).queue_of(message.queue_id) == "active"
        assert worker.active.recipients == 3
        world.run(200)  # the sweep looks at it, and finds nothing wrong
        await asyncio.sleep(0)
        assert not agent.requests
        await answered(worker, server)
        world.run(10)
        assert worker.removed == [message.queue_id]
        assert server.asked == 2  # each address once
        assert sorted(site for _, site, _, _ in agent.requests) == ["a.example", "b.example"]
        assert worker.active.recipients == 0
        assert not worker.panics

    asyncio.run(main())


@pytest.mark.parametrize("order", ["hold", "delete", "requeue", "expire"])
def test_an_order_while_it_waits(world: World, order: str) -> None:
    async def main() -> None:
        server = Server()
        worker = world.worker(ask=server.ask)
        agent = worker.transport(SimAgent(1.0))
        message = worker.send("x@a.example")
        assert getattr(operations(worker), order)(message.queue_id)
        await asyncio.sleep(0)
        await answered(worker, server)
        world.run(1)
        if order == "hold":
            assert not agent.requests
            assert worker.parked == {message.queue_id}
            assert operations(worker).queue_of(message.queue_id) == "hold"
        elif order == "delete":
            assert not agent.requests
            assert worker.removed == [message.queue_id]
        elif order == "requeue":
            await answered(worker, server)
            world.run(1)
            assert worker.removed == [message.queue_id]
            assert server.asked == 2
        else:  # too late for this attempt
            assert len(agent.requests) == 1
        assert worker.active.recipients == 0
        assert not worker.active.orders
        assert not worker.panics

    asyncio.run(main())


def test_a_table_that_is_down_defers(world: World) -> None:
    async def main() -> None:
        server = Server()
        server.down = True
        worker = world.worker(ask=server.ask)
        agent = worker.transport(SimAgent(1.0))
        message = worker.send("x@a.example")
        await asyncio.sleep(0)
        await answered(worker, server)
        assert "status=deferred (address resolver failure)" in worker.lines[-1]
        assert worker.parked == {message.queue_id}
        server.down = False
        world.run(5000, until=lambda: bool(worker.active.messages))
        await answered(worker, server)
        world.run(10)
        assert worker.removed == [message.queue_id]
        assert len(agent.requests) == 1

    asyncio.run(main())


def test_a_worker_that_ends_gives_it_back(world: World) -> None:
    async def main() -> None:
        server = Server()
        worker = world.worker(ask=server.ask)
        agent = worker.transport(SimAgent(1.0))
        message = worker.send("x@a.example")
        ended: list[bool] = []
        worker.active.drain(lambda: ended.append(True))
        assert ended
        assert worker.parked == {message.queue_id}
        await asyncio.sleep(0)
        await answered(worker, server)
        assert not agent.requests
        assert not worker.panics

    asyncio.run(main())


def test_the_limit_of_the_active_queue_counts_those_that_wait(world: World) -> None:
    async def main() -> None:
        worker = world.worker(ask=Server().ask, message_active_limit=5)
        worker.transport(SimAgent(1.0))
        for number in range(9):
            worker.send(f"x{number}@a.example")
        assert len(worker.active.messages) == 5
        assert len(worker.parked) == 4

    asyncio.run(main())


def test_who_asks_for_an_attempt_gets_it_though_it_waited(world: World) -> None:
    async def main() -> None:
        server = Server()
        server.answers.set()
        worker = world.worker(ask=server.ask, defer_transports=frozenset({"smtp"}))
        agent = worker.transport(SimAgent(1.0))
        message = worker.send("x@a.example")
        await answered(worker, server)
        assert "deferred transport" in worker.lines[-1]
        assert operations(worker).flush_id(message.queue_id)
        await answered(worker, server)
        world.run(10)
        assert len(agent.requests) == 1

    asyncio.run(main())
