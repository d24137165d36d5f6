"""The work on one slot: request after request, from host to host, and what replies mean for recipients.

Made by deliver/smtp.py for each slot of the queue manager. A Delivery takes a request, uses an idle connection to
that next hop or goes through the hosts of a `Route`, submits the transaction, turns replies into outcomes, finishes
the request and takes the next one on the same connection. The way from one message to the next on a kept connection
is callbacks only; a coroutine runs while hosts are looked up and connected. Comes next: qmgr's `request.finish`.
Raises nothing: our own bugs are logged and defer the mail.

- Soft errors at a host that is not the last one leave their recipients for the next host; see deliver/trouble.py and
  deliver/route.py.
- A kept connection that breaks before the server has taken anything of a message is replaced without a word, as
  Postfix's probe with RSET
  would do.
- Where PIPELINING is offered and more mail waits, the commands of the next message go out in one write with the
  content of this one (RFC
  2920 section 3.1 allows it by name). If this message then needs another host, a Delivery of its own goes on with it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fastmta._ext.smtpclient import FEATURE_SMTPUTF8, STATE_DOT, STATE_MAIL, Transaction
from fastmta.deliver.agent import DeliveryRequest, Slot
from fastmta.deliver.connection import SmtpConnection, open_connection
from fastmta.deliver.content import fold_long_lines, needs_smtputf8
from fastmta.deliver.nexthop import NexthopError
from fastmta.deliver.round import EXCUSE, Round
from fastmta.deliver.route import Route
from fastmta.deliver.trouble import Trouble
from fastmta.model.envelope import CONTENT_LONG_LINE
from fastmta.model.outcome import Attempt, Sent

if TYPE_CHECKING:
    from fastmta.deliver.smtp import SmtpAgent

LINE_LIMIT: Final = 998  # bytes: what CONTENT_LONG_LINE is about


class Delivery:
    """The work on one slot."""

    __slots__ = (
        "_agent",
        "_ahead",
        "_ahead_sent",
        "_nexthop",
        "_over",
        "_plain",
        "_request",
        "_round",
        "_route",
        "_settings",
        "_slot",
        "_submitted",
    )

    def __init__(self, agent: SmtpAgent, slot: Slot) -> None:
        """Idle until `start`."""
        self._agent = agent
        self._settings = agent.settings
        self._slot = slot
        self._nexthop = slot.destination.nexthop
        self._request: DeliveryRequest | None = None
        self._ahead: DeliveryRequest | None = None  # taken while the one before is on its way
        self._ahead_sent = 0.0  # Unix time when its commands went out; 0: they have not
        self._over = False  # the slot has no more requests
        self._route: Route | None = None
        self._round: Round | None = None  # None: nothing but the first attempt, so far
        self._plain = False  # the next connection is to be without TLS
        self._submitted = 0.0  # Unix time when the commands went out; 0: they have not

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
        self._round = None
        self._route = None
        self._submitted = 0.0

    def _live(self) -> DeliveryRequest:
        request = self._request
        if request is None:
            raise RuntimeError("no request is in work")
        return request

    def _recipients(self) -> Round:
        """The recipients of the request, from here on kept one by one."""
        if self._round is None:
            self._round = Round(self._live(), self._settings.soft_bounce, self._agent.info)
        return self._round

    def _take(self) -> DeliveryRequest | None:
        """The next request, if the slot has one."""
        request, self._ahead = self._ahead, None
        if request is None and not self._over:
            request = self._slot.take()
            self._over = request is None
        return request

    def _next(self) -> None:
        """Without a connection: start the next request, or end."""
        request = self._take()
        if request is not None:
            self.start(request)
        else:
            self._request = None
            self._agent.done(self)

    # One transaction

    def _submit(self, connection: SmtpConnection) -> None:
        """Send the message over a connection that is ready."""
        request = self._live()
        content = self._plain_content(connection, request)
        if content is None:
            prepared = self._prepare(connection, request)
            if isinstance(prepared, Trouble):
                self._refuse(connection, prepared)
                return
            content = prepared
        recipients = request.recipients if self._round is None else self._round.recipients()
        connection.courier = self
        connection.submitted()
        self._submitted = time.time()
        try:
            connection.machine.submit(request.message.envelope, recipients, content)
        except ValueError as error:
            self._refuse(connection, Trouble("5.1.3", f"bad address syntax: {error}"))

    def _plain_content(self, connection: SmtpConnection, request: DeliveryRequest) -> list[bytes] | None:
        """The content where nothing stands in the way of sending it as it is, which is nearly always; else None."""
        message = request.message
        envelope = message.envelope
        limit = connection.machine.size_limit
        if (
            (limit and envelope.size > limit)
            or envelope.smtputf8
            or envelope.content_flags & CONTENT_LONG_LINE
            or self._agent.fold_always
        ):
            return None
        return message.content

    def _prepare(self, connection: SmtpConnection, request: DeliveryRequest) -> list[bytes] | Trouble:
        """Check what the server takes; read the content back; break long lines."""
        message = request.message
        envelope = message.envelope
        machine, peer = connection.machine, connection.host.peer
        if machine.size_limit and envelope.size > machine.size_limit:
            text = f"message size {envelope.size} exceeds size limit {machine.size_limit} of server {peer}"
            return Trouble("5.3.4", text)
        if not machine.features & FEATURE_SMTPUTF8 and needs_smtputf8(envelope, request.recipients):
            return Trouble("5.6.7", f"SMTPUTF8 is required, but was not offered by host {peer}")
        content = message.content
        if content is None:
            try:
                content = self._agent.context.content(message)
            except Exception as error:
                self._agent.warn(f"{envelope.queue_id}: cannot read the content: {error}")
                return Trouble("4.3.0", "unreadable mail queue entry")
        limit = self._settings.line_length_limit
        if limit and (envelope.content_flags & CONTENT_LONG_LINE or limit < LINE_LIMIT):
            folded = fold_long_lines(content, limit)
            if folded is not content:
                self._agent.info(f"{envelope.queue_id}: breaking line > {limit} bytes with <CR><LF>SPACE")
            return folded
        return content

    def content_due(self, connection: SmtpConnection) -> None:
        """The content is about to go out: let the commands of the next message go with it."""
        if self._over or self._ahead is not None or not connection.reusable() or self._agent.closing:
            return
        request = self._slot.take()
        if request is None:
            self._over = True
            return
        self._ahead = request
        self._ahead_sent = 0.0
        content = self._plain_content(connection, request)
        if content is not None:
            try:
                connection.machine.submit(request.message.envelope, request.recipients, content)
            except ValueError:
                return
            self._ahead_sent = time.time()

    def transaction_done(self, connection: SmtpConnection, transaction: Transaction) -> None:
        """The server has answered for every recipient."""
        reply = transaction.reply
        if reply is not None and self._round is None and reply.stage == STATE_DOT and reply.code // 100 == 2:
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
                    connection.relayed,
                ),
            )
            self._advance(connection)
            return
        if sent_away(connection, transaction):
            connection.abort()
            self._restart()
            return
        self._absorb(connection, transaction, None)

    def _advance(self, connection: SmtpConnection) -> None:
        """The request is finished: on to the next one, on the same connection if it can."""
        if connection.machine.transaction is not None:
            # Its commands are on their way already.
            request = self._ahead
            if request is not None:
                self._ahead = None
                self._begin(request)
                self._submitted = self._ahead_sent
                connection.submitted()
                return
        if not connection.reusable() or self._agent.closing:
            connection.quit()
            self._next()
            return
        request = self._take()
        if request is not None:
            self._begin(request)
            self._submit(connection)
            return
        self._agent.park(connection)
        self._next()

    def connection_failed(self, connection: SmtpConnection, trouble: Trouble, transaction: Transaction | None) -> None:
        """The connection broke in a transaction."""
        if transaction is None:
            self._recipients().fail(trouble, self._final(connection))
            self._go_on(None, connection)
        elif sent_away(connection, transaction) or (
            transaction is connection.machine.transaction and connection.stale()
        ):
            self._restart()
        else:
            self._absorb(connection, transaction, trouble)

    def _restart(self) -> None:
        """A kept connection was dead: connect anew, as if it had not been there."""
        self._route = None
        self._agent.spawn(self._travel())

    # What replies and failures mean for recipients

    def _absorb(self, connection: SmtpConnection, transaction: Transaction, lost: Trouble | None) -> None:
        """Give each recipient what the server said; `lost` is for those that it said nothing about."""
        again = lost is not None and bool(connection.tls) and self._may_fall_back()
        recipients = self._recipients()
        recipients.absorb(transaction, connection.host, lost, self._final(connection), again)
        if again and recipients.left:
            self._fall_back(connection, session=True)
        self._go_on(connection if lost is None else None, connection)

    def _refuse(self, connection: SmtpConnection, trouble: Trouble) -> None:
        """Fail the message before anything was sent; the connection stays good."""
        self._recipients().fail(trouble, self._final(connection))
        self._recipients().complete_session = True
        self._go_on(connection, connection)

    def _final(self, connection: SmtpConnection) -> bool:
        return self._route.final() if self._route is not None else connection.final_when_reused

    def _go_on(self, usable: SmtpConnection | None, used: SmtpConnection | None) -> None:
        """After a session: on to the next host with those who are left, else finish and take the next request."""
        if not self._recipients().left:
            self._finish(used)
            if usable is not None:
                self._advance(usable)
            else:
                self._next()
            return
        self._recipients().session_over(self._attempt(used))
        if self._route is None:
            self._route = self._new_route()
            if used is not None:
                self._route.resume(used.first_hosts, used.host)
        if self._ahead is not None:
            self._detach()
            if usable is not None:
                self._advance(usable)
            else:
                self._next()
            return
        if usable is not None:
            self._agent.park(usable)
        self._agent.spawn(self._travel())

    def _detach(self) -> None:
        """Let a Delivery of its own go on with this request, so that the next one need not wait."""
        other = Delivery(self._agent, self._slot)
        other._over = True
        other._request, other._route, other._round = self._request, self._route, self._round
        other._plain = self._plain
        self._agent.adopt(other)
        self._agent.spawn(other._travel())

    def _finish(self, connection: SmtpConnection | None) -> None:
        self._recipients().finish(self._attempt(connection))

    def _attempt(self, connection: SmtpConnection | None) -> Attempt:
        """The facts of the session that ends."""
        request = self._live()
        now = time.time()
        submitted = self._submitted
        attempt = Attempt(setup=(submitted or now) - request.started, transfer=now - submitted if submitted else 0.0)
        if connection is not None:
            attempt.relay, attempt.conn_use, attempt.tls = connection.relay, max(connection.uses, 1), connection.tls
            attempt.relayed = connection.relayed
        return attempt

    # Hosts

    def _new_route(self) -> Route:
        return Route(self._settings, self._agent.lookup, self._nexthop)

    async def _travel(self) -> None:
        """Try host after host until a message is on its way or no recipient is left."""
        try:
            await self._try_hosts()
        except NexthopError as error:
            self._agent.warn(str(error))
            self._recipients().fail(Trouble("4.3.5", "Server configuration error", throttle=True), final=True)
            self._go_on(None, None)
        except Exception as error:
            self._agent.context.log.panic(self._agent.ident, f"{self._nexthop}: {error!r}", error)
            self._recipients().fail(Trouble("4.3.0", "mail system internal error"), final=True)
            self._go_on(None, None)

    async def _try_hosts(self) -> None:
        recipients = self._recipients()
        if self._route is None:
            self._route = self._new_route()
        route = self._route
        agent = self._agent
        while True:
            before = route.trouble
            host = await route.next()
            if route.trouble is not before:
                recipients.trouble = route.trouble
            if host is None:
                self._give_up(route)
                return
            self._submitted = 0.0
            level = "none" if self._plain or host.port == 0 else self._settings.tls_level
            self._plain = False
            connection = await open_connection(agent, host, self._nexthop, route.detect_loops)
            if isinstance(connection, Trouble):
                recipients.trouble = connection
                agent.info(connection.text)
                continue
            agent.watch(connection)
            trouble = await connection.handshake(level)
            if trouble is None:
                route.session_begun()
                self._prepare_reuse(connection, route)
                self._submit(connection)
                return
            if trouble.dsn == "4.7.5" and not connection.tls and self._may_fall_back():
                agent.info(f"{self._live().message.queue_id}: {trouble.text}")
                recipients.trouble = trouble
                self._fall_back(connection, session=False)
            else:
                recipients.fail(trouble, route.final())
            connection.quit()
            if not recipients.left:
                self._finish(connection)
                self._next()
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

    def _may_fall_back(self) -> bool:
        """Whether a TLS failure may be answered by delivery in the clear: at level may, for mail that has waited
        already.
        """
        message = self._live().message
        waited = (message.activated or time.time()) - message.envelope.arrival
        return self._settings.tls_level == "may" and waited >= self._settings.minimal_backoff_time

    def _fall_back(self, connection: SmtpConnection, session: bool) -> None:
        """Try the same host once more, without TLS."""
        self._plain = True
        if self._route is None:
            self._route = self._new_route()
            self._route.resume(connection.first_hosts, connection.host)
        self._route.retry_in_plaintext(connection.host, session)

    def _give_up(self, route: Route) -> None:
        """No host is left. What may be a mistake in the configuration is no reason to bounce."""
        recipients = self._recipients()
        trouble = recipients.trouble or Trouble("4.3.0", EXCUSE)
        settings, agent = self._settings, self._agent
        dsn = trouble.dsn
        if not trouble.soft:
            if route.in_fallback:
                agent.warn("smtp_fallback_relay configuration problem")
                dsn = "4.3.5"
            elif not settings.lmtp and settings.relayhost and route.first_text == settings.relayhost:
                agent.warn("relayhost configuration problem")
                dsn = "4.3.5"
            elif dsn == "5.4.6" and settings.best_mx_transport and agent.context.pass_on and recipients.untouched:
                agent.context.pass_on(self._live(), settings.best_mx_transport)
                self._next()
                return
        self._submitted = 0.0
        recipients.fail(Trouble(dsn, trouble.text, trouble.remote_mta, trouble.reply, throttle=True), final=True)
        self._go_on(None, None)


def sent_away(connection: SmtpConnection, transaction: Transaction) -> bool:
    """Whether a kept connection turned out to be at its end when a message was to be sent."""
    reply = transaction.reply
    return reply is not None and reply.code == 421 and reply.stage == STATE_MAIL and connection.uses > 1
