"""The end of a round: every recipient of a message that was tried has a result. Report, warn, defer, or remove.

Called by active.py. Failures are reported first, and only when the report is durable do their recipients count as
done; then what is deferred is returned when it is too old, or waits for its next attempt; else the message is
removed. A report that cannot be kept defers its recipients, as when Postfix's bounce(8) fails. Reference:
qmgr_active_done and what follows there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastmta._ext.loglines import removed
from fastmta.model.message import FLAG_DELAY_WARNED, FLAG_EXPIRE, Message
from fastmta.model.outcome import Bounced, Deferred, Sent
from fastmta.observe.lines import expired

if TYPE_CHECKING:
    from fastmta.qmgr.active import Active

BOUNCE_FAILED: Final = Deferred("4.3.0", "bounce or trace service failure")


class Closing:
    """What happens to messages that leave the active queue."""

    def __init__(self, active: Active) -> None:
        """active: whose messages."""
        self._active = active
        self._store = active.context.store
        self._bouncer = active.context.bouncer
        self._settings = active.settings
        self.reporting: dict[str, str] = {}  # queue id -> the report that is being made durable

    def round_over(self, message: Message, now: float) -> None:
        """No recipient of the message is on its way or waits any more."""
        queue_id = message.envelope.queue_id
        active = self._active
        if active.orders and active.orders.get(queue_id) == "delete":
            active.failed_recipients.pop(queue_id, None)
            active.traced.pop(queue_id, None)
            self._obey(message, active.orders.pop(queue_id), now)
        elif active.traced and queue_id in active.traced:
            self._succeeded(message, active.traced[queue_id])
        elif queue_id in active.failed_recipients:
            self._report(message, active.failed_recipients.pop(queue_id))
        elif active.orders and queue_id in active.orders:
            self._obey(message, active.orders.pop(queue_id), now)
        elif message.deferred:
            self._deferred(message, now)
        else:
            self._remove(message)

    def _remove(self, message: Message) -> None:
        if self._active.orders:
            self._active.orders.pop(message.envelope.queue_id, None)  # too late
        self._store.remove(message)
        self._active.log.write("qmgr", removed(message.envelope.queue_id))
        self._active.left(message)

    # -- successes and failures

    def _succeeded(self, message: Message, by_relay: dict[str, list[tuple[int, Sent]]]) -> None:
        """Report success where it was asked for: one report for each relay, one after the other."""
        queue_id = message.envelope.queue_id
        relay, sent = by_relay.popitem()
        self._mark_done(message, [index for index, _result in sent])  # an order may come before the report is kept
        if not by_relay:
            del self._active.traced[queue_id]

        def done(error: BaseException | None = None) -> None:
            del self.reporting[queue_id]
            if error is not None:
                self._active.log.warning("qmgr", f"{queue_id}: cannot keep the success report: {error}")
            self.round_over(message, self._active.now())

        self.reporting[queue_id] = "success"
        try:
            self._bouncer.success(message, sent, relay, "relayed", done)
        except Exception as error:
            self._active.failed("success report", error)
            done(error)

    def _report(self, message: Message, failed: list[tuple[int, Bounced]]) -> None:
        def done(error: BaseException | None = None) -> None:
            del self.reporting[message.envelope.queue_id]
            if error is None:
                self._mark_done(message, [index for index, _result in failed])
            else:
                if message.deferred is None:
                    message.deferred = {}
                for index, _result in failed:
                    message.deferred[index] = BOUNCE_FAILED
                self._active.log.warning(
                    "qmgr", f"{message.envelope.queue_id}: cannot keep the bounce message: {error}"
                )
            self.round_over(message, self._active.now())

        self.reporting[message.envelope.queue_id] = "bounce"
        try:
            self._bouncer.bounce(message, failed, done)
        except Exception as error:
            self._active.failed("bounce", error)
            done(error)

    def _mark_done(self, message: Message, indexes: list[int]) -> None:
        if message.done is None:
            message.done = bytearray(len(message.envelope.recipients))
        for index in indexes:
            message.done[index] = 1
            if message.deferred is not None:
                message.deferred.pop(index, None)

    # -- delays

    def _deferred(self, message: Message, now: float) -> None:
        settings = self._settings
        envelope = message.envelope
        lifetime = settings.maximal_queue_lifetime
        if not envelope.sender and settings.bounce_queue_lifetime < lifetime:
            lifetime = settings.bounce_queue_lifetime
        if message.flags & FLAG_EXPIRE or now > envelope.arrival + lifetime:
            self._return(message)
        elif (
            settings.delay_warning_time > 0
            and now > envelope.arrival + settings.delay_warning_time
            and not message.flags & FLAG_DELAY_WARNED
        ):
            self._warn(message)
        else:
            self._defer(message, now)

    def _return(self, message: Message) -> None:
        """Too old: what is left fails, with the reason of its last delay."""
        envelope = message.envelope
        forced = bool(message.flags & FLAG_EXPIRE)
        self._active.log.write("qmgr", expired(envelope.queue_id, envelope.sender, forced))
        failed = [
            (index, Bounced(result.dsn, result.text, result.remote_mta, result.reply))
            for index, result in sorted((message.deferred or {}).items())
        ]

        def done(error: BaseException | None = None) -> None:
            del self.reporting[envelope.queue_id]
            if error is None:
                self._mark_done(message, [index for index, _result in failed])
                self._remove(message)
            else:
                self._active.log.warning("qmgr", f"{envelope.queue_id}: cannot keep the bounce message: {error}")
                self._defer(message, self._active.now())

        self.reporting[envelope.queue_id] = "expired"
        try:
            self._bouncer.bounce(message, failed, done)
        except Exception as error:
            self._active.failed("bounce", error)
            done(error)

    def _warn(self, message: Message) -> None:
        queue_id = message.envelope.queue_id
        delayed = [
            (index, result)
            for index, result in sorted((message.deferred or {}).items())
            if isinstance(result, Deferred)
        ]

        def done(error: BaseException | None = None) -> None:
            del self.reporting[queue_id]
            if error is None:
                message.flags |= FLAG_DELAY_WARNED
            else:
                self._active.log.warning("qmgr", f"{queue_id}: cannot keep the delay notice: {error}")
            self._defer(message, self._active.now())

        self.reporting[queue_id] = "delay"
        try:
            self._bouncer.delay_notice(message, delayed, done)
        except Exception as error:
            self._active.failed("delay notice", error)
            done(error)

    def backoff(self, message: Message, now: float) -> float:
        """Seconds until the next attempt: as long as the message is old, between the two limits."""
        age = now - message.envelope.arrival
        return max(self._settings.minimal_backoff_time, min(age, self._settings.maximal_backoff_time))

    def _defer(self, message: Message, now: float) -> None:
        if self._active.orders and message.envelope.queue_id in self._active.orders:
            # It came while a report was being kept.
            self._obey(message, self._active.orders.pop(message.envelope.queue_id), now)
            return
        message.attempts += 1
        message.next_attempt = now + self.backoff(message, now)
        self._store.park(message)
        self._active.left(message)
        self._active.arm_refill(max(message.next_attempt, now + 1.0))

    # -- orders that came while it was on its way

    def _obey(self, message: Message, order: str, now: float) -> None:
        undone = message.done is None or not all(message.done)
        if order == "delete" or not undone:
            self._store.remove(message)
            if not undone:
                self._active.log.write("qmgr", removed(message.envelope.queue_id))
            self._active.left(message)
            return
        if order == "requeue":
            message.deferred = None
            message.attempts = 0
        message.next_attempt = now
        if order == "requeue":
            self._store.record(message)
            self._active.left(message)
            self._active.admit(message)
            return
        self._store.park(message)
        self._active.left(message)
