"""The active queue: the messages that are being delivered now, each with an owner and a next action.

cleanup/ hands a fresh message in as soon as it is durable (`admit`), the queue gives those whose next attempt has
come (`refill`). Recipients are routed (routing.py) and become entries of the scheduler (ext/sched.pyx), which gives
them to delivery agents; their results come back through `finished`. When a message has a result for each recipient of
this round, closing.py decides: report, defer, or remove. operations.py changes messages on request, sweep.py proves
that none was forgotten.

Everything is a callback on the worker's loop. What a part that is called raises is logged, and the message is kept.
Reference: qmgr(8), qmgr_active.c.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Final

import msgspec

from fastmta._ext.loglines import delivery, queue_active
from fastmta._ext.sched import DeliveryRequest, Destination, Scheduler, Transport
from fastmta._ext.shared import SharedTable
from fastmta.model.envelope import NOTIFY_SUCCESS
from fastmta.model.message import FLAG_EXPIRE, FLAG_HOLD, Message
from fastmta.model.outcome import Attempt, Bounced, Deferred, Outcome, Result, Sent
from fastmta.qmgr.closing import Closing
from fastmta.qmgr.ports import Agent, Bouncer, Log, Loop, Resolver, Store, Timer
from fastmta.qmgr.resolving import NEVER, Resolving
from fastmta.qmgr.routing import UNAVAILABLE, Router, destination_name, in_order, redirect
from fastmta.qmgr.settings import QmgrSettings, TransportRules
from fastmta.qmgr.sweep import SWEEP_INTERVAL, Sweep

NOWHERE: Final = Attempt()  # relay=none
EXPIRED: Final = Deferred("4.7.0", "message is administratively expired")
CHUNK: Final = 200  # messages or recipients that one turn of the loop works on, where there are many
PROGRESS: Final = 1.0  # seconds between records of a message's progress
FRESH_SHARE: Final = 0.25  # of the active queue is kept free for fresh mail


class ActiveContext(msgspec.Struct, frozen=True, eq=False):
    """What a worker hands in."""

    settings: QmgrSettings
    store: Store
    resolver: Resolver
    bouncer: Bouncer
    log: Log
    loop: Loop
    table: SharedTable
    clock: Callable[[], float] | None = None  # tests; None = the system's
    resolving: Resolving = NEVER


class Active:
    """The active queue of a worker."""

    def __init__(self, context: ActiveContext) -> None:
        """Make it; `add_transport` and `start` follow."""
        self.context = context
        self.settings = context.settings
        self.log = context.log
        self.messages: dict[str, Message] = {}
        self.recipients = 0  # without a result, of all messages
        self.orders: dict[str, str] = {}  # queue id -> hold, delete or requeue, when it leaves the active queue
        self.failed_recipients: dict[str, list[tuple[int, Bounced]]] = {}  # of this round
        self.traced: dict[str, dict[str, list[tuple[int, Sent]]]] = {}  # successes to be reported, by relay
        self.now = context.clock or time.time
        self.scheduler = Scheduler(context.table, self, context.clock)
        self.router = Router(context.settings, context.resolver, self.scheduler, context.log, self.now)
        self.closing = Closing(self)
        self.sweep = Sweep(self)
        self.suspended_requests: list[tuple[DeliveryRequest, Deferred]] = []
        self._progress: dict[str, Message] = {}  # whose state is to be recorded at the next PROGRESS
        self._timer: Timer | None = None
        self._timer_at = 0.0
        self._refill_timer: Timer | None = None
        self._refill_at = 0.0
        self._sweep_timer: Timer | None = None
        self._starved = False  # more was due than there was room for
        self._flushing = False
        self._drained: Callable[[], None] | None = None
        self._write = context.log.write
        self._resolution = context.settings.delay_logging_resolution_limit
        self._limit = context.settings.message_active_limit
        self._deferred_limit = max(1, int(self._limit * (1 - FRESH_SHARE)))

    # -- life

    def add_transport(self, rules: TransportRules, agent: Agent) -> Transport:
        """A delivery agent of master.cf."""
        transport = self.scheduler.transport(rules, agent)
        self.router.add(transport)
        return transport

    def start(self) -> None:
        """Begin: take what is due, sweep from time to time, watch the eventfd of this worker."""
        self.context.loop.add_reader(self.context.table.wake_fd(), self.woken)
        if self.settings.bounce_queue_lifetime > self.settings.maximal_queue_lifetime:
            self.log.warning(
                "qmgr",
                "bounce_queue_lifetime is larger than maximal_queue_lifetime - adjusting bounce_queue_lifetime",
            )
        self.refill()
        self._sweep_timer = self.context.loop.call_later(SWEEP_INTERVAL, self._on_sweep)

    def woken(self) -> None:
        """The eventfd of this worker is readable: another one gave up a place that this one waits for."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.context.table.wake_fd())
        self.scheduler.woken()

    def drain(self, done: Callable[[], None] | None = None) -> None:
        """Begin no delivery any more; done() when those on their way have ended and all state is recorded."""
        self._drained = done or (lambda: None)
        self.scheduler.drain()
        self.context.loop.remove_reader(self.context.table.wake_fd())
        for timer in (self._refill_timer, self._sweep_timer):
            if timer is not None:
                timer.cancel()
        self._check_drained()

    # -- in

    def admit(self, message: Message) -> bool:
        """A fresh message, durable already, or one that is due. False: there is no room now, it waits in the queue."""
        now = self.now()
        envelope = message.envelope
        queue_id = envelope.queue_id
        if message.flags:
            if message.flags & FLAG_HOLD:
                self.context.store.park(message)
                return False
            if message.flags & FLAG_EXPIRE:
                self._expire(message, now)
                return True
        if queue_id in self.messages:
            return True
        if len(self.messages) >= self._limit or self.scheduler.draining or self._too_many():
            self._put_off(message, now)
            return False
        left = self._enter(message, now)
        if self.context.resolving.is_resolved(message, self._flushing, self._resolved):
            self._route(message, left, now)
        return True

    def admit_now(self, message: Message) -> bool:
        """An attempt that somebody asked for: nothing is put off, a dead destination gets another chance."""
        flushing, self._flushing = self._flushing, True
        try:
            return self.admit(message)
        finally:
            self._flushing = flushing

    def _too_many(self) -> bool:
        """Whether the recipients in memory are too many for another message (a first one may have any number)."""
        return self.recipients > self.settings.message_recipient_limit and len(self.messages) > 0

    def _enter(self, message: Message, now: float) -> list[int]:
        """It is in the active queue from now on. The recipients without a result."""
        envelope = message.envelope
        queue_id = envelope.queue_id
        message.activated = now
        self.messages[queue_id] = message
        left = message.left()
        message.remaining = len(left)
        self.recipients += len(left)
        self._write("qmgr", queue_active(queue_id, envelope.sender, envelope.size, len(left)))
        return left

    def _resolved(self, message: Message, flush: bool) -> None:
        """What is_resolved() waited for. An order that came meanwhile is obeyed; who drains gives all back anyway."""
        if self.messages.get(message.envelope.queue_id) is not message or self.scheduler.draining:
            return
        now = self.now()
        if message.envelope.queue_id in self.orders:
            self.recipients -= message.remaining
            message.remaining = 0
            self.closing.round_over(message, now)
            return
        flushing, self._flushing = self._flushing, flush
        try:
            self._route(message, message.left(), now)
        finally:
            self._flushing = flushing

    def _route(self, message: Message, left: list[int], now: float) -> None:
        """Give its recipients to the destinations that they go to."""
        envelope = message.envelope
        recipients = envelope.recipients
        if len(recipients) == 1:
            address = recipients[0].address
            where = self.router.route(address, self._flushing, envelope.sender)
            if self.router.recipient != address:
                redirect(message, {0: self.router.recipient})
            if isinstance(where, Destination):
                self.scheduler.add(where, message, None)
            else:
                self.outcome(message, [0], where, now)
            return
        if not left:
            self.closing.round_over(message, now)
            return
        pairs: list[tuple[int, str, Destination]] = []
        at_once: list[tuple[list[int], Outcome]] = []
        changed: dict[int, str] = {}
        flush = self._flushing
        for index in left:
            address = recipients[index].address
            where = self.router.route(address, flush, envelope.sender)
            if self.router.recipient != address:
                address = changed[index] = self.router.recipient
            if isinstance(where, Destination):
                pairs.append((index, address, where))
            elif at_once and at_once[-1][1] is where:
                at_once[-1][0].append(index)
            else:
                at_once.append(([index], where))
        if changed:
            redirect(message, changed)
        for indexes, outcome in at_once:
            self.outcome(message, indexes, outcome, now)
        for destination, indexes in in_order(pairs):
            limit = destination.via.rules.destination_recipient_limit or len(indexes)
            if len(indexes) <= limit:
                self.scheduler.add(destination, message, indexes)
            else:
                groups = [indexes[at : at + limit] for at in range(0, len(indexes), limit)]
                self.scheduler.add_job(destination, message, groups)

    def _put_off(self, message: Message, now: float) -> None:
        """No room: the queue keeps it and gives it back when there is."""
        message.next_attempt = now
        self.context.store.park(message)
        if not self._starved:
            self._starved = True
            self.arm_refill(now + 1.0)

    def _expire(self, message: Message, now: float) -> None:
        """Forced expiration (postsuper -e): no attempt is made; the reason of the delay stands, if there is one."""
        left = self._enter(message, now)
        known = message.deferred or {}
        silent = [i for i in left if i in known]
        message.remaining -= len(silent)
        self.recipients -= len(silent)
        loud = [i for i in left if i not in known]
        if loud:
            self.outcome(message, loud, EXPIRED, now)
        else:
            self.closing.round_over(message, now)

    # -- out: called by the scheduler

    def finished(self, request: DeliveryRequest, results: list[Result], attempt: Attempt, now: float) -> None:
        """The results of one delivery."""
        message = request.message
        envelope = message.envelope
        recipients = envelope.recipients
        many = len(recipients) > 1
        write = self._write
        last, earlier = attempt, attempt.earlier
        for index, result in zip(request.recipients, results, strict=True):
            recipient = recipients[index]
            if earlier is not None:
                attempt = earlier.get(index, last)
            kind = type(result)
            write(
                request.service,
                delivery(
                    envelope.queue_id,
                    recipient.address,
                    recipient.orig_to,
                    attempt.relay,
                    attempt.conn_use,
                    message.activated - envelope.arrival,
                    request.started - message.activated,
                    attempt.setup,
                    attempt.transfer,
                    result.dsn,
                    "sent" if kind is Sent else "deferred" if kind is Deferred else "bounced",
                    result.text,
                    self._resolution,
                ),
            )
            if attempt.relayed and kind is Sent and recipient.dsn_notify & NOTIFY_SUCCESS:
                self._trace(message, index, result, attempt.relay)
            if kind is not Sent or many or message.deferred is not None or self.orders:
                self._keep(message, index, result)
        if envelope.queue_id not in self.messages:
            return  # the sweep gave it back to the queue
        count = len(results)
        message.remaining -= count
        self.recipients -= count
        if message.remaining == 0:
            self.closing.round_over(message, now)
        elif many:
            if not self._progress:
                self.context.loop.call_later(PROGRESS, self._tell_progress)
            self._progress[envelope.queue_id] = message
            if self._drained is not None:
                self._check_drained()

    def outcome(self, message: Message, indexes: list[int], outcome: Outcome, now: float) -> None:
        """Recipients that got their result without a delivery: logged as Postfix's error(8) and retry(8) would."""
        envelope = message.envelope
        result = outcome if isinstance(outcome, Sent | Deferred | Bounced) else Deferred(outcome.dsn, outcome.text)
        status = "sent" if isinstance(result, Sent) else "deferred" if isinstance(result, Deferred) else "bounced"
        before = message.activated - envelope.arrival
        for index in indexes:
            recipient = envelope.recipients[index]
            line = delivery(
                envelope.queue_id,
                recipient.address,
                recipient.orig_to,
                "none",
                1,
                before,
                now - message.activated,
                0.0,
                0.0,
                result.dsn,
                status,
                result.text,
                self._resolution,
            )
            self._write("error", line)
            self._keep(message, index, result)
        message.remaining -= len(indexes)
        self.recipients -= len(indexes)
        if message.remaining == 0:
            self.closing.round_over(message, now)

    def _keep(self, message: Message, index: int, result: Result) -> None:
        """Remember what became of a recipient, where that is more than plain success of an only one."""
        if isinstance(result, Deferred):
            if message.deferred is None:
                message.deferred = {}
            message.deferred[index] = result
            return
        if isinstance(result, Bounced):
            self.failed_recipients.setdefault(message.envelope.queue_id, []).append((index, result))
            return
        if message.done is None:
            message.done = bytearray(len(message.envelope.recipients))
        message.done[index] = 1
        if message.deferred is not None:
            message.deferred.pop(index, None)

    def _trace(self, message: Message, index: int, result: Result, relay: str) -> None:
        """A recipient that asked to hear of success, delivered to a next hop that will not tell."""
        if isinstance(result, Sent):
            by_relay = self.traced.setdefault(message.envelope.queue_id, {})
            by_relay.setdefault(relay, []).append((index, result))

    def _tell_progress(self) -> None:
        """Messages with many recipients tell the queue how far they are, but not for each delivery."""
        progress, self._progress = self._progress, {}
        for queue_id, message in progress.items():
            if queue_id in self.messages:
                self.context.store.record(message)

    def suspended(self, requests: list[DeliveryRequest], reason: Deferred) -> None:
        """The destination of these is dead: they are deferred, a part of them in each turn of the loop."""
        if not self.suspended_requests:
            self.context.loop.call_soon(self._defer_suspended)
        self.suspended_requests.extend((request, reason) for request in reversed(requests))

    def _defer_suspended(self) -> None:
        now = self.now()
        budget = CHUNK
        while self.suspended_requests and budget > 0:
            request, reason = self.suspended_requests.pop()
            self.outcome(request.message, request.recipients, reason, now)
            budget -= len(request.recipients)
        if self.suspended_requests:
            self.context.loop.call_soon(self._defer_suspended)

    def pass_on(self, request: DeliveryRequest, transport: str) -> None:
        """An agent wants another transport ("name" or "name:nexthop") to deliver what it took (best_mx_transport)."""
        name, _, nexthop = transport.partition(":")
        other = self.scheduler.transports.get(name)
        if other is None:
            request.finish([UNAVAILABLE] * len(request.recipients), NOWHERE)
        else:
            nexthop = nexthop or request.nexthop
            request.pass_on(other.destination(destination_name(nexthop), nexthop))

    def withdrawn(self, request: DeliveryRequest) -> None:
        """An entry that was taken back before anybody delivered it: its recipients stay without a result."""
        message = request.message
        message.remaining -= len(request.recipients)
        self.recipients -= len(request.recipients)
        if message.remaining == 0:
            self.closing.round_over(message, self.now())

    def failed(self, where: str, error: BaseException) -> None:
        """A bug: an agent or the scheduler raised."""
        self.log.panic("qmgr", f"{where}: {type(error).__name__}: {error}", error)

    def arm(self, when: float) -> None:
        """The scheduler wants to be called at that time."""
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self.context.loop.call_later(max(0.0, when - self.now()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.scheduler.run_timers()

    # -- from the queue

    def left(self, message: Message) -> None:
        """A message left the active queue: called by closing.py."""
        queue_id = message.envelope.queue_id
        self.messages.pop(queue_id, None)
        if self._starved and len(self.messages) < self._deferred_limit * 0.9:
            self._starved = False
            self.arm_refill(self.now())
        if self._drained is not None:
            self._check_drained()

    def arm_refill(self, when: float) -> None:
        """Look for due messages at that time, if not before."""
        if self.scheduler.draining:
            return
        if self._refill_timer is not None:
            if self._refill_at <= when:
                return
            self._refill_timer.cancel()
        self._refill_at = when
        self._refill_timer = self.context.loop.call_later(max(0.0, when - self.now()), self.refill)

    def refill(self) -> None:
        """Take messages that are due, as many as there is room for, some in each turn of the loop."""
        self._refill_timer = None
        if self.scheduler.draining:
            return
        now = self.now()
        self.arm_refill(now + self.settings.queue_run_delay)  # whatever happens here
        room = min(self._deferred_limit - len(self.messages), CHUNK)
        if room <= 0 or self.recipients >= self.settings.message_recipient_limit:
            self._starved = True
            return
        if self._flushing:
            if self._flush_some(now, room):
                self.arm_refill(now)
                return
            self._flushing = False
        found = self.context.store.due(now, room)
        for message in found:
            self.admit(message)
        if len(found) >= room:
            self.arm_refill(now)
            return
        due = self.context.store.next_due()
        when = now + self.settings.queue_run_delay
        if due is not None and due < when:
            when = max(due, now + 1.0)
        self.arm_refill(when)

    def _flush_some(self, now: float, room: int) -> bool:
        """Attempts that somebody asked for: whatever is deferred, each message once. False when all had theirs."""
        found = self.context.store.flushed(room)
        if found is None:
            return False
        for message in found:
            self.admit(message)
        return True

    def flush(self) -> None:
        """A queue run now: all deferred mail, whatever its time, dead destinations and put-off transports too."""
        self.scheduler.forget_dead()
        self.context.store.flush()
        self._flushing = True
        self.arm_refill(self.now())

    # -- watch

    def _on_sweep(self) -> None:
        self._sweep_timer = self.context.loop.call_later(SWEEP_INTERVAL, self._on_sweep)
        self.sweep.run()
        self.sweep.warn_of_clogs()
        self.scheduler.trim()

    def _check_drained(self) -> None:
        if self._drained is None or self.scheduler.in_flight or self.closing.reporting or self.suspended_requests:
            return
        done, self._drained = self._drained, None
        for message in list(self.messages.values()):
            message.next_attempt = self.now()
            self.context.store.park(message)
        self.messages.clear()
        if self._timer is not None:
            self._timer.cancel()
        done()
