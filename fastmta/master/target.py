"""What a worker answers on its control socket: the operations of admin.control.ControlTarget, bound to its parts.

Made by master/worker.py, called by admin/control.py on the worker's loop. Nothing here decides: it asks the queue
manager and the store.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import fastmta
from fastmta.address.resolve import Resolved
from fastmta.admin.protocol import ACTIVE_QUEUE, DEFERRED, HOLD_QUEUE, Destination, ShardState, Status, Why
from fastmta.qmgr import operations
from fastmta.qmgr.routing import destination_name
from fastmta.tables.lookup import TempFail
from fastmta.tables.maps import Pending

if TYPE_CHECKING:
    from fastmta._ext.sched import Destination as SchedDestination
    from fastmta.master.worker import Worker

PAGE = resource.getpagesize()


class WorkerTarget:
    """One worker's answers."""

    def __init__(self, worker: Worker) -> None:
        """The worker is asked when a request comes, not before."""
        self._worker = worker

    @property
    def _operations(self) -> operations.Operations:
        return self._worker.operations

    def sync(self, done: Callable[[], None]) -> None:
        """Make all state so far visible to readers of the index, then call done()."""
        self._worker.store.sync_index(done)

    def active_ids(self) -> list[str]:
        """The messages in the active queue."""
        return list(self._worker.active.messages)

    def queue_of(self, queue_id: str) -> str | None:
        """The queue that holds this message; None when it is not here."""
        return self._operations.queue_of(queue_id)

    def flush(self) -> None:
        """Try all deferred mail now, dead destinations too."""
        self._worker.active.flush()

    def flush_id(self, queue_id: str) -> bool:
        """Try this message now."""
        return self._operations.flush_id(queue_id)

    def hold(self, queue_id: str) -> bool:
        """Put it on hold."""
        return self._operations.hold(queue_id)

    def release(self, queue_id: str) -> bool:
        """Release it from hold."""
        return self._operations.release(queue_id)

    def delete(self, queue_id: str) -> bool:
        """Remove it without a notification."""
        return self._operations.delete(queue_id)

    def requeue(self, queue_id: str) -> bool:
        """Start over with it."""
        return self._operations.requeue(queue_id)

    def expire(self, queue_id: str) -> bool:
        """Return it to its sender at the next attempt."""
        return self._operations.expire(queue_id)

    def status(self) -> Status:
        """Counters, shards, destinations."""
        worker = self._worker
        return Status(
            worker=worker.assignment.number,
            pid=os.getpid(),
            version=fastmta.__version__,
            started=worker.started,
            draining=worker.draining,
            memory=int(Path("/proc/self/statm").read_text().split()[1]) * PAGE,
            sessions=sum(len(service.sessions) for service, _ in worker.services),
            active=len(worker.active.messages),
            shards=[
                ShardState(
                    shard.number,
                    sum(segment.live for segment in shard.segments.values()),
                    len(shard.segments),
                    sum(segment.size for segment in shard.segments.values()),
                    str(shard.failed) if shard.failed else "",
                )
                for shard in worker.store.shards.values()
            ],
            destinations=[
                _destination(destination)
                for transport in worker.active.scheduler.transports.values()
                for destination in transport.destinations.values()
                if destination.todo or destination.busy or destination.dead_reason()
            ],
        )

    def why(self, queue_id: str) -> Why | None:
        """Why it is still here."""
        active = self._worker.active
        message = active.messages.get(queue_id)
        queue = self._operations.queue_of(queue_id)
        if message is None:
            message = self._worker.store.find(queue_id)
        if message is None or queue is None:
            return None
        left = message.left()
        reasons = dict.fromkeys(result.text for result in (message.deferred or {}).values())
        destinations: dict[tuple[str, str], Destination] = {}
        if queue in (ACTIVE_QUEUE, DEFERRED, HOLD_QUEUE):
            for index in left:
                try:
                    way = self._worker.addresses.resolve(
                        message.envelope.recipients[index].address, message.envelope.sender
                    )
                except (TempFail, Pending):  # nobody waits for a table here
                    continue
                if isinstance(way, Resolved):
                    transport = active.scheduler.transports.get(way.transport)
                    known = transport.destinations.get(destination_name(way.nexthop)) if transport else None
                    destinations[way.transport, way.nexthop] = (
                        _destination(known) if known else Destination(way.transport, way.nexthop)
                    )
        return Why(
            queue_id,
            queue,
            message.next_attempt,
            message.attempts,
            len(left),
            list(reasons),
            list(destinations.values()),
        )

    def reopen_log(self) -> None:
        """Open the log file by its name again."""
        self._worker.log.reopen()

    def drain(self) -> None:
        """Accept nothing more, finish, exit."""
        self._worker.drain()

    def control_failed(self, op: str, error: Exception) -> None:
        """Log that an operation failed in a way that nobody foresaw."""
        self._worker.log.panic("master", f"control request {op}: {error!r}", error)


def _destination(destination: SchedDestination) -> Destination:
    reason = destination.dead_reason()
    return Destination(
        transport=destination.transport,
        nexthop=destination.nexthop,
        window=destination.window.size(),
        in_use=destination.window.in_use(),
        waiting=destination.todo,
        dead_until=destination.window.dead_until(),
        reason=reason.text if reason else "",
    )
