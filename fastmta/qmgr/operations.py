"""What the administrator asks for: hold, release, delete, requeue, expire, flush; for messages in delivery too.

Called by the worker's control socket (postsuper, postqueue). A message that is not active is the queue's alone: its
methods do it. For one in the active queue, entries that wait are taken back at once, those on their way end first;
then the order is carried out (closing.py). Each answers whether the message is here and was not so before. Reference:
postsuper(1), postqueue(1), flush(8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fastmta.model.message import FLAG_EXPIRE, FLAG_HOLD, Message

if TYPE_CHECKING:
    from fastmta.qmgr.active import Active


class QueueOperations(Protocol):
    """What the queue does itself, on messages that are not active. Each answers whether it was done."""

    def find(self, queue_id: str, /) -> Message | None:
        """A message, wherever it is."""

    def take(self, queue_id: str, /) -> Message | None:
        """A message that nobody has: the caller has it then."""

    def record(self, message: Message, /) -> None:
        """The state of a message changed: keep it."""

    def hold(self, queue_id: str, /) -> bool:
        """Put it on hold."""

    def release(self, queue_id: str, /) -> bool:
        """Release it; it is due at once."""

    def delete(self, queue_id: str, /) -> bool:
        """Remove it."""

    def requeue(self, queue_id: str, /) -> bool:
        """Forget its reasons; it is due at once."""

    def expire(self, queue_id: str, /) -> bool:
        """Mark it for forced expiration."""


class Operations:
    """Orders for the messages of a worker."""

    def __init__(self, active: Active, queue: QueueOperations) -> None:
        """queue: the worker's store."""
        self._active = active
        self._queue = queue
        self._withdraw: set[str] = set()

    def queue_of(self, queue_id: str) -> str | None:
        """incoming, active, deferred or hold; None when it is not here."""
        if queue_id in self._active.messages:
            return "active"
        message = self._queue.find(queue_id)
        if message is None:
            return None
        if message.flags & FLAG_HOLD:
            return "hold"
        return "deferred" if message.attempts else "incoming"

    def hold(self, queue_id: str) -> bool:
        """Put it on hold."""
        message = self._active.messages.get(queue_id)
        if message is None:
            return self._queue.hold(queue_id)
        if message.flags & FLAG_HOLD or self._active.orders.get(queue_id) == "delete":
            return False
        message.flags |= FLAG_HOLD
        self._queue.record(message)
        self._order(queue_id, "hold")
        return True

    def release(self, queue_id: str) -> bool:
        """Release it from hold; it is tried at once."""
        message = self._active.messages.get(queue_id)
        if message is None:
            released = self._queue.release(queue_id)
            self._active.arm_refill(self._active.now())
            return released
        if not message.flags & FLAG_HOLD or self._active.orders.get(queue_id) == "delete":
            return False
        message.flags &= ~FLAG_HOLD
        self._queue.record(message)
        self._order(queue_id, "requeue")
        return True

    def delete(self, queue_id: str) -> bool:
        """Remove it without a notification."""
        if queue_id not in self._active.messages:
            return self._queue.delete(queue_id)
        if self._active.orders.get(queue_id) == "delete":
            return False
        self._order(queue_id, "delete")
        return True

    def requeue(self, queue_id: str) -> bool:
        """Start over: forget the reasons of delays, resolve its recipients again, try it now."""
        message = self._active.messages.get(queue_id)
        if message is None:
            done = self._queue.requeue(queue_id)
            self._active.arm_refill(self._active.now())
            return done
        if self._active.orders.get(queue_id) == "delete":
            return False
        message.flags &= ~FLAG_HOLD
        self._order(queue_id, "requeue")
        return True

    def expire(self, queue_id: str) -> bool:
        """Return it to its sender at the next attempt."""
        message = self._active.messages.get(queue_id)
        if message is None:
            return self._queue.expire(queue_id)
        if message.flags & FLAG_EXPIRE:
            return False
        message.flags |= FLAG_EXPIRE
        self._queue.record(message)
        return True

    def flush_id(self, queue_id: str) -> bool:
        """Try this message now (postqueue -i): also on a dead destination. False if held, active or not here."""
        if queue_id in self._active.messages:
            return False
        message = self._queue.find(queue_id)
        if message is None or message.flags & FLAG_HOLD:
            return False
        message = self._queue.take(queue_id)
        return message is not None and self._active.admit_now(message)

    def flush_site(self, queue_ids: list[str]) -> int:
        """Try the messages for a site now (postqueue -s): those that the listing found for it. How many were tried."""
        return sum(self.flush_id(queue_id) for queue_id in queue_ids)

    def _order(self, queue_id: str, order: str) -> None:
        """Carry it out when nothing of the message is on its way; take back what waits, for many orders in one walk."""
        self._active.orders[queue_id] = order
        if not self._withdraw:
            self._active.context.loop.call_soon(self._take_back)
        self._withdraw.add(queue_id)

    def _take_back(self) -> None:
        ids, self._withdraw = self._withdraw, set()
        self._active.scheduler.withdraw(ids)
