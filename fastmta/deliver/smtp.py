"""The smtp and lmtp delivery agents: one for each such service of master.cf, with its idle connections.

Called by qmgr/ through `SmtpAgent.slot`; a `Delivery` then works on that slot (deliver/delivery.py). Connections are
kept for the next message to the same next hop as smtp_connection_cache_time_limit, smtp_connection_reuse_time_limit
and smtp_connection_reuse_count_limit say. One timer per agent watches all timeouts, and only while there are
connections. Raises nothing.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine
from typing import Any

from fastmta.deliver.agent import DeliverContext, Slot
from fastmta.deliver.connection import SmtpConnection
from fastmta.deliver.delivery import LINE_LIMIT, Delivery
from fastmta.deliver.lookup import HostLookup
from fastmta.deliver.settings import SmtpSettings
from fastmta.net.hosts import HostsFile


class SmtpAgent:
    """One smtp or lmtp service of master.cf."""

    def __init__(
        self,
        settings: SmtpSettings,
        context: DeliverContext,
        client_tls: ssl.SSLContext | None = None,
        lookup: HostLookup | None = None,
    ) -> None:
        """client_tls: for STARTTLS, where settings.tls_level is not "none"; lookup: a test's own."""
        self.settings = settings
        self.context = context
        self.client_tls = client_tls
        self.ident = settings.ident
        self.lookup = lookup or HostLookup(settings, context.resolver, HostsFile(), context.own_addresses, self.warn)
        self.closing = False
        self.fold_always = 0 < settings.line_length_limit < LINE_LIMIT
        self._idle: dict[str, list[SmtpConnection]] = {}
        self._connections: set[SmtpConnection] = set()
        self._deliveries: set[Delivery] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._interval = min(1.0, settings.shortest_timeout() / 4)
        self._timer: asyncio.TimerHandle | None = None

    def slot(self, slot: Slot) -> None:
        """Work on a slot."""
        request = slot.take()
        if request is not None:
            delivery = Delivery(self, slot)
            self._deliveries.add(delivery)
            delivery.start(request)

    def close(self) -> None:
        """End idle connections; those in use end after their message."""
        self.closing = True
        for connection in [connection for connections in self._idle.values() for connection in connections]:
            connection.quit()
        self._idle.clear()

    @property
    def busy(self) -> int:
        """How many deliveries are under way."""
        return len(self._deliveries)

    # Used by deliveries

    def idle_connection(self, nexthop: str) -> SmtpConnection | None:
        """An idle connection to a next hop, the one used last."""
        connections = self._idle.get(nexthop)
        while connections:
            connection = connections.pop()
            if connection.reusable():
                return connection
            connection.quit()
        return None

    def park(self, connection: SmtpConnection) -> None:
        """Keep a connection for the next message, or say goodbye."""
        connection.courier = None
        if self.closing or not connection.reusable():
            connection.quit()
            return
        connection.idle_since = time.monotonic()
        self._idle.setdefault(connection.nexthop, []).append(connection)

    def watch(self, connection: SmtpConnection) -> None:
        """A connection was opened."""
        self._connections.add(connection)
        if self._timer is None:
            self._timer = self.context.loop.call_later(self._interval, self._tick)

    def forget(self, connection: SmtpConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        connections = self._idle.get(connection.nexthop)
        if connections is not None:
            if connection in connections:
                connections.remove(connection)
            if not connections:
                del self._idle[connection.nexthop]

    def adopt(self, delivery: Delivery) -> None:
        """A delivery goes on with a part of another's work."""
        self._deliveries.add(delivery)

    def done(self, delivery: Delivery) -> None:
        """A delivery has nothing more to do."""
        self._deliveries.discard(delivery)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the slow part of a delivery."""
        task = self.context.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def info(self, text: str) -> None:
        """Log a line."""
        self.context.log.write(self.ident, text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self.context.log.warning(self.ident, text)

    def _tick(self) -> None:
        self._timer = None
        now = time.monotonic()
        for connection in list(self._connections):
            connection.check_time(now)
        if self._connections:
            self._timer = self.context.loop.call_later(self._interval, self._tick)
