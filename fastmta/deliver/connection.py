"""One connection to an SMTP or LMTP server: the transport on one side, the client machine on the other.

deliver/smtp.py opens it (`open_connection`), has it shake hands (`handshake`), and submits transactions; the events
of the machine end up in `Courier.transaction_done` and `Courier.connection_failed` of whoever uses it. Timeouts are
not timers: the agent's tick asks each connection whether its machine has moved since the last time. Raises nothing;
troubles are values.

RFC 3207 (STARTTLS), RFC 5321 section 4.5.3.2 (timeouts; Postfix's are used).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING, Final, Protocol, cast

from fastmta._ext.smtpclient import (
    FEATURE_DSN,
    FEATURE_STARTTLS,
    STATE_DOT,
    STATE_EHLO,
    STATE_IDLE,
    STATE_MAIL,
    STATE_QUIT,
    STATE_RSET,
    Reply,
    SmtpClient,
    Transaction,
)
from fastmta.deliver.lookup import Host
from fastmta.deliver.settings import SmtpSettings
from fastmta.deliver.trouble import LHLO, SENDING_BODY, STAGES, Trouble, lost, refused, timed_out

if TYPE_CHECKING:
    from fastmta.deliver.agent import DeliverContext

PIECE: Final = 262144  # bytes of a big content that are given to the transport at once


class Courier(Protocol):
    """Who uses a connection: deliver.smtp.Delivery."""

    def transaction_done(self, connection: SmtpConnection, transaction: Transaction) -> None:
        """The server has answered for every recipient."""

    def content_due(self, connection: SmtpConnection) -> None:
        """Content is about to be sent: now the next transaction may be submitted, to go out with it."""

    def connection_failed(self, connection: SmtpConnection, trouble: Trouble, transaction: Transaction | None) -> None:
        """The connection broke, or the peer was silent for too long, while this transaction was under way."""


class Keeper(Protocol):
    """Who owns the connections: deliver.smtp.SmtpAgent."""

    settings: SmtpSettings
    context: DeliverContext
    client_tls: ssl.SSLContext | None

    def forget(self, connection: SmtpConnection) -> None:
        """This connection is gone."""


class SmtpConnection(asyncio.Protocol):
    """A connection and its handshake."""

    def __init__(self, keeper: Keeper, host: Host, nexthop: str, detect_loops: bool) -> None:
        """nexthop: what it is kept under; detect_loops: the server may turn out to be this system."""
        settings = keeper.settings
        self.host = host
        self.relay = host.peer_port
        self.nexthop = nexthop
        self.courier: Courier | None = None
        self.uses = 0
        self.tls = ""
        self.relayed = True  # the server does not know DSN: success reports are ours to make
        self.opened = time.monotonic()
        self.idle_since = 0.0
        self.first_hosts: tuple[Host, ...] = ()  # of the next hop's first site, when this was opened
        self.final_when_reused = True
        self.spoiled = False  # not to be used for another message
        self._keeper = keeper
        self._settings = settings
        self._detect_loops = detect_loops
        self._always_kept = nexthop.strip("[]") in settings.connection_cache_destinations
        self._step: asyncio.Future[Trouble | bool] = keeper.context.loop.create_future()  # True: TLS is to start
        self._transport: asyncio.Transport | None = None
        self._tls_level = "none"
        self._body: list[memoryview] = []
        self._big = False
        self._paused = False
        self._seen = -1
        self._unsent = 0
        self._since = self.opened
        self.machine = SmtpClient(
            self,
            settings.helo_name.encode("ascii", "replace"),
            lmtp=settings.lmtp,
            discard=settings.discard_ehlo,
            always_ehlo=-1 if settings.never_send_ehlo else int(settings.always_send_ehlo),
            line_limit=settings.reply_line_limit,
            prefetch=settings.pipeline_messages,
        )

    # Used by the owner

    async def handshake(self, tls_level: str) -> Trouble | None:
        """Greeting, EHLO and, by tls_level ("none", "may", "encrypt"), STARTTLS; None when transactions may begin."""
        self._tls_level = tls_level
        outcome = await self._step
        if outcome is True:
            loop = self._keeper.context.loop
            transport, tls = self._transport, self._keeper.client_tls
            if transport is None or tls is None:
                return self.failure()
            try:
                upgraded = await loop.start_tls(
                    transport,
                    self,
                    tls,
                    server_hostname=self.host.name,
                    ssl_handshake_timeout=self._settings.starttls_timeout or None,
                )
            except (OSError, ssl.SSLError, TimeoutError) as error:
                self._log_tls_failure(error)
                self.abort()
                return Trouble("4.7.5", "Cannot start TLS: handshake failure", throttle=tls_level != "may")
            if upgraded is None:
                self.abort()
                return Trouble("4.7.5", "Cannot start TLS: handshake failure", throttle=tls_level != "may")
            self._transport = upgraded
            self._describe_tls(upgraded)
            self._step = loop.create_future()
            self.machine.tls_started(upgraded.write)
            outcome = await self._step
        return outcome if isinstance(outcome, Trouble) else None

    def reusable(self) -> bool:
        """Whether another message may be sent."""
        settings = self._settings
        if self.spoiled or self._transport is None:
            return False
        if not settings.connection_cache and not self._always_kept:
            return False
        if settings.connection_reuse_count_limit and self.uses > settings.connection_reuse_count_limit:
            return False
        return time.monotonic() - self.opened < settings.connection_reuse_time_limit

    def quit(self) -> None:
        """Say goodbye, and close: at once, or after the reply where the settings want it."""
        transport = self._transport
        self.courier = None
        self.spoiled = True
        if transport is None or transport.is_closing():
            self.abort()
            return
        if self._body or self.machine.state not in (STATE_IDLE, STATE_RSET):
            self.abort()
            return
        self.machine.quit()
        if self._settings.skip_quit_response:
            transport.close()

    def abort(self) -> None:
        """Close without a word."""
        self.courier = None
        self.spoiled = True
        self.machine.close()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._keeper.forget(self)

    def failure(self, silent: bool = False) -> Trouble:
        """The trouble that a lost connection (or a silent one) means now."""
        machine = self.machine
        stage = STAGES.get(machine.state, STAGES[STATE_QUIT])
        if machine.state == STATE_DOT and not self.drained():
            stage = SENDING_BODY
        elif machine.state == STATE_EHLO and machine.lmtp:
            stage = LHLO
        return (timed_out if silent else lost)(self.host.peer, stage)

    def stale(self) -> bool:
        """Whether nothing of the message in work has been taken by the server on a connection that had been used
        before.
        """
        return self.uses > 1 and self.machine.state in (STATE_MAIL, STATE_RSET)

    def check_time(self, now: float) -> None:
        """Part of the agent's tick: end the connection when its peer is silent for too long."""
        machine, settings = self.machine, self._settings
        unsent = self._unsent_bytes() if machine.state == STATE_DOT else 0
        if machine.progress != self._seen or unsent != self._unsent:
            self._seen, self._unsent = machine.progress, unsent
            self._since = now
            return
        limit = settings.data_xfer_timeout if unsent else settings.timeout(machine.state)
        if self.courier is None and machine.state == STATE_IDLE and self._step.done():
            if now - self.idle_since >= settings.connection_cache_time_limit or not self.reusable():
                self.quit()
        elif limit and now - self._since >= limit:
            self._fail(self.failure(silent=True))

    def submitted(self) -> None:
        """A transaction begins: the clock of the peer starts now."""
        self.uses += 1
        self._seen = -1

    # The transport's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected (or, after start_tls, encrypted)."""
        if self._transport is None:
            self._transport = cast(asyncio.Transport, transport)
            self.machine.start(self._transport.write)

    def data_received(self, data: bytes) -> None:
        """Replies."""
        self.machine.feed(data)

    def eof_received(self) -> bool:
        """The server will say nothing more."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self._transport is None:
            return
        self._fail(self.failure())

    def pause_writing(self) -> None:
        """The transport has enough."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._paused = False
        self._pump()

    def _fail(self, trouble: Trouble, transaction: Transaction | None = None) -> None:
        courier = self.courier
        if courier is not None and self._step.done():
            self.spoiled = True
            self.courier = None
            courier.connection_failed(self, trouble, transaction or self.machine.transaction)
            self.abort()
            return
        if not self._step.done():
            self._step.set_result(trouble)
        self.abort()

    # The machine's events

    def greeted(self) -> None:
        """EHLO or HELO was accepted."""
        machine = self.machine
        trouble = None
        own = self._settings.myhostname.lower()
        if self._detect_loops and not self.tls and machine.greeting_name.lower() == own:
            self._warn(f"host {self.relay} greeted me with my own hostname {self._settings.myhostname}")
        if self._detect_loops and machine.peer_name.lower() == own:
            self._warn(f"host {self.relay} replied to HELO/EHLO with my own hostname {self._settings.myhostname}")
            dsn = "5.4.6" if self.host.best else "4.4.6"
            trouble = Trouble(dsn, f"mail for {self.nexthop} loops back to myself", throttle=True)
        elif not self.tls and self._tls_level != "none":
            if machine.features & FEATURE_STARTTLS and self._keeper.client_tls is not None:
                machine.starttls()
                return
            if self._tls_level != "may":
                if machine.features & FEATURE_STARTTLS:
                    trouble = Trouble("4.7.5", "TLS is required, but our TLS engine is unavailable", throttle=True)
                else:
                    text = f"TLS is required, but was not offered by host {self.host.peer}"
                    trouble = Trouble("4.7.4", text, throttle=True)
        machine.ready()
        self.relayed = not machine.features & FEATURE_DSN
        self._resolve(False if trouble is None else trouble)

    def refused(self, reply: Reply) -> None:
        """The greeting was a no."""
        self.machine.ready()
        self._resolve(refused(reply, self.host.name, self.host.peer, self._settings.skip_5xx_greeting))

    def starttls_reply(self, reply: Reply) -> None:
        """The server starts TLS, or not."""
        if reply.code // 100 == 2:
            self._resolve(True)
            return
        self.machine.ready()
        self.relayed = not self.machine.features & FEATURE_DSN
        if self._tls_level == "may":
            self._resolve(False)
            return
        text = f"TLS is required, but host {self.host.peer} refused to start TLS: {reply.text}"
        if reply.dsn[0] not in "45":
            self._resolve(Trouble("5.5.0", "Protocol error: " + text, self.host.name, reply.text, throttle=True))
        else:
            self._resolve(Trouble(reply.dsn, text, self.host.name, reply.text, throttle=True))

    def transaction_done(self, transaction: Transaction) -> None:
        """All replies of a transaction are there."""
        if self._big:
            self._big = False
            if not self.drained():
                # The server did not wait for the end: whatever it says, it does not have the message.
                self._body.clear()
                self.spoiled = True
                reply = transaction.reply
                if reply is None or reply.code // 100 == 2:
                    self._fail(lost(self.host.peer, SENDING_BODY), transaction)
                    return
        courier = self.courier
        if courier is not None:
            courier.transaction_done(self, transaction)

    def content_due(self) -> None:
        """The server waits for the content."""
        if self.courier is not None:
            self.courier.content_due(self)

    def send_body(self, chunks: list[bytes], end: bytes) -> None:
        """Send content that is big, and what comes after it."""
        self._big = True
        self._body = [memoryview(chunk)[at : at + PIECE] for chunk in chunks for at in range(0, len(chunk), PIECE)]
        self._body.append(memoryview(end))
        self._body.reverse()
        self._pump()

    def drained(self) -> bool:
        """Whether all content has left this process."""
        return not self._body and self._unsent_bytes() == 0

    def garbage(self, text: str) -> None:
        """A line that is no reply."""
        kind, names = (
            ("LMTP", "lmtp_discard_lhlo_keyword_address_maps")
            if self.machine.lmtp
            else ("ESMTP", "smtp_discard_ehlo_keyword_address_maps")
        )
        self._warn(f"non-{kind} response from {self.relay}: {text[:100]}")
        self._warn(
            f"to prevent loss of mail, turn off command pipelining for {self.host.address} with the {names} parameter"
        )

    def too_long(self, text: str) -> None:
        """A reply line longer than line_length_limit."""
        self._warn(f"{self.relay}: response longer than {self._settings.reply_line_limit}: {text[:30]}...")

    def bad_size(self, text: str) -> None:
        """A SIZE that is no number."""
        self._warn(f'bad EHLO SIZE limit "{text}" from {self.relay}')

    def unexpected(self) -> None:
        """The server said something that was not asked for, or RSET was refused: it is of no more use."""
        self.spoiled = True
        if self.courier is None:
            self.abort()
        else:
            self._fail(self.failure())

    def quit_done(self) -> None:
        """The server answered QUIT."""
        self.abort()

    # Inside

    def _resolve(self, outcome: Trouble | bool) -> None:
        if not self._step.done():
            self._step.set_result(outcome)

    def _unsent_bytes(self) -> int:
        transport = self._transport
        unsent = transport.get_write_buffer_size() if transport is not None else 0
        return unsent + sum(map(len, self._body)) if self._body else unsent

    def _pump(self) -> None:
        """Hand content to the transport as long as it takes it."""
        body, transport = self._body, self._transport
        if transport is None:
            return
        if body and len(body) <= 16:
            body.reverse()
            transport.writelines(body)
            body.clear()
        while body and not self._paused:
            transport.write(body.pop())

    def _describe_tls(self, transport: asyncio.Transport) -> None:
        cipher = transport.get_extra_info("cipher")
        if cipher:
            name, version, bits = cipher
            self.tls = f"{version} with cipher {name} ({bits}/{bits} bits)"
        if self._settings.tls_loglevel >= 1:
            trust = "Untrusted" if transport.get_extra_info("peercert") is not None else "Anonymous"
            line = f"{trust} TLS connection established to {self.relay.lower()}: {self.tls}"
            self._keeper.context.log.write(self._settings.ident, line)

    def _log_tls_failure(self, error: BaseException) -> None:
        reason = getattr(error, "reason", None) or error.__class__.__name__
        self._keeper.context.log.write(self._settings.ident, f"SSL_connect error to {self.relay}: {reason}")

    def _warn(self, text: str) -> None:
        self._keeper.context.log.warning(self._settings.ident, text)


async def open_connection(keeper: Keeper, host: Host, nexthop: str, detect_loops: bool) -> SmtpConnection | Trouble:
    """Connect a socket, bound as configured, and put a connection on it."""
    settings, loop = keeper.settings, keeper.context.loop
    where = f"{host.peer}:{host.port}" if host.port else host.peer
    sock = socket.socket(host.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        address = bind_address(settings, host.family)
        if address:
            try:
                sock.bind((address, 0))
            except OSError as error:
                keeper.context.log.warning(settings.ident, f"bind {address}: {os.strerror(error.errno or 0)}")
                if settings.bind_address_enforce:
                    sock.close()
                    return Trouble("4.4.0", "server configuration error", throttle=True)
        target: str | tuple[str, int] = (host.address, host.port)
        if host.family == socket.AF_UNIX:
            if len(host.address) > 107:
                keeper.context.log.warning(settings.ident, f"unix-domain name too long: {host.address}")
                sock.close()
                return Trouble("4.3.5", "Server configuration error", throttle=True)
            target = host.address
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(settings.connect_timeout or None):
            await loop.sock_connect(sock, target)
        connection = SmtpConnection(keeper, host, nexthop, detect_loops)
        if host.family == socket.AF_UNIX:
            await loop.create_unix_connection(lambda: connection, sock=sock)
        else:
            await loop.create_connection(lambda: connection, sock=sock)
        return connection
    except TimeoutError as error:
        sock.close()
        reason = os.strerror(error.errno) if error.errno else "Connection timed out"
        return Trouble("4.4.1", f"connect to {where}: {reason}", throttle=True)
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        return Trouble("4.4.1", f"connect to {where}: {reason}", throttle=True)


def bind_address(settings: SmtpSettings, family: int) -> str:
    """The local address for connections of a family, without brackets; "" for any."""
    if family == socket.AF_UNIX:
        return ""
    address = settings.bind_address6 if family == socket.AF_INET6 else settings.bind_address
    return address.removeprefix("[").removesuffix("]")
