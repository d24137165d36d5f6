"""Workers as real processes: one window for all, killed ones cleared, nobody left waiting."""

from __future__ import annotations

import asyncio
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any

from fastmta._ext.sched import DeliveryRequest, Slot
from fastmta._ext.shared import SharedTable
from fastmta._ext.window import Window
from fastmta.model.envelope import Envelope, Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Attempt
from fastmta.qmgr.active import Active, ActiveContext
from fastmta.qmgr.settings import QmgrSettings, TransportRules
from tests.unit.qmgr_world import OK, Way

FORK = get_context("fork")
LIMIT = 6


class Idle:
    """A queue, resolver, bouncer and log that do nothing."""

    def __init__(self) -> None:
        self.left = 0
        self.panics: list[str] = []

    def remove(self, _message: Message) -> None:
        self.left -= 1

    def resolve(self, address: str, _sender: str = "") -> Way:
        return Way("smtp", "example.com", address)

    def held(self) -> list[Message]:
        return []

    def due(self, _now: float, _limit: int) -> list[Message]:
        return []

    def next_due(self) -> float | None:
        return None

    def write(self, _service: str, _line: str) -> None:
        pass

    def panic(self, _service: str, text: str, error: BaseException | None = None) -> None:
        self.panics.append(text)

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was not expected")


class CountingAgent:
    """Delivers in `latency` seconds; counts in shared memory how many do so at the same time."""

    def __init__(self, latency: float, busy: Synchronized[int], most: Synchronized[int]) -> None:
        self.latency, self.busy, self.most = latency, busy, most

    def slot(self, slot: Slot) -> None:
        request = slot.take()
        if request is None:
            return
        with self.busy.get_lock():
            self.busy.value += 1
            self.most.value = max(self.most.value, self.busy.value)
        asyncio.get_running_loop().call_later(self.latency, self.done, slot, request)

    def done(self, slot: Slot, request: DeliveryRequest) -> None:
        with self.busy.get_lock():
            self.busy.value -= 1
        request.finish([OK], Attempt())
        self.slot(slot)


def work(
    table: SharedTable,
    number: int,
    count: int,
    latency: float,
    busy: Synchronized[int],
    most: Synchronized[int],
    answer: Connection,
) -> None:
    asyncio.run(deliver(table, number, count, CountingAgent(latency, busy, most), answer))


async def deliver(table: SharedTable, number: int, count: int, agent: CountingAgent, answer: Connection) -> None:
    table.bind(number)
    idle: Any = Idle()
    loop = asyncio.get_running_loop()
    active = Active(ActiveContext(QmgrSettings(), idle, idle, idle, idle, loop, table))
    active.add_transport(
        TransportRules("smtp", destination_concurrency_limit=LIMIT, initial_destination_concurrency=LIMIT), agent
    )
    active.start()
    for i in range(count):
        idle.left += 1
        active.admit(Message(Envelope(f"Q{i}", time.time(), "", (Recipient("x@example.com"),), 1)))
    answer.send("begun")
    while idle.left:
        await asyncio.sleep(0.002)
    answer.send((active.sweep.run() if not active.messages else ["messages are left"], idle.panics, time.monotonic()))


def test_one_window_for_all_processes() -> None:
    table = SharedTable.create(256)
    busy, most = FORK.Value("i", 0), FORK.Value("i", 0)
    pipes = [FORK.Pipe(duplex=False) for _ in range(3)]
    began = time.monotonic()
    children = [
        FORK.Process(target=work, args=(table, slot, 300, 0.002, busy, most, sender))
        for slot, (_receiver, sender) in enumerate(pipes)
    ]
    for child in children:
        child.start()
    ends = []
    for receiver, _sender in pipes:
        assert receiver.poll(30)
        assert receiver.recv() == "begun"
        assert receiver.poll(30)
        wrong, panics, end = receiver.recv()
        assert (wrong, panics) == ([], [])
        ends.append(end)
    for child in children:
        child.join(10)
        assert child.exitcode == 0
    assert most.value == LIMIT
    # 900 deliveries of 2 ms in 6 places: 0.3 seconds, and something for a busy machine; none waited for nothing.
    assert max(ends) - began < 10
    table.bind(9)
    assert Window(table, "smtp:example.com").in_use() == 0
    table.close()


def test_a_killed_worker_does_not_hold_up_the_others() -> None:
    table = SharedTable.create(256)
    busy, most = FORK.Value("i", 0), FORK.Value("i", 0)
    dead_end, dead_sender = FORK.Pipe(duplex=False)
    dead = FORK.Process(target=work, args=(table, 0, 100, 3600.0, busy, most, dead_sender))
    dead.start()
    assert dead_end.poll(10)
    assert dead_end.recv() == "begun"
    receiver, sender = FORK.Pipe(duplex=False)
    alive = FORK.Process(target=work, args=(table, 1, 100, 0.002, busy, most, sender))
    alive.start()
    assert receiver.poll(10)
    assert receiver.recv() == "begun"
    assert not receiver.poll(0.3)  # all places are taken
    dead.kill()
    dead.join(10)
    table.clear_worker(0)
    assert receiver.poll(10)
    wrong, panics, _end = receiver.recv()
    assert (wrong, panics) == ([], [])
    alive.join(10)
    table.close()
