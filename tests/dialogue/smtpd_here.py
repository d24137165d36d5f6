"""An smtpd of ours on a loopback port, in the test's process: real sockets, real configuration; the queue is a list.

Used by the dialogue tests and by those that hold replies, log and content against a live Postfix.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import uvloop

from fastmta._ext.shared import SharedTable
from fastmta.access.compiler import AccessCompiler
from fastmta.address.rewrite import RewriteSettings, canonical
from fastmta.config import load
from fastmta.net.clientname import ClientName
from fastmta.smtpd.service import SmtpdService, WorkerContext
from fastmta.smtpd.transaction import Transaction
from fastmta.tables import matchlist
from fastmta.tables.maps import Tables
from fastmta.tables.routes import make_resolver

Reply = Callable[[bytes], None]


class ListIntake:
    """Keeps messages in a list; answers at once, later, or not at all."""

    def __init__(self) -> None:
        self.messages: list[Transaction] = []
        self.waiting: list[tuple[Transaction, Reply]] = []
        self.hold = False
        self.count = 0
        self.loop: asyncio.AbstractEventLoop | None = None

    def new_queue_id(self, now: float) -> str:
        self.count += 1
        return f"4QUEUE{self.count:05d}"

    def accept(self, transaction: Transaction, done: Reply) -> None:
        self.messages.append(transaction)
        if self.hold:
            self.waiting.append((transaction, done))
        else:
            assert self.loop is not None
            self.loop.call_soon(done, b"250 2.0.0 Ok: queued as " + transaction.queue_id.encode() + b"\r\n")


class ListLog:
    """Keeps lines in a list."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, service: str, line: str) -> None:
        self.lines.append(f"{service}: {line}")

    def warning(self, service: str, text: str) -> None:
        self.lines.append(f"{service}: warning: {text}")

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        self.lines.append(f"{service}: panic: {text}")


class Names:
    """No lookups."""

    def __init__(self) -> None:
        self.known: dict[str, ClientName] = {}

    def cached(self, address: str) -> ClientName | None:
        return self.known.get(address)

    async def lookup(self, address: str) -> ClientName:
        await asyncio.sleep(0)
        return ClientName("unknown", "unknown")


class SmtpdHere:
    """with SmtpdHere(tmp_path, {"smtpd_helo_required": "yes"}) as server: connect to server.port"""

    def __init__(self, folder: Path, parameters: Mapping[str, str] | None = None, port: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.intake = ListIntake()
        self.log = ListLog()
        self.names = Names()
        self.service: SmtpdService
        self.loop: asyncio.AbstractEventLoop
        values = {
            "compatibility_level": "3.6",
            "myhostname": "yardstick.example",
            "mydestination": "yardstick.example, local.example",
            "relay_domains": "relay.example",
            "mynetworks": "127.0.0.0/8",
            "inet_protocols": "ipv4",
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
            "smtpd_error_sleep_time": "0",
            "smtpd_peername_lookup": "no",
            "smtpd_forbid_bare_newline_exclusions": "",
            **(parameters or {}),
        }
        (folder / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.sock.bind(("127.0.0.1", port))
        self.port: int = self.sock.getsockname()[1]
        (folder / "master.cf").write_text(f"127.0.0.1:{self.port} inet n - n - - smtpd\n")
        self.config = load(folder)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._ready.set()

    def access(self) -> AccessCompiler:
        cfg = self.config
        rewrite = RewriteSettings(cfg.get_str("myorigin"), cfg.get_str("mydomain"))
        self.tables = Tables(cfg, lambda text: self.log.warning("smtpd", text))
        resolver = make_resolver(cfg, self.tables, matchlist.MatchList(["127.0.0.1"]))
        return AccessCompiler(resolver, lambda address: canonical(address, rewrite), self.tables)

    async def _serve(self) -> None:
        self.loop = self.intake.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.shared = SharedTable.create(256)
        self.shared.bind(0)
        access = self.access()
        context = WorkerContext(
            loop=self.loop,
            log=self.log,
            intake=self.intake,
            shared=self.shared,
            names=self.names,
            access=access,
            tables=self.tables,
        )
        service = self.config.services[0]
        self.service = SmtpdService(self.config.for_service(service), service, context)
        server = await self.loop.create_server(self.service.protocol, sock=self.sock, backlog=1000)
        self._ready.set()
        await self._stop.wait()
        server.close()
        ended = asyncio.Event()
        self.service.stop(ended.set)
        while self.service.sessions:
            ended.clear()
            await asyncio.wait_for(ended.wait(), 5)
        self.tables.close()
        await asyncio.sleep(0)
        self.shared.close()

    def __enter__(self) -> SmtpdHere:
        self._thread.start()
        self._ready.wait(10)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        if self._error is not None:
            raise self._error

    def call(self, function: Callable[[], None]) -> None:
        """Run something on the loop."""
        self.loop.call_soon_threadsafe(function)
