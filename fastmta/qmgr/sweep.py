"""The proof that no message was forgotten: each one in the active queue has an owner and a next action.

Run by active.py every SWEEP_INTERVAL seconds. A message's recipients without a result must all stand in an entry that
waits, or in a request that an agent has, or be among those that are being deferred; a message without such recipients
must have a report under way. What breaks this is a bug: it is logged loudly and repaired, by giving the message back
to the queue for another attempt. A request that an agent holds for longer than daemon_timeout is finished for it.
Nothing is raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastmta.model.message import Message
from fastmta.model.outcome import Attempt, Deferred

if TYPE_CHECKING:
    from fastmta.qmgr.active import Active

SWEEP_INTERVAL: Final = 60.0
LOST: Final = Deferred("4.3.0", "unknown mail transport error")


class Sweep:
    """Looks at all messages of an active queue."""

    def __init__(self, active: Active) -> None:
        """active: whose messages."""
        self._active = active
        self._strange: set[Message] = set()
        self._told: dict[str, float] = {}  # destinations that clog the active queue: when that was said

    def run(self) -> list[str]:
        """Look, repair, and return what was wrong, a line each; nothing, normally."""
        active = self._active
        counts, flying = active.scheduler.census()
        for request, _reason in active.suspended_requests:
            counts[request.message] = counts.get(request.message, 0) + len(request.recipients)
        for message in active.context.resolving.waiting:
            counts[message] = message.remaining
        wrong: list[str] = []
        for queue_id, message in list(active.messages.items()):
            owned = counts.pop(message, 0)
            if owned != message.remaining:
                wrong.append(f"{queue_id}: {message.remaining} recipients without a result, but {owned} with an owner")
                self._give_back(message)
            elif owned == 0 and queue_id not in active.closing.reporting:
                wrong.append(f"{queue_id}: in the active queue without a next action")
                self._give_back(message)
        for message in counts:
            wrong.append(f"{message.envelope.queue_id}: being delivered, but not in the active queue")
        recipients = sum(message.remaining for message in active.messages.values())
        if recipients != active.recipients:
            wrong.append(f"{recipients} recipients in the active queue, but {active.recipients} counted")
            active.recipients = recipients
        late = active.now() - active.settings.daemon_timeout
        for request in flying:
            if request.started < late:
                wrong.append(f"{request.message.envelope.queue_id}: no answer from transport {request.transport}")
                request.finish([LOST] * len(request.recipients), Attempt())
        wrong.extend(self._orphans())
        for line in wrong:
            active.log.panic("qmgr", line)
        return wrong

    def warn_of_clogs(self) -> None:
        """Say which destination takes up more than a fifth of the active queue (qmgr_clog_warn_time)."""
        active = self._active
        pause = active.settings.clog_warn_time
        limit = active.settings.message_active_limit
        now = active.now()
        if pause <= 0 or len(active.messages) <= limit / 5:
            return
        for transport in active.scheduler.transports.values():
            for destination in transport.destinations.values():
                entries = destination.todo + destination.busy
                if entries <= limit / 5 or self._told.get(destination.name, 0.0) + pause > now:
                    continue
                self._told[destination.name] = now
                warn = active.log.warning
                total = len(active.messages)
                warn("qmgr", f"mail for {destination.name} is using up {entries} of {total} active queue entries")
                if entries < 0.9 * total:
                    warn("qmgr", "this may slow down other mail deliveries")
                allowed = transport.rules.destination_concurrency_limit
                if 0 < allowed <= destination.window.in_use():
                    warn(
                        "qmgr",
                        "you may need to increase the main.cf "
                        f"{transport.name}_destination_concurrency_limit from {allowed}",
                    )
                elif len(transport.destinations) > 1:
                    warn("qmgr", f"you may need a separate master.cf transport for {destination.name}")
                warn("qmgr", "to turn off these warnings specify: qmgr_clog_warn_time = 0")

    def _orphans(self) -> list[str]:
        """Messages that the queue gave out and that nobody has; seen twice: one may be coming in just now."""
        active = self._active
        strange = {message for message in active.context.store.held() if message.queue_id not in active.messages}
        lost, self._strange = strange & self._strange, strange - self._strange
        for message in lost:
            message.next_attempt = active.now() + active.settings.minimal_backoff_time
            active.context.store.park(message)
        return [f"{message.queue_id}: taken from the queue, and owned by nobody" for message in lost]

    def _give_back(self, message: Message) -> None:
        """Let the queue own it again. Results that still come are logged, and ignored."""
        active = self._active
        queue_id = message.envelope.queue_id
        active.messages.pop(queue_id, None)
        active.recipients -= message.remaining
        message.next_attempt = active.now() + active.settings.minimal_backoff_time
        active.context.store.park(message)
