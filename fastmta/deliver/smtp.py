"""The smtp and lmtp delivery agents: connections that are used again, and the policy of what to do when something fails.

Called by qmgr/ through `SmtpAgent.slot`. A `Delivery` works on one slot: it takes a request, uses an idle connection to that next hop or goes
through the hosts of a `Route`, submits the transaction, turns replies into outcomes, finishes the request and takes the next one on the same
connection. The way from one message to the next on a kept connection is callbacks only; a coroutine runs while hosts are looked up and
connected. Comes next: qmgr's `request.finish`.

Soft errors at a host that is not the last one leave their recipients for the next host; see deliver/trouble.py and deliver/route.py. A kept
connection that breaks before the server has taken anything of a message is replaced without a word, as Postfix's probe with RSET would do.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Coroutine
from typing import Any

from fastmta._ext.smtpclient import FEATURE_SMTPUTF8, STATE_DOT, STATE_MAIL, Reply, Transaction, fold_long_lines
from fastmta.deliver.agent import DeliverContext, DeliveryRequest, Slot
from fastmta.deliver.connection import SmtpConnection, open_connection
from fastmta.deliver.lookup import Host, HostLookup
from fastmta.deliver.nexthop import NexthopError
from fastmta.deliver.route import Route
from fastmta.deliver.settings import SmtpSettings
from fastmta.deliver.trouble import Trouble, said
from fastmta.model.envelope import CONTENT_HEADER_8BIT, CONTENT_LONG_LINE, Envelope
from fastmta.model.outcome import Attempt, Bounced, Deferred, Result, Sent
from fastmta.net.hosts import HostsFile

LINE_LIMIT = 998  # what CONTENT_LONG_LINE is about


class SmtpAgent:
    """One smtp or lmtp service of master.cf."""

    def __init__(
        self,
        settings: SmtpSettings,
        context: DeliverContext,
        client_tls: ssl.SSLContext | None = None,
        lookup: HostLookup | None = None,
    ) -> None:
        self.settings = settings
        self.context = context
        self.client_tls = client_tls
        self.ident = settings.ident
        self.lookup = lookup or HostLookup(settings, context.resolver, HostsFile(), context.own_addresses, self.warn)
        self._idle: dict[str, list[SmtpConnection]] = {}
        self._connections: set[SmtpConnection] = set()
        self._deliveries: set[Delivery] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._interval = min(1.0, settings.shortest_timeout() / 4)
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False

    def slot(self, slot: Slot) -> None:
        """Work on a slot."""
        request = slot.take()
        if request is not None:
            delivery = Delivery(self, slot)
            self._deliveries.add(delivery)
            delivery.start(request)

    def close(self) -> None:
        """End idle connections; those in use end after their message."""
        self._closing = True
        for connection in [connection for connections in self._idle.values() for connection in connections]:
            connection.quit()
        self._idle.clear()

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
        if self._closing or not connection.reusable() or not self.settings.connection_cache_time_limit:
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

    def done(self, delivery: Delivery) -> None:
        """A delivery gave its slot back."""
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


class Delivery:
    """The work on one slot, request after request."""

    __slots__ = (
        "_agent",
        "_complete_session",
        "_connection",
        "_left",
        "_nexthop",
        "_plain",
        "_request",
        "_results",
        "_route",
        "_settings",
        "_site_down",
        "_slot",
        "_submitted",
        "_trouble",
    )

    def __init__(self, agent: SmtpAgent, slot: Slot) -> None:
        self._agent = agent
        self._settings = agent.settings
        self._slot = slot
        self._nexthop = slot.destination.nexthop
        self._request: DeliveryRequest | None = None
        self._route: Route | None = None
        self._connection: SmtpConnection | None = None
        self._left: list[int] | None = None  # positions in request.recipients without a result; None: all
        self._results: list[Result | None] = []
        self._trouble: Trouble | None = None  # the latest
        self._site_down: Deferred | None = None
        self._complete_session = False
        self._plain = False  # the next connection is to be without TLS
        self._submitted = 0.0

    def start(self, request: DeliveryRequest) -> None:
        """Begin with a request: on an idle connection, or a new one."""
        self._begin(request)
        connection = self._agent.idle_connection(self._nexthop)
        if connection is not None:
            self._submit(connection)
        else:
            self._agent.spawn(self._travel())

    def _begin(self, request: DeliveryRequest) -> None:
        self._request = request
        self._left = None
        self._submitted = 0.0

    def _positions(self) -> list[int]:
        """The recipients that have no result yet; from here on kept one by one."""
        if self._left is None:
            count = len(self._live().recipients)
            self._left = list(range(count))
            self._results = [None] * count
            self._trouble = None
            self._site_down = None
            self._complete_session = False
        return self._left

    def _live(self) -> DeliveryRequest:
        request = self._request
        if request is None:
            raise RuntimeError("no request is in work")
        return request

    # One transaction

    def _submit(self, connection: SmtpConnection) -> None:
        """Send the message over a connection that is ready."""
        request = self._live()
        message = request.message
        envelope = message.envelope
        machine = connection.machine
        settings = self._settings
        if machine.size_limit and envelope.size > machine.size_limit:
            size, limit = envelope.size, machine.size_limit
            text = f"message size {size} exceeds size limit {limit} of server {connection.host.peer}"
            self._refuse(connection, Trouble("5.3.4", text))
            return
        if (
            envelope.smtputf8
            and not machine.features & FEATURE_SMTPUTF8
            and needs_smtputf8(envelope, request.recipients)
        ):
            text = f"SMTPUTF8 is required, but was not offered by host {connection.host.peer}"
            self._refuse(connection, Trouble("5.6.7", text))
            return
        content = message.content
        if content is None:
            try:
                content = self._agent.context.content(message)
            except Exception as error:
                self._agent.warn(f"{envelope.queue_id}: cannot read the content: {error}")
                self._refuse(connection, Trouble("4.3.0", "unreadable mail queue entry"))
                return
        limit = settings.line_length_limit
        if limit and (envelope.content_flags & CONTENT_LONG_LINE or limit < LINE_LIMIT):
            folded = fold_long_lines(content, limit)
            if folded is not content:
                self._agent.info(f"{envelope.queue_id}: breaking line > {limit} bytes with <CR><LF>SPACE")
                content = folded
        left = self._left
        recipients = request.recipients if left is None else [request.recipients[position] for position in left]
        connection.courier = self
        self._connection = connection
        connection.submitted()
        self._submitted = time.time()
        try:
            machine.submit(envelope, recipients, content)
        except ValueError as error:
            self._refuse(connection, Trouble("5.1.3", f"bad address syntax: {error}"))

    def transaction_done(self, connection: SmtpConnection, transaction: Transaction) -> None:
        """The server has answered for every recipient."""
        reply = transaction.reply
        if reply is not None and self._left is None and reply.stage == STATE_DOT and reply.code // 100 == 2:
            request = self._live()
            sent = Sent(reply.dsn, reply.text, connection.host.name, reply.text)
            submitted = self._submitted
            count = len(request.recipients)
            request.finish(
                [sent] if count == 1 else [sent] * count,
                Attempt(
                    connection.relay,
                    connection.uses,
                    submitted - request.started,
                    time.time() - submitted,
                    connection.tls,
                ),
            )
            self._advance(connection)
            return
        if reply is not None and reply.code == 421 and reply.stage == STATE_MAIL and connection.uses > 1:
            connection.abort()
            self._restart()
            return
        self._absorb(connection, transaction, None)

    def connection_failed(self, connection: SmtpConnection, trouble: Trouble) -> None:
        """The connection broke in a transaction."""
        if connection.stale():
            self._restart()
            return
        transaction = connection.machine.transaction
        if transaction is None:
            self._fail_all(connection, trouble)
            self._go_on(None)
        else:
            self._absorb(connection, transaction, trouble)

    def _restart(self) -> None:
        """A kept connection was dead: connect anew, as if it had not been there."""
        self._connection = None
        self._route = None
        self._agent.spawn(self._travel())

    def _advance(self, connection: SmtpConnection) -> None:
        """The request is finished: take the next one, on the same connection if it can."""
        self._route = None
        if connection.reusable() and not self._agent._closing:
            request = self._slot.take()
            if request is not None:
                self._begin(request)
                self._submit(connection)
                return
            self._agent.park(connection)
        else:
            connection.quit()
            request = self._slot.take()
            if request is not None:
                self.start(request)
                return
        self._end()

    def _end(self) -> None:
        self._request = None
        self._connection = None
        self._agent.done(self)

    # What replies and failures mean for recipients

    def _absorb(self, connection: SmtpConnection, transaction: Transaction, trouble: Trouble | None) -> None:
        """Give each recipient what the server said; trouble is for those that it said nothing about."""
        request = self._live()
        final = self._final(connection)
        host = connection.host
        known: dict[int, Trouble] = {}
        logged: set[int] = set()
        kept: list[int] = []
        sent: Sent | None = None
        positions = self._positions()
        retry_plain = trouble is not None and bool(connection.tls) and self._plain_fallback()
        for number, position in enumerate(positions):
            reply = transaction.reply if transaction.replies is None else transaction.replies[number]
            if reply is not None and reply.stage == STATE_DOT and reply.code // 100 == 2:
                if sent is None or sent.text != reply.text:
                    sent = Sent(reply.dsn, reply.text, host.name, reply.text)
                self._results[position] = sent
                continue
            why = trouble if reply is None else known.get(id(reply)) or said(reply, host.name, host.peer)
            if why is None:
                why = Trouble("4.3.0", "server unavailable or unable to receive mail")
            known[id(reply)] = why
            self._trouble = why
            if (why.soft or self._settings.soft_bounce) and (not final or (retry_plain and reply is None)):
                if id(reply) not in logged or is_rcpt(reply):
                    logged.add(id(reply))
                    self._agent.info(f"{request.message.queue_id}: {why.text}")
                kept.append(position)
            else:
                self._settle(position, why)
        if trouble is None:
            self._complete_session = True
        if retry_plain and kept:
            self._fall_back(connection, session=True)
        self._left = kept
        self._go_on(connection if trouble is None else None, connection)

    def _refuse(self, connection: SmtpConnection, trouble: Trouble) -> None:
        """Fail the message before anything was sent; the connection stays good."""
        self._fail_all(connection, trouble)
        self._complete_session = True
        self._go_on(connection, connection)

    def _fail_all(self, connection: SmtpConnection | None, trouble: Trouble) -> None:
        """Fail all recipients that are left, for now or for good."""
        positions = self._positions()
        self._trouble = trouble
        if connection is not None and (trouble.soft or self._settings.soft_bounce) and not self._final(connection):
            self._agent.info(f"{self._live().message.queue_id}: {trouble.text}")
            return
        for position in positions:
            self._settle(position, trouble)
        self._left = []

    def _settle(self, position: int, trouble: Trouble) -> None:
        outcome = trouble.outcome(self._settings.soft_bounce)
        self._results[position] = outcome
        if (
            trouble.throttle
            and isinstance(outcome, Deferred)
            and not self._complete_session
            and self._site_down is None
        ):
            self._site_down = outcome

    def _final(self, connection: SmtpConnection) -> bool:
        return self._route.final() if self._route is not None else connection.final_when_reused

    def _go_on(self, usable: SmtpConnection | None, used: SmtpConnection | None = None) -> None:
        """After a session: on to the next host with those who are left, else finish and take the next request."""
        if self._left:
            if self._route is None and used is not None:
                self._route = self._new_route()
                self._route.resume(used.first_hosts, used.host)
            if usable is not None:
                self._agent.park(usable)
            self._connection = None
            self._agent.spawn(self._travel())
            return
        self._finish(used)
        if usable is not None:
            self._advance(usable)
            return
        self._route = None
        request = self._slot.take()
        if request is not None:
            self.start(request)
        else:
            self._end()

    def _finish(self, connection: SmtpConnection | None) -> None:
        request = self._live()
        now = time.time()
        submitted = self._submitted
        setup = (submitted or now) - request.started
        relay, uses, tls = (
            ("none", 1, "") if connection is None else (connection.relay, max(connection.uses, 1), connection.tls)
        )
        attempt = Attempt(relay, uses, setup, now - submitted if submitted else 0.0, tls)
        missing = Deferred("4.3.0", "server unavailable or unable to receive mail")
        request.finish([result or missing for result in self._results], attempt, self._site_down)

    # Hosts

    def _new_route(self) -> Route:
        return Route(self._settings, self._agent.lookup, self._nexthop)

    async def _travel(self) -> None:
        """Try host after host until a message is on its way or no recipient is left."""
        try:
            await self._try_hosts()
        except NexthopError as error:
            self._agent.warn(str(error))
            self._fail_all(None, Trouble("4.3.5", "Server configuration error", throttle=True))
            self._go_on(None)
        except Exception as error:
            self._agent.warn(f"{self._nexthop}: internal error: {error!r}")
            self._fail_all(None, Trouble("4.3.0", "mail system internal error"))
            self._go_on(None)

    async def _try_hosts(self) -> None:
        self._positions()
        if self._route is None:
            self._route = self._new_route()
        route = self._route
        while True:
            before = route.trouble
            host = await route.next()
            if route.trouble is not before:
                self._trouble = route.trouble
            if host is None:
                self._give_up(route)
                return
            level = "none" if self._plain or host.port == 0 else self._settings.tls_level
            self._plain = False
            opened = await open_connection(self._agent, host, self._nexthop, route.detect_loops)
            if isinstance(opened, Trouble):
                self._trouble = opened
                self._agent.info(opened.text)
                continue
            connection = opened
            self._agent.watch(connection)
            trouble = await connection.handshake(level)
            if trouble is None:
                route.session_begun()
                self._prepare_reuse(connection, route)
                self._submit(connection)
                return
            if not connection.tls and trouble.dsn == "4.7.5" and self._plain_fallback():
                self._agent.info(f"{self._live().message.queue_id}: {trouble.text}")
                self._trouble = trouble
                self._fall_back(connection, session=False)
            else:
                self._fail_all(connection, trouble)
            connection.quit()
            if not self._left:
                self._finish(connection)
                self._route = None
                request = self._slot.take()
                if request is not None:
                    self.start(request)
                else:
                    self._end()
                return

    def _prepare_reuse(self, connection: SmtpConnection, route: Route) -> None:
        """Note what a later message on this connection must know about other hosts."""
        connection.first_hosts = route.first_hosts
        if not route.first_hosts:
            connection.spoiled = True
            return
        later = self._new_route()
        later.resume(route.first_hosts, connection.host)
        connection.final_when_reused = later.final()

    def _plain_fallback(self) -> bool:
        """Whether a TLS failure may be answered by delivery in the clear: at level may, for mail that has waited already."""
        message = self._live().message
        waited = (message.activated or time.time()) - message.envelope.arrival
        return self._settings.tls_level == "may" and waited >= self._settings.minimal_backoff_time

    def _fall_back(self, connection: SmtpConnection, session: bool) -> None:
        self._plain = True
        if self._route is None:
            self._route = self._new_route()
            self._route.resume(connection.first_hosts, connection.host)
        self._route.retry_in_plaintext(connection.host, session)

    def _give_up(self, route: Route) -> None:
        """No host is left."""
        trouble = self._trouble or Trouble("4.3.0", "server unavailable or unable to receive mail", throttle=True)
        settings, agent = self._settings, self._agent
        request = self._live()
        if not trouble.soft:
            if route.in_fallback:
                agent.warn("smtp_fallback_relay configuration problem")
                trouble = Trouble("4.3.5", trouble.text, trouble.remote_mta, trouble.reply, throttle=True)
            elif not settings.lmtp and settings.relayhost and route.first_text == settings.relayhost:
                agent.warn("relayhost configuration problem")
                trouble = Trouble("4.3.5", trouble.text, trouble.remote_mta, trouble.reply, throttle=True)
            elif trouble.dsn == "5.4.6" and settings.best_mx_transport and agent.context.pass_on is not None:
                if self._left is not None and len(self._left) == len(self._results):
                    agent.context.pass_on(request, settings.best_mx_transport)
                    self._after_pass()
                    return
        else:
            trouble = Trouble(trouble.dsn, trouble.text, trouble.remote_mta, trouble.reply, throttle=True)
        self._fail_all(None, trouble)
        self._go_on(None)

    def _after_pass(self) -> None:
        self._route = None
        request = self._slot.take()
        if request is not None:
            self.start(request)
        else:
            self._end()


def is_rcpt(reply: Reply | None) -> bool:
    """Whether a reply is about one recipient."""
    return reply is not None and reply.stage not in (STATE_MAIL,) and reply.stage < STATE_DOT


def needs_smtputf8(envelope: Envelope, recipients: list[int]) -> bool:
    """Whether this message cannot do without SMTPUTF8 (asked for by its sender, and used)."""
    if envelope.content_flags & CONTENT_HEADER_8BIT or not envelope.sender.isascii():
        return True
    return any(not envelope.recipients[index].address.isascii() for index in recipients)


__all__ = ["Bounced", "Delivery", "Host", "SmtpAgent", "needs_smtputf8"]
