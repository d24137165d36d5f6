"""One smtpd service of master.cf in one worker: its settings and checks, and a protocol for each connection.

Made by master/worker.py at load, once per service, with `protocol` as the factory for the loop's create_server. Raises
ConfigError while it is made, nothing later.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Protocol

import msgspec

from fastmta._ext.smtpserver import ReadBuffer
from fastmta.config import Config, Service
from fastmta.smtpd import settings as smtpd_settings
from fastmta.smtpd.checks import Checks
from fastmta.smtpd.protocol import SmtpdProtocol
from fastmta.smtpd.transaction import Intake
from fastmta.smtpd.wheel import Wheel


class ClientName(Protocol):
    """What net.clientname found."""

    @property
    def name(self) -> str:
        """Verified, or "unknown"."""

    @property
    def warning(self) -> str:
        """To be logged."""


class ClientNames(Protocol):
    """net.clientname.ClientNames."""

    def cached(self, address: str) -> ClientName | None:
        """At once, or None."""

    async def lookup(self, address: str) -> ClientName:
        """Ask."""


class ClientCounter(Protocol):
    """_ext.shared.Client: one connection of a client, counted over all workers until disconnect()."""

    @property
    def count(self) -> int:
        """Connections now, with this one."""

    @property
    def connection_rate(self) -> int:
        """Connections in this time unit, with this one."""

    def disconnect(self) -> None:
        """This one is gone."""

    def message(self) -> int:
        """One more MAIL; returns the rate."""

    def recipient(self) -> int:
        """One more RCPT; returns the rate."""

    def newtls(self) -> int:
        """One more handshake; returns the rate."""


class LineLog(Protocol):
    """The part of observe.log.Log that is needed."""

    def write(self, service: str, line: str) -> None:
        """Log a line."""

    def warning(self, service: str, text: str) -> None:
        """Log a warning."""


class SmtpdContext(msgspec.Struct, frozen=True, eq=False):
    """What a worker lends to its smtpd services.

    count_client(service_name, address) counts a connection; names looks up clients; parse_mailbox is
    access.mailbox.Mailboxes.parse or its like; checks(cfg) compiles the restriction lists; tls_context(cfg) is
    net.tls.server_context; has_room(size) tells whether queue_minfree allows a message of that size.
    """

    loop: asyncio.AbstractEventLoop
    log: LineLog
    intake: Intake
    names: ClientNames
    count_client: Callable[[str, str], ClientCounter]
    parse_mailbox: Callable[[bytes, bool], str | None]
    checks: Callable[[Config], Checks]
    tls_context: Callable[[Config], ssl.SSLContext | None]
    wheel: Wheel
    read_buffer: ReadBuffer
    has_room: Callable[[int], bool] = lambda size: True


class SmtpdService:
    """See above."""

    def __init__(self, cfg: Config, service: Service, context: SmtpdContext) -> None:
        """cfg is that of the service (Config.for_service)."""
        self.loop = context.loop
        self.intake = context.intake
        self.names = context.names
        self.wheel = context.wheel
        self.read_buffer = context.read_buffer
        self.has_room = context.has_room
        self.checks = context.checks(cfg)
        self.tls_context = context.tls_context(cfg) if smtpd_settings.tls_level(cfg) else None
        syslog_name = cfg.get_str("syslog_name")
        self.settings = smtpd_settings.read(
            cfg,
            service.name,
            "smtpd" if syslog_name == "postfix" else f"{syslog_name}/smtpd",
            context.parse_mailbox,
            self.tls_context is not None,
            self.checks.data is not None,
        )
        self.line_length_limit = cfg.get_int("line_length_limit")
        self.sessions: set[SmtpdProtocol] = set()
        self._context = context
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty: asyncio.Event | None = None

    def protocol(self) -> SmtpdProtocol:
        """For create_server."""
        return SmtpdProtocol(self)

    def counter(self, address: str) -> ClientCounter:
        """Count a connection of this client."""
        return self._context.count_client(self.settings.service_name, address)

    # -- the log

    def write(self, line: str) -> None:
        """Log a line."""
        self._context.log.write(self.settings.syslog_service, line)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._context.log.warning(self.settings.syslog_service, text)

    def panic(self, text: str) -> None:
        """Log a bug of ours."""
        self._context.log.write(self.settings.syslog_service, f"panic: {text}")

    # -- what has to be awaited

    def start_lookup(self, protocol: SmtpdProtocol, address: str) -> None:
        """Find the client's name, then tell the protocol."""
        self._start(self._lookup(protocol, address))

    def start_tls(self, protocol: SmtpdProtocol) -> None:
        """Make the handshake, then tell the protocol."""
        self._start(self._handshake(protocol))

    def _start(self, coroutine: Coroutine[None, None, None]) -> None:
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _lookup(self, protocol: SmtpdProtocol, address: str) -> None:
        found = await self.names.lookup(address)
        protocol.looked_up(found.name, found.warning)

    async def _handshake(self, protocol: SmtpdProtocol) -> None:
        assert self.tls_context is not None
        try:
            transport = await self.loop.start_tls(
                protocol.transport,
                protocol,
                self.tls_context,
                server_side=True,
                ssl_handshake_timeout=float(self.settings.starttls_timeout),
            )
        except (OSError, ssl.SSLError) as error:
            protocol.tls_failed(getattr(error, "reason", None) or str(error) or type(error).__name__)
            return
        if transport is not None:
            protocol.tls_started(transport)

    # -- the end

    def session_ended(self) -> None:
        """From a protocol."""
        if self._empty is not None and not self.sessions:
            self._empty.set()

    def shut_down(self) -> None:
        """421 to every session but those whose message is being written."""
        for protocol in list(self.sessions):
            protocol.shut_down()

    async def drained(self) -> None:
        """Wait until all sessions are gone."""
        if self.sessions:
            self._empty = asyncio.Event()
            await self._empty.wait()
