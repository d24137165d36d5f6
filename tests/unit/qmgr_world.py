"""A world for the queue manager: virtual time, a queue in memory, agents that take their time, several workers."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec

from fastmta._ext.sched import DeliveryRequest, Slot
from fastmta._ext.shared import SharedTable
from fastmta.model.envelope import Envelope, Recipient
from fastmta.model.message import FLAG_HOLD, Message
from fastmta.model.outcome import Attempt, Bounced, Deferred, Outcome, Result, Sent
from fastmta.qmgr.active import Active, ActiveContext
from fastmta.qmgr.resolving import NEVER, Ask, RemoteResolving
from fastmta.qmgr.settings import QmgrSettings, TransportRules

START = 1_000_000.0
OK = Sent("2.0.0", "250 2.0.0 Ok: queued as ABC")
REFUSED = Deferred("4.4.1", "connect to mx.example[192.0.2.1]:25: Connection refused")
UNKNOWN = Bounced("5.1.1", "host mx.example[192.0.2.1] said: 550 5.1.1 unknown (in reply to RCPT TO command)")
BUSY = Deferred("4.2.0", "host mx.example[192.0.2.1] said: 450 4.2.0 busy (in reply to RCPT TO command)")


class Call:
    def __init__(self, callback: Callable[..., object]) -> None:
        self.callback: Callable[..., object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class World:
    """The clock and the loop of all workers, and the memory that they share."""

    def __init__(self) -> None:
        self.time = START
        self._calls: list[tuple[float, int, Call]] = []
        self._numbers = count()
        self.readers: dict[int, Callable[..., object]] = {}
        self.table = SharedTable.create(1024)
        self.table.fixed_time = self.time
        self.tables = [self.table]

    def close(self) -> None:
        self.table.close()

    def clock(self) -> float:
        return self.time

    def call_later(self, delay: float, callback: Callable[..., object]) -> Call:
        call = Call(callback)
        heapq.heappush(self._calls, (self.time + delay, next(self._numbers), call))
        return call

    def call_soon(self, callback: Callable[..., object]) -> Call:
        return self.call_later(0.0, callback)

    def add_reader(self, fd: int, callback: Callable[..., object]) -> None:
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.readers.pop(fd, None)

    def _poll(self) -> bool:
        """Run the callbacks of eventfds that are readable."""
        import select

        if not self.readers:
            return False
        poller = select.poll()
        for fd in self.readers:
            poller.register(fd, select.POLLIN)
        ready = poller.poll(0)
        for fd, _event in ready:
            self.readers[fd]()
        return bool(ready)

    def run(self, seconds: float = 0.0, until: Callable[[], bool] | None = None) -> None:
        """Let that much time pass; or as much as it takes, at most seconds."""
        end = self.time + seconds
        while not (until and until()):
            if self._poll():
                continue
            if not self._calls or self._calls[0][0] > end:
                if until:
                    raise AssertionError(f"nothing more happens within {seconds} seconds")
                self._set(end)
                return
            when, _number, call = heapq.heappop(self._calls)
            if call.callback is not None:
                self._set(max(self.time, when))
                call.callback()

    def _set(self, now: float) -> None:
        self.time = now
        for table in self.tables:
            table.fixed_time = now

    def worker(self, slot: int = 0, ask: Ask | None = None, **settings: Any) -> Worker:
        table = SharedTable.attach(self.table.fd)
        table.bind(slot)
        table.fixed_time = self.time
        self.tables.append(table)
        return Worker(self, table, QmgrSettings(**settings), ask)


class Way(msgspec.Struct, frozen=True):
    transport: str
    nexthop: str
    recipient: str


class Worker:
    """The queue manager of one worker with a queue, a resolver (domain -> next hop), a bouncer and a log of its own."""

    def __init__(self, world: World, table: SharedTable, settings: QmgrSettings, ask: Ask | None = None) -> None:
        self.world = world
        self.lines: list[str] = []
        self.panics: list[str] = []
        self.stored: dict[str, Message] = {}
        self.parked: set[str] = set()
        self.records = 0
        self.removed: list[str] = []
        self.bounced: list[tuple[str, list[tuple[int, Bounced]]]] = []
        self.notices: list[tuple[str, list[tuple[int, Deferred]]]] = []
        self.successes: list[tuple[str, list[tuple[int, Sent]], str, str]] = []
        self.bounce_error: BaseException | None = None
        self.ways: dict[str, Outcome | Way] = {}
        self._number = count(1)
        self._flush: list[str] = []
        # ask: what resolve() says comes from a remote table
        remote = RemoteResolving(self, ask, lambda where, error: self.panic(where, repr(error), error)) if ask else None
        self.active = Active(
            ActiveContext(settings, self, remote or self, self, self, world, table, world.clock, remote or NEVER)
        )

    # the queue

    def record(self, message: Message) -> None:
        self.records += 1

    def park(self, message: Message) -> None:
        self.records += 1
        self.parked.add(message.queue_id)

    def held(self) -> list[Message]:
        return [message for queue_id, message in self.stored.items() if queue_id not in self.parked]

    def take(self, queue_id: str) -> Message | None:
        if queue_id not in self.parked:
            return None
        self.parked.discard(queue_id)
        return self.stored[queue_id]

    def remove(self, message: Message) -> None:
        self.removed.append(message.queue_id)
        self.parked.discard(message.queue_id)
        del self.stored[message.queue_id]

    def due(self, now: float, limit: int) -> list[Message]:
        found: list[Message] = []
        waiting = sorted(self.parked, key=lambda name: self.stored[name].next_attempt)
        for name in waiting:
            message = self.stored[name]
            if len(found) < limit and message.next_attempt <= now and not message.flags & FLAG_HOLD:
                found.append(message)
        self.parked.difference_update(message.queue_id for message in found)
        return found

    def next_due(self) -> float | None:
        return min(
            (self.stored[n].next_attempt for n in self.parked if not self.stored[n].flags & FLAG_HOLD), default=None
        )

    def flush(self) -> None:
        self._flush = sorted(self.parked)

    def flushed(self, limit: int) -> list[Message] | None:
        if not self._flush:
            return None
        names, self._flush = self._flush[:limit], self._flush[limit:]
        found = [self.stored[name] for name in names if name in self.parked and not self.stored[name].flags & FLAG_HOLD]
        self.parked.difference_update(message.queue_id for message in found)
        return found

    def find(self, queue_id: str) -> Message | None:
        return self.stored.get(queue_id)

    # the resolver

    def resolve(self, address: str, _sender: str = "") -> Outcome | Way:
        domain = address.rpartition("@")[2]
        way = self.ways.get(domain)
        if way is None:
            way = Way("smtp", domain, "")
        return Way(way.transport, way.nexthop, address) if isinstance(way, Way) else way

    # the bouncer

    def bounce(self, message: Message, failed: list[tuple[int, Bounced]], done: Callable[..., None]) -> None:
        self.bounced.append((message.queue_id, failed))
        error = self.bounce_error
        self.world.call_later(0.001, lambda: done(error))

    def delay_notice(self, message: Message, delayed: list[tuple[int, Deferred]], done: Callable[..., None]) -> None:
        self.notices.append((message.queue_id, delayed))
        error = self.bounce_error
        self.world.call_later(0.001, lambda: done(error))

    def success(
        self, message: Message, sent: list[tuple[int, Sent]], relay: str, action: str, done: Callable[..., None]
    ) -> None:
        self.successes.append((message.queue_id, sent, relay, action))
        error = self.bounce_error
        self.world.call_later(0.001, lambda: done(error))

    # the log

    def write(self, service: str, line: str) -> None:
        self.lines.append(f"{service}: {line}")

    def warning(self, service: str, text: str) -> None:
        self.lines.append(f"{service}: warning: {text}")

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        self.panics.append(text)

    # mail

    def transport(self, agent: SimAgent, name: str = "smtp", **rules: Any) -> SimAgent:
        self.active.add_transport(TransportRules(name, **rules), agent)
        agent.world = self.world
        return agent

    def message(
        self,
        *recipients: str,
        sender: str = "sender@example.org",
        arrival: float | None = None,
        flags: int = 0,
        notify: int = 0,
    ) -> Message:
        envelope = Envelope(
            queue_id=f"Q{next(self._number):05d}",
            arrival=self.world.time if arrival is None else arrival,
            sender=sender,
            recipients=tuple(Recipient(address, dsn_notify=notify) for address in recipients),
            size=1000,
        )
        message = Message(envelope, [b"x\r\n"], flags=flags)
        self.stored[message.queue_id] = message
        return message

    def send(self, *recipients: str, **facts: Any) -> Message:
        message = self.message(*recipients, **facts)
        self.active.admit(message)
        return message

    @property
    def idle(self) -> bool:
        return not self.active.messages


class SimAgent:
    """Delivers each request in `latency` seconds of virtual time; `answer` says what becomes of a recipient."""

    def __init__(self, latency: float = 1.0, answer: Callable[[DeliveryRequest, int], Result] | None = None) -> None:
        self.latency = latency
        self.answer = answer
        self.relayed = False
        self.site_down: Callable[[DeliveryRequest], Deferred | None] | None = None
        self.world: World
        self.busy: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.requests: list[tuple[float, str, str, list[int]]] = []  # started, next hop, queue id, recipients
        self.finished: list[tuple[float, str]] = []
        self.on_change: Callable[[], None] | None = None

    def slot(self, slot: Slot) -> None:
        self._next(slot)

    def _next(self, slot: Slot) -> None:
        request = slot.take()
        if request is None:
            return
        site = request.destination.name
        self.busy[site] = self.busy.get(site, 0) + 1
        self.most[site] = max(self.most.get(site, 0), self.busy[site])
        self.requests.append((self.world.time, site, request.message.queue_id, list(request.recipients)))
        if self.on_change is not None:
            self.on_change()
        self.world.call_later(self.latency, lambda: self._done(slot, request))

    def _done(self, slot: Slot, request: DeliveryRequest) -> None:
        self.busy[request.destination.name] -= 1
        self.finished.append((self.world.time, request.message.queue_id))
        down = self.site_down(request) if self.site_down is not None else None
        if down is not None:
            request.finish([down] * len(request.recipients), Attempt(), down)
        else:
            answer = self.answer
            results: list[Result] = [OK if answer is None else answer(request, index) for index in request.recipients]
            request.finish(results, Attempt("mx.example[192.0.2.1]:25", 1, 0.1, self.latency - 0.1, "", self.relayed))
        self._next(slot)
