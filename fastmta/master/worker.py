"""A worker: the one place that wires the steps together, and the loop that they run on.

`run(assignment)` is called by the supervisor in a process that it forked. It builds the parts from the configuration
(bottom up: log, DNS, queue, scheduler, agents, intake, bouncer, sessions), says that it is ready, and runs until the
master says DRAIN or STOP, or is gone. Each part knows only what it is handed here. What is wrong with the configuration
is raised before the worker is ready, and becomes the last words that the master logs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import uvloop

from fastmta.access.compiler import AccessCompiler
from fastmta.address.rewrite import RewriteSettings, canonical
from fastmta.admin.control import ControlServer, ControlSettings
from fastmta.bounce.bouncer import Bouncer, BounceSettings
from fastmta.cleanup.intake import Intake, IntakeSettings
from fastmta.cleanup.repair import header_rewrite_clients
from fastmta.config import Config, Service
from fastmta.deliver.agent import Agent, DeliverContext
from fastmta.deliver.agents import build_agents
from fastmta.master.assignment import ADOPT, DRAIN, STOP, Assignment
from fastmta.master.journal import log_settings
from fastmta.master.sockets import is_left
from fastmta.master.statistics import Statistics
from fastmta.master.target import WorkerTarget
from fastmta.model.message import Message
from fastmta.net.clientname import ClientNames
from fastmta.net.dns import Resolver
from fastmta.net.hosts import HostsFile
from fastmta.net.resolvconf import read_dns_settings
from fastmta.observe.log import Log
from fastmta.qmgr.active import Active, ActiveContext
from fastmta.qmgr.operations import Operations
from fastmta.qmgr.resolving import NEVER, RemoteResolving
from fastmta.qmgr.settings import QmgrSettings, TransportRules
from fastmta.queue.errors import QueueFull
from fastmta.queue.settings import QueueSettings
from fastmta.queue.store import Store
from fastmta.smtpd.service import SmtpdService, WorkerContext
from fastmta.tables import matchlist
from fastmta.tables.maps import Tables
from fastmta.tables.routes import make_resolver

SETTLE: Final = 0.05  # seconds after the end of listening in which an accepted connection gets its session
LOG_POLL: Final = 1.0  # seconds between looks at the log file
RECOVERY_INTERVAL: Final = 0.05  # seconds between looks whether a shard is brought up to date
ADOPT_INTERVAL: Final = 30.0  # seconds between tries to take over shards, beside the master's word


class Worker:
    """Everything that runs in one worker process."""

    def __init__(self, assignment: Assignment, loop: asyncio.AbstractEventLoop) -> None:
        """Build the parts. Raises ConfigError and its like, OSError."""
        cfg = assignment.config
        self.assignment = assignment
        self.loop = loop
        self.started = time.time()
        self.draining = False
        self.stopped: asyncio.Future[None] = loop.create_future()
        self._closing = False
        self._beginning: set[asyncio.Task[None]] = set()  # connections that were accepted last
        self._settled = False  # what was accepted when listening ended has its session
        self._servers: list[asyncio.AbstractServer] = []
        self.log = Log(log_settings(cfg, assignment.identity), defer=loop.call_soon)
        self.queue_directory = Path(cfg.get_str("queue_directory"))
        assignment.shared.bind(assignment.number)
        assignment.shared.time_unit = cfg.get_time("anvil_rate_time_unit")
        self.statistics = Statistics(
            assignment.shared, self.log, loop.call_later, cfg.get_time("anvil_status_update_time")
        )

        self.resolver = Resolver(read_dns_settings(cfg))
        names = ClientNames(self.resolver, HostsFile())
        self.store = Store(
            self.queue_directory,
            QueueSettings.from_config(cfg),
            assignment.primary_shard,
            lambda text: self.log.warning("qmgr", text),
            loop,
        )
        own = matchlist.MatchList(f"[{address}]" if ":" in address else address for address in cfg.own_addresses())
        self.tables = Tables(cfg, lambda text: self.log.warning("trivial-rewrite", text))
        self.addresses = make_resolver(cfg, self.tables, own)
        asked = (
            None
            if self.tables.are_local
            else RemoteResolving(self.addresses, self.tables.ask, lambda *fault: self.active.failed(*fault))
        )
        rewrites_for = header_rewrite_clients(
            cfg.get_list("local_header_rewrite_clients"),
            own.match_address,
            matchlist.for_parameter(cfg, "mynetworks").match_address,  # its tables are not asked for this
        )
        self.intake = Intake(
            IntakeSettings.from_config(cfg),
            self.store,
            self.log,
            self._admit,
            lambda error: isinstance(error, QueueFull),
            rewrites_for,
        )
        self.bouncer = Bouncer(BounceSettings.from_config(cfg), self.intake, self.store, self.log)
        self.active = Active(
            ActiveContext(
                settings=QmgrSettings.read(cfg),
                store=self.store,
                resolver=asked or self.addresses,
                resolving=asked or NEVER,
                bouncer=self.bouncer,
                log=self.log,
                loop=loop,
                table=assignment.shared,
            )
        )
        self.operations = Operations(self.active, self.store)
        self.agents = self._build_agents(cfg, frozenset(cfg.own_addresses()))
        rewrite = RewriteSettings.from_config(cfg)
        context = WorkerContext(
            loop=loop,
            log=self.log,
            intake=self.intake,
            shared=assignment.shared,
            names=names,
            access=AccessCompiler(self.addresses, lambda address: canonical(address, rewrite), self.tables),
            tables=self.tables,
            has_room=lambda size: self.store.has_space(),
        )
        self.services = [
            (SmtpdService(cfg.for_service(service), service, context), sockets)
            for service, sockets in assignment.listeners
        ]
        self.control = ControlServer(WorkerTarget(self), _control_settings(cfg))

    def _build_agents(self, cfg: Config, own: frozenset[str]) -> dict[str, Agent]:
        context = DeliverContext(
            loop=self.loop, log=self.log, resolver=self.resolver, content=self.store.content, own_addresses=own
        )
        agents = build_agents(cfg, context)
        for service in cfg.services:
            agent = agents.get(service.name)
            if service.type == "unix" and agent is not None:
                self.active.add_transport(TransportRules.read(cfg, service, _ident(cfg, service)), agent)
        return agents

    def _admit(self, message: Message) -> None:
        self.active.admit(message)

    # -- life

    async def start(self) -> None:
        """Open the queue, listen, and say so."""
        self.store.open()
        self.adopt()
        self.active.start()
        self._refill_recovered()
        for service, sockets in self.services:
            for sock in sockets:
                self._servers.append(await self.loop.create_server(service.protocol, sock=sock))
        path = self.queue_directory / "public" / f"worker-{self.assignment.number}"
        await self.control.start(path)
        os.set_blocking(self.assignment.control_fd, False)
        self.loop.add_reader(self.assignment.control_fd, self._order)
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.call_later(LOG_POLL, self._poll_log)
        if self.assignment.slot == 0:
            self.statistics.start()
        self.loop.call_later(ADOPT_INTERVAL, self._adopt_later)
        self.assignment.ready()

    def adopt(self) -> None:
        """Take over what shards are ours and free; their mail is due."""
        if not self.draining and self.store.adopt(self.assignment.candidates()):
            self._refill_recovered()

    def _refill_recovered(self) -> None:
        """Look for due mail once the shards that were just opened give it out."""
        if self.store.recovering:
            self.loop.call_later(RECOVERY_INTERVAL, self._refill_recovered)
        else:
            self.active.arm_refill(time.time())

    def _adopt_later(self) -> None:
        self.adopt()
        self.loop.call_later(ADOPT_INTERVAL, self._adopt_later)

    def _poll_log(self) -> None:
        self.log.poll()
        self.tables.refresh()
        self.loop.call_later(LOG_POLL, self._poll_log)

    def _order(self) -> None:
        """The master says something, or is gone."""
        try:
            orders = os.read(self.assignment.control_fd, 64)
        except BlockingIOError:
            return
        if not orders:
            self.loop.remove_reader(self.assignment.control_fd)
            self.log.warning("master", "the master process is gone: stopping")
            orders = STOP
        if STOP in orders:
            self.stop()
        elif DRAIN in orders:
            self.drain()
        elif ADOPT in orders:
            self.adopt()

    def drain(self) -> None:
        """Accept no connection any more; end when the open sessions have ended and what they brought is on its way."""
        if not self.draining:
            self.draining = True
            self._accept_the_last()
            self._stop_listening()
            for service, _ in self.services:
                service.drain(self._session_ended)

    def stop(self) -> None:
        """End as soon as what is in flight has ended, or when its time is up: then it stays in the queue."""
        self.draining = True
        self.loop.call_later(self.assignment.config.get_time("fastmta_stop_timeout"), self._time_is_up)
        self._stop_listening()
        for service, _ in self.services:
            service.stop(self._session_ended)

    def _time_is_up(self) -> None:
        if not self.stopped.done():
            left = self.active.scheduler.in_flight
            self.log.warning(
                "master", f"time to stop is up: {left} deliveries under way are given up, their mail stays queued"
            )
            for message in self.active.messages.values():
                if message.done is not None or message.deferred is not None:
                    self.store.record(message)
            self._delivered()

    def _accept_the_last(self) -> None:
        """Connections that wait at an address where nobody will listen any more would be cut when it is closed."""
        left = [(service, sock.dup()) for service, sockets in self.services for sock in sockets if is_left(sock)]
        self.loop.call_later(SETTLE, self._empty, left)

    def _empty(self, left: list[tuple[SmtpdService, socket.socket]]) -> None:
        for service, sock in left:
            with sock, suppress(BlockingIOError):
                while True:
                    connection, _ = sock.accept()
                    connection.setblocking(False)
                    task = self.loop.create_task(self._begin(service, connection))
                    self._beginning.add(task)
                    task.add_done_callback(self._begun)

    def _begun(self, task: asyncio.Task[None]) -> None:
        self._beginning.discard(task)
        self._session_ended()

    async def _begin(self, service: SmtpdService, connection: socket.socket) -> None:
        try:
            await self.loop.connect_accepted_socket(service.protocol, connection)
        except OSError:  # it is gone already
            connection.close()

    def _stop_listening(self) -> None:
        self.statistics.stop()
        for server in self._servers:
            server.close()
        self._servers.clear()
        self.loop.call_later(SETTLE, self._all_accepted)

    def _all_accepted(self) -> None:
        self._settled = True
        self._session_ended()

    def _session_ended(self) -> None:
        if not self._settled or self._closing or self._beginning:
            return
        if not any(service.sessions for service, _ in self.services):
            self._closing = True
            self.active.drain(self._delivered)

    def _delivered(self) -> None:
        for agent in self.agents.values():
            agent.close()
        if not self.stopped.done():
            self.stopped.set_result(None)

    def close(self) -> None:
        """Leave everything in order on disk."""
        self.control.close()
        self.store.close()
        self.statistics.report()
        self.tables.close()
        self.log.close()

    def failed(self, context: dict[str, Any]) -> None:
        """The loop's handler for what a callback raised: a bug of ours, logged with its traceback."""
        self.log.panic("master", str(context.get("message", "error")), context.get("exception"))


def _control_settings(cfg: Config) -> ControlSettings:
    return ControlSettings(
        flush_users=cfg.get_list("authorized_flush_users"), mailq_users=cfg.get_list("authorized_mailq_users")
    )


def _ident(cfg: Config, service: Service) -> str:
    """What the deliveries of a service are logged as: its program, under its own syslog_name where it has one."""
    own = cfg.for_service(service).get_str("syslog_name")
    return service.command if own == cfg.get_str("syslog_name") else f"{own}/{service.command}"


async def _serve(assignment: Assignment) -> None:
    loop = asyncio.get_running_loop()
    worker = Worker(assignment, loop)  # as root, where we are: it reads private keys
    assignment.drop_privileges()
    loop.set_exception_handler(lambda _, context: worker.failed(context))
    try:
        await worker.start()
        await worker.stopped
    finally:
        worker.close()


def run(assignment: Assignment) -> None:
    """Be a worker until told to stop. Returns when everything is on disk; raises what kept it from starting."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(0.05)
    uvloop.run(_serve(assignment))
