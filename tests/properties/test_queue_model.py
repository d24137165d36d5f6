"""Any life of a shard, held against a dictionary: nothing acknowledged is lost, nothing comes back.

The segments are small, so that they roll, are moved and unlinked all the time. A crash is a copy of the folder as the
kernel has it at that moment, without (SIGKILL) or after (loss of power) forgetting the index; the copy is then
opened.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastmta._ext.records import id_number
from fastmta.model.message import FLAG_DELAY_WARNED, FLAG_HOLD, Message
from fastmta.model.outcome import Deferred
from tests.queue_kit import SMALL, Keeper, content_of, forget_boot

TINY = msgspec.structs.replace(SMALL, segment_size=6_000, memory_budget=20_000, lazy=0.001)


class Known(msgspec.Struct):
    """What the queue must know of one message."""

    content: bytes
    flags: int = 0
    attempts: int = 0
    done: bytes | None = None
    reasons: dict[int, Deferred] | None = None


class QueueMachine(RuleBasedStateMachine):
    """Random lives of a shard."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.life = 0
        self.queue = self.folder / "q0"
        self.keeper = Keeper(self.queue, TINY)
        self.known: dict[str, Known] = {}
        self.held: dict[str, Message] = {}
        self.gone: set[str] = set()

    def teardown(self) -> None:
        self.keeper.close()
        shutil.rmtree(self.folder)

    @rule(sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=8), recipients=st.integers(1, 3))
    def append(self, sizes: list[int], recipients: int) -> None:
        messages = [self.keeper.message(size, recipients) for size in sizes]
        contents = [content_of(message) for message in messages]
        assert self.keeper.append(*messages) == [None] * len(messages)
        for message, content in zip(messages, contents, strict=True):
            assert message.queue_id not in self.known
            assert message.queue_id not in self.gone
            self.known[message.queue_id] = Known(content)
            self.held[message.queue_id] = message

    def choose(self, data: st.DataObject) -> Message:
        return self.held[sorted(self.held, key=id_number)[data.draw(st.integers(0, len(self.held) - 1))]]

    def change(self, data: st.DataObject, message: Message) -> None:
        known = self.known[message.queue_id]
        message.attempts += 1
        index = data.draw(st.integers(0, len(message.envelope.recipients) - 1))
        if data.draw(st.booleans()):
            message.done = message.done or bytearray(len(message.envelope.recipients))
            message.done[index] = 1
        else:
            reason = Deferred("4.4.1", data.draw(st.text(max_size=20)))
            message.deferred = {**(message.deferred or {}), index: reason}  # type: ignore[dict-item]
        message.flags ^= data.draw(st.sampled_from([0, FLAG_HOLD, FLAG_DELAY_WARNED]))
        message.next_attempt = time.time() + data.draw(st.sampled_from([-50, 50]))
        known.flags, known.attempts = message.flags, message.attempts
        known.done = None if message.done is None else bytes(message.done)
        known.reasons = None if message.deferred is None else dict(message.deferred)  # type: ignore[arg-type]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), park=st.booleans(), times=st.integers(1, 5))
    def state(self, data: st.DataObject, park: bool, times: int) -> None:
        for _ in range(times):
            if not self.held:
                return
            message = self.choose(data)
            self.change(data, message)
            if park:
                self.keeper.shard.park(message)
                del self.held[message.queue_id]
            else:
                self.keeper.shard.record(message)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), times=st.integers(1, 10))
    def remove(self, data: st.DataObject, times: int) -> None:
        for _ in range(min(times, len(self.held))):
            message = self.choose(data)
            self.keeper.shard.remove(message)
            del self.held[message.queue_id]
            del self.known[message.queue_id]
            self.gone.add(message.queue_id)

    @rule(limit=st.integers(1, 20))
    def due(self, limit: int) -> None:
        given = self.keeper.shard.due(time.time(), limit)
        assert len(given) <= limit
        self.take_over(given)

    @rule()
    def everything_due(self) -> None:
        given = self.keeper.shard.due(time.time() + 100, 10_000)
        self.take_over(given)
        assert set(self.held) >= {queue_id for queue_id, known in self.known.items() if not known.flags & FLAG_HOLD}

    def take_over(self, given: list[Message]) -> None:
        for message in given:
            assert message.queue_id not in self.held, "somebody holds it"
            assert message.queue_id in self.known, "it is gone"
            assert not self.known[message.queue_id].flags & FLAG_HOLD
            self.same(message)
            self.held[message.queue_id] = message

    def same(self, message: Message) -> None:
        known = self.known[message.queue_id]
        assert b"".join(self.keeper.shard.content(message)) == known.content
        assert (message.flags, message.attempts) == (known.flags, known.attempts)
        assert (None if message.done is None else bytes(message.done)) == known.done
        assert message.deferred == known.reasons

    @rule(times=st.integers(1, 4))
    def housekeeping(self, times: int) -> None:
        self.keeper.tick(times)

    @rule(turns=st.integers(1, 5))
    def a_little_housekeeping(self, turns: int) -> None:
        """Something else happens while chores are under way."""
        self.keeper.shard.tick()
        for _ in range(turns):
            self.keeper.loop.turn(0.001)

    @rule()
    def sync_index(self) -> None:
        self.keeper.shard.sync_index()

    @rule(how=st.sampled_from(["close", "kill", "power cut", "close, index lost"]), settle=st.booleans())
    def restart(self, how: str, settle: bool) -> None:
        if how.startswith("close"):
            self.keeper.close()
            if "lost" in how:
                forget_boot(self.queue)
        else:
            self.keeper.settle()
            self.life += 1
            after = self.folder / f"q{self.life}"
            (self.keeper.crash if how == "kill" else self.keeper.power_cut)(after)
            self.keeper.close()
            shutil.rmtree(self.queue)
            self.queue = after
        self.held.clear()
        self.keeper = Keeper(self.queue, TINY, wait=settle)
        if not settle:
            self.append([100], 1)  # while it recovers
            self.keeper.until(lambda: not self.keeper.shard.recovering)
        assert self.keeper.warnings == []
        for queue_id in self.known:
            message = self.keeper.shard.find(queue_id)
            assert message is not None, "lost"
            self.same(message)
        index = self.keeper.shard.index
        assert index is not None
        assert {entry.envelope.queue_id for _, entry in index.entries(limit=100_000)} <= set(self.known)

    @invariant()
    def nothing_is_reported(self) -> None:
        assert self.keeper.warnings == []

    @invariant()
    def counts_are_right(self) -> None:
        if self.keeper.shard.recovering or self.keeper.shard.reclaim.moving:
            return
        assert sum(segment.live for segment in self.keeper.shard.segments.values()) == len(self.known)


TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
