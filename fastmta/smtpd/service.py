"""One smtpd service of master.cf in one worker: its settings and checks, and a protocol for each connection.

Made by master/worker.py at load, once per service, with `protocol` as the factory for the loop's create_server. Raises
ConfigError while it is made, nothing later.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Final, Protocol, TypeVar

from fastmta._ext.smtpsession import ReadBuffer
from fastmta.config import Config, Service
from fastmta.net.tls import server_context
from fastmta.smtpd import settings as smtpd_settings
from fastmta.smtpd.checks import Access
from fastmta.smtpd.protocol import SmtpdProtocol
from fastmta.smtpd.transaction import Intake
from fastmta.smtpd.wheel import Wheel
from fastmta.tables.maps import Tables

T = TypeVar("T")

LOOKUP_BUG: Final = b"451 4.3.0 Error: internal error\r\n"


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


class ClientTable(Protocol):
    """_ext.shared.SharedTable."""

    def client(self, service: str, address: str) -> ClientCounter:
        """One more connection."""


class LineLog(Protocol):
    """The part of observe.log.Log that is needed."""

    def write(self, service: str, line: str) -> None:
        """Log a line."""

    def warning(self, service: str, text: str) -> None:
        """Log a warning."""

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        """Log a bug of ours, with its traceback."""


class WorkerContext:
    """What a worker lends to its smtpd services, and what these share."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        log: LineLog,
        intake: Intake,
        shared: ClientTable,
        names: ClientNames,
        access: Access,
        tables: Tables,
        has_room: Callable[[int], bool] = lambda size: True,
    ) -> None:
        """has_room(size): does queue_minfree allow a message of that size (0: not known)?"""
        self.loop = loop
        self.log = log
        self.intake = intake
        self.shared = shared
        self.names = names
        self.access = access
        self.tables = tables
        self.has_room = has_room
        self.wheel = Wheel(loop.call_later)
        self.read_buffer = ReadBuffer()


class SmtpdService:
    """See above."""

    def __init__(self, cfg: Config, service: Service, context: WorkerContext) -> None:
        """cfg is that of the service (Config.for_service)."""
        self.loop = context.loop
        self.intake = context.intake
        self.names = context.names
        self.wheel = context.wheel
        self.read_buffer = context.read_buffer
        self.has_room = context.has_room
        syslog_name = cfg.get_str("syslog_name")
        self._ident = "smtpd" if syslog_name == "postfix" else f"{syslog_name}/smtpd"
        self._log = context.log
        self._shared = context.shared
        self._tables = context.tables
        self.tls_context = server_context(cfg) if smtpd_settings.tls_level(cfg) else None
        if self.tls_context is None and smtpd_settings.tls_level(cfg):
            self.warn("No server certs available. TLS won't be enabled")
        self.checks = context.access.checks(cfg, self.warn)
        self.settings = smtpd_settings.read(
            cfg,
            service.name,
            context.access.parse_mailbox,
            self.checks.data is not None,
            context.tables,
        )
        self.line_length_limit = cfg.get_int("line_length_limit")
        self.sessions: set[SmtpdProtocol] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_end: Callable[[], None] | None = None

    def protocol(self) -> SmtpdProtocol:
        """For create_server."""
        return SmtpdProtocol(self)

    def counter(self, address: str) -> ClientCounter:
        """Count a connection of this client."""
        return self._shared.client(self.settings.service_name, address)

    # -- the log

    def write(self, line: str) -> None:
        """Log a line."""
        self._log.write(self._ident, line)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._log.warning(self._ident, text)

    def panic(self, text: str, error: BaseException) -> None:
        """Log a bug of ours."""
        self._log.panic(self._ident, text, error)

    # -- what has to be awaited

    def start_lookup(self, protocol: SmtpdProtocol, address: str) -> None:
        """Find the client's name, then tell the protocol."""
        self._start(self._lookup(protocol, address))

    def start_tls(self, protocol: SmtpdProtocol) -> None:
        """Make the handshake, then tell the protocol."""
        self._start(self._handshake(protocol))

    def ask(self, question: Callable[[], T], then: Callable[[T], bytes | None], reply: Callable[[bytes], None]) -> None:
        """A question that came to a remote table: then() gets the answer, and reply() what then() gives."""
        self._start(self._ask(question, then, reply))

    async def _ask(
        self, question: Callable[[], T], then: Callable[[T], bytes | None], reply: Callable[[bytes], None]
    ) -> None:
        try:
            answer = then(await self._tables.ask(question))
        except Exception as error:  # a bug of ours: the client tries again
            self.panic(repr(error), error)
            answer = LOOKUP_BUG
        if answer is not None:
            reply(answer)

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
        if self._on_end is not None:
            self._on_end()

    def drain(self, on_end: Callable[[], None]) -> None:
        """No more connections will come; on_end is called after each session that ends."""
        self._on_end = on_end

    def stop(self, on_end: Callable[[], None]) -> None:
        """The same, and 421 to every session but those whose message is being written: these end after their answer."""
        self._on_end = on_end
        for protocol in list(self.sessions):
            protocol.shut_down()
