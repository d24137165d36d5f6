"""Whatever comes: each recipient has one result in each round, no window is exceeded, nothing is forgotten."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmta._ext.sched import DeliveryRequest
from fastmta.model.outcome import Deferred, Result
from fastmta.qmgr.operations import Operations
from tests.unit.qmgr_world import BUSY, OK, REFUSED, UNKNOWN, SimAgent, Worker, World


class WildAgent(SimAgent):
    """Answers and takes its time at random; now and then it gives a place back, or passes a request on."""

    def __init__(self, dice: random.Random, down: float) -> None:
        super().__init__(answer=self._answer)
        self.dice = dice
        self.site_down = self._down
        self.down = down
        self.results: Counter[tuple[str, int]] = Counter()

    def _down(self, request: DeliveryRequest) -> Deferred | None:
        self.latency = self.dice.choice((0.0, 0.3, 1.0, 7.0))
        for index in request.recipients:
            self.results[request.message.queue_id, index] += 1
        return REFUSED if self.dice.random() < self.down else None

    def _answer(self, request: DeliveryRequest, index: int) -> Result:
        return self.dice.choice((OK, OK, OK, BUSY, UNKNOWN))


RULES = st.fixed_dictionaries(
    {
        "destination_concurrency_limit": st.sampled_from([0, 1, 2, 3, 20]),
        "process_limit": st.sampled_from([0, 1, 2, 5, 100]),
        "destination_recipient_limit": st.sampled_from([0, 1, 2, 50]),
        "destination_rate_delay": st.sampled_from([0.0, 0.0, 0.0, 2.0]),
        "transport_rate_delay": st.sampled_from([0.0, 0.0, 0.0, 1.0]),
        "failed_cohort_limit": st.sampled_from([0, 1, 3]),
        "delivery_slot_cost": st.sampled_from([0, 2, 5]),
    }
)


@settings(max_examples=60, deadline=None)
@given(RULES, st.integers(1, 4), st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_whatever_comes(rules: dict[str, Any], count: int, seed: int, down: float, orders: bool) -> None:
    dice = random.Random(seed)
    world = World()
    try:
        run(world, dice, rules, count, down, orders)
    finally:
        world.close()


def run(world: World, dice: random.Random, rules: dict[str, Any], count: int, down: float, orders: bool) -> None:
    workers = [world.worker(slot, minimal_backoff_time=1e5, maximal_backoff_time=1e5) for slot in range(count)]
    agents = [WildAgent(dice, down) for _ in workers]
    limit = 1 if rules["destination_rate_delay"] else rules["destination_concurrency_limit"] or 65535
    processes = rules["process_limit"] or 65535

    def watch() -> None:
        busy: Counter[str] = Counter()
        for agent in agents:
            busy.update(agent.busy)
        assert max(busy.values()) <= limit
        assert busy.total() <= processes

    for worker, agent in zip(workers, agents, strict=True):
        worker.transport(agent, **rules)
        agent.on_change = watch
        worker.active.start()
    sent: list[tuple[Worker, str]] = []
    for _ in range(dice.randrange(1, 25)):
        worker = dice.choice(workers)
        size = dice.choice((1, 1, 1, 2, 5, 40))
        domains = [f"{dice.choice('abc')}.example" for _ in range(size)]
        message = worker.send(*(f"u{i}@{domain}" for i, domain in enumerate(domains)))
        sent.append((worker, message.queue_id))
        if orders and dice.random() < 0.2:
            disturb(dice, worker, message.queue_id)
        if dice.random() < 0.5:
            world.run(dice.random() * 3)
        for each in workers:
            assert each.active.sweep.run() == []
    world.run(9e4, lambda: all(worker.idle for worker in workers))
    for worker in workers:
        assert worker.panics == []
        assert worker.active.recipients == 0
        assert worker.active.scheduler.in_flight == 0
        assert not worker.active.scheduler.slots
        for destination in worker.active.scheduler.transports["smtp"].destinations.values():
            assert destination.todo == destination.busy == destination.window.in_use() == 0
    for worker, queue_id in sent:
        done = queue_id in worker.removed
        assert done != (queue_id in worker.parked)
        if not orders:
            tells = Counter(
                line.split("to=<")[1].split(">")[0] for line in worker.lines if f" {queue_id}: to=<" in line
            )
            assert set(tells.values()) == {1}
    for agent in agents:
        if not orders:
            assert not agent.results or max(agent.results.values()) == 1


def disturb(dice: random.Random, worker: Worker, queue_id: str) -> None:
    operations = Operations(worker.active, worker)  # type: ignore[arg-type]
    order = dice.choice((operations.hold, operations.delete, operations.requeue))
    if queue_id in worker.active.messages:
        order(queue_id)
