"""Tables that ask a server: connections, failover, retry, timeouts; and how a tool without an event loop asks them.

Servers keeps what a table knows about its servers: a few connections in each event loop, closed when idle, and which
server is down. A lookup goes to a connection that is open, else to a server that is not known to be down; a server that
fails is left alone for the retry interval, and then tried again. A connection that was lost while it was idle is
replaced at once. Every step has the table's timeout; when no server answers, the lookup is a TempFail.

    with Fetcher() as fetch:                a tool: postmap -q
        fetch(table, "user@example.com")    any table: the value, or None

Called by tables/types. Raises TempFail. Postfix manual: mysql_table(5), auto_clnt(3).
"""

from __future__ import annotations

import asyncio
import importlib
import random
import socket
import warnings
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail

CONNECTIONS: Final = 8
"""The most connections of one table in one process."""


_FULL_BACKLOG: Final = 0.02


class Host(msgspec.Struct, frozen=True):
    """One server. path: of a UNIX socket, else "". text: as the administrator wrote it."""

    text: str
    path: str = ""
    name: str = ""
    port: int = 0


class Refused(Exception):
    """The server answered that it will not do this; the connection is still good."""


class Lost(Exception):
    """The server did not answer as a server that works does."""


class Connection(Protocol):
    """What Servers wants of a connection."""

    def close(self) -> None:
        """Close it now, without waiting."""


_C = TypeVar("_C", bound=Connection)
_R = TypeVar("_R")


class _Idle(Generic[_C]):
    """The connections of one event loop that nobody uses now, with the times at which they were left."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.gate = asyncio.Semaphore(CONNECTIONS)
        self.connections: dict[Host, list[tuple[_C, float]]] = {}
        self.timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        for left in self.connections.values():
            for connection, _ in left:
                _close(connection)
        self.connections.clear()


def _close(connection: Connection) -> None:
    """A connection whose event loop is gone cannot say goodbye."""
    try:
        connection.close()
    except RuntimeError:
        return


class Servers(Generic[_C]):
    """The servers of one table. connect() makes a connection; errors: what it and work raise when a server fails."""

    def __init__(
        self,
        name: str,
        hosts: Iterable[Host],
        connect: Callable[[Host], Awaitable[_C]],
        context: Context,
        *,
        errors: tuple[type[BaseException], ...] = (),
        timeout: float,
        idle: float = 60,
        retry: float = 60,
        in_order: bool = False,
    ) -> None:
        """Times in seconds; in_order: the first server that works, not any of them."""
        self._name = name
        self._hosts = tuple(hosts)
        self._connect = connect
        self._warn = context.warn
        self._errors: tuple[type[BaseException], ...] = (*errors, Lost, OSError, TimeoutError, EOFError)
        self._timeout = timeout
        self._idle_time = idle
        self._retry = retry
        self._in_order = in_order
        self._down: dict[Host, float] = {}
        self._idle: _Idle[_C] | None = None

    async def use(self, work: Callable[[_C], Awaitable[_R]]) -> _R:
        """What work makes of a connection to a server that works. Raises TempFail."""
        idle = self._here()
        try:
            async with asyncio.timeout(self._timeout):
                await idle.gate.acquire()
        except TimeoutError:
            raise TempFail(f"{self._name}: all connections are in use") from None
        try:
            for host in self._candidates(idle):
                try:
                    return await self._ask(idle, host, work)
                except self._errors as error:
                    self._down[host] = idle.loop.time() + self._retry
                    text = "timeout" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
                    self._warn(f"{self._name}: server {host.text}: {text}")
                except Refused as error:
                    raise TempFail(f"{self._name}: server {host.text}: {error}") from None
        finally:
            idle.gate.release()
        raise TempFail(f"{self._name}: no server answers")

    async def _ask(self, idle: _Idle[_C], host: Host, work: Callable[[_C], Awaitable[_R]]) -> _R:
        left = idle.connections.setdefault(host, [])
        while True:
            connection = left.pop()[0] if left else None
            is_new = connection is None
            is_good = False
            try:
                async with asyncio.timeout(self._timeout):
                    if connection is None:
                        connection = await self._connect(host)
                    result = await work(connection)
                is_good = True
            except Refused:
                is_good = True
                raise
            except self._errors as error:
                if is_new or isinstance(error, TimeoutError):
                    raise
                continue  # it was lost while it was idle
            finally:
                # Neither after a failure nor when the caller went away: an answer may still be on its way.
                if connection is not None and not is_good:
                    _close(connection)
                elif connection is not None:
                    self._down.pop(host, None)
                    self._leave(idle, host, connection)
            return result

    def _here(self) -> _Idle[_C]:
        loop = asyncio.get_running_loop()
        if self._idle is None or self._idle.loop is not loop:
            if self._idle is not None:
                self._idle.close()
            self._idle = _Idle(loop)
            self._down.clear()
        return self._idle

    def _candidates(self, idle: _Idle[_C]) -> list[Host]:
        """The servers to try: connected ones first, UNIX sockets before TCP, else in any order; none that is down."""
        now = idle.loop.time()
        hosts = [host for host in self._hosts if self._down.get(host, 0) <= now]
        if not self._in_order:
            random.shuffle(hosts)
            hosts.sort(key=lambda host: (not idle.connections.get(host), not host.path))
        return hosts

    def _leave(self, idle: _Idle[_C], host: Host, connection: _C) -> None:
        if self._idle is not idle or self._idle_time <= 0:
            _close(connection)
            return
        idle.connections.setdefault(host, []).append((connection, idle.loop.time()))
        if idle.timer is None:
            idle.timer = idle.loop.call_later(self._idle_time, self._expire, idle)

    def _expire(self, idle: _Idle[_C]) -> None:
        """Close what was idle for too long, and come again for the rest."""
        oldest = idle.loop.time() - self._idle_time
        idle.timer = None
        for left in idle.connections.values():
            while left and left[0][1] <= oldest:
                _close(left.pop(0)[0])
        times = [left[0][1] for left in idle.connections.values() if left]
        if times:
            idle.timer = idle.loop.call_at(min(times) + self._idle_time, self._expire, idle)

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it is left."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None


class RemoteTable(Table):
    """A table that must be awaited. What asks it and has no event loop uses Fetcher."""

    is_local = False

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """name: type:name."""
        self.name = name
        self._flags = flags
        self._context = context

    def get(self, key: str) -> str | None:
        """Not here: RuntimeError."""
        raise RuntimeError(f"{self.name}: this table must be awaited")


class Fetcher:
    """Asks any table from code that has no event loop: tools only. Connections live until close() or `with` ends."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._runner: asyncio.Runner | None = None
        self._asked: list[Table] = []

    def __enter__(self) -> Fetcher:
        """Itself."""
        return self

    def __call__(self, table: Table, key: str) -> str | None:
        """The value of a key, or None. Raises TempFail."""
        if table.is_local:
            return table.get(key)
        if self._runner is None:
            self._runner = asyncio.Runner()
        if not any(table is asked for asked in self._asked):
            self._asked.append(table)
        return self._runner.run(table.fetch(key))

    def close(self) -> None:
        """Close the tables that were awaited, and the event loop."""
        if self._runner is not None:
            self._runner.run(self._part())
            self._runner.close()
            self._runner = None

    async def _part(self) -> None:
        for table in self._asked:
            table.close()
        self._asked.clear()
        await asyncio.sleep(0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def run_fetch(table: Table, key: str) -> str | None:
    """One question from code without an event loop; a table that was awaited is closed after it. Raises TempFail."""
    with Fetcher() as fetch:
        return fetch(table, key)


def client_library(module: str, extra: str) -> Any:
    """A client library. Raises TableError that names the extra to install where it is missing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries about their own libraries
            return importlib.import_module(module)
    except ImportError as error:
        raise TableError(f"{extra} tables need a client library ({error}): pip install 'fastmta[{extra}]'") from None


def parse_host(text: str, port: int) -> Host:
    """unix:/path, inet:host:port, host:port, host, [address]:port; port: where none is said. Raises TableError."""
    if text.startswith("unix:"):
        return Host(text, path=text.removeprefix("unix:"))
    name = text.removeprefix("inet:")
    if name.startswith("["):
        name, _, rest = name[1:].partition("]")
        service = rest.removeprefix(":")
    elif name.count(":") > 1:
        service = ""
    else:
        name, _, service = name.partition(":")
    if service:
        if not service.isdigit() or not 0 < int(service) < 65536:
            raise TableError(f"bad port in server name: {text}")
        port = int(service)
    if not name or not port:
        raise TableError(f"expecting host:port in server name: {text}")
    return Host(text, name=name, port=port)


class Stream:
    """A connection to a server with a protocol of lines or netstrings."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """See connect_stream()."""
        self.reader = reader
        self.writer = writer

    async def line(self) -> bytes:
        """One line without its end. Raises Lost."""
        try:
            return (await self.reader.readuntil(b"\n")).rstrip(b"\r\n")
        except asyncio.LimitOverrunError:
            raise Lost("reply line too long") from None
        except asyncio.IncompleteReadError:
            raise Lost("lost connection") from None

    def close(self) -> None:
        """At once."""
        self.writer.transport.abort()


async def connect_stream(host: Host, limit: int) -> Stream:
    """Connect; limit: the longest line."""
    if host.path:
        return Stream(*await asyncio.open_unix_connection(sock=await connect_unix(host.path), limit=limit))
    return Stream(*await asyncio.open_connection(host.name, host.port, limit=limit))


async def connect_unix(path: str) -> socket.socket:
    """Connect to a UNIX socket. A server that has too many callers to greet is waited for: connect(2) does not."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        while True:
            try:
                connection.connect(path)
                return connection
            except BlockingIOError:
                await asyncio.sleep(_FULL_BACKLOG)
    except BaseException:
        connection.close()
        raise
