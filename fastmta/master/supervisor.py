"""The master: binds the sockets, forks workers, replaces those that die, changes all for new ones on reload, stops.

Run by master/daemon.py, in the foreground or not. No event loop and no threads: one poll(2) over the pipe of signals
and the ready pipes. It reads nothing from the network. What is to be done is always found by looking at the state
(`_reconcile`), never remembered: a worker may die at any moment.

Signals: SIGTERM and SIGINT stop, a second one aborts; SIGQUIT aborts; SIGHUP reloads.

Reload: the new configuration is read and its sockets are bound first; if anything is wrong with it, the old one stays.
Then a new generation of workers is forked; listening sockets that both have in common are the same objects. Once all of
it accepts, the old generation is told to drain. Where the queue has no shard left for a new worker, an old worker
drains first, and the others accept meanwhile.

Raises StartError before anything runs.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import fastmta
from fastmta.config import ConfigError, environment, load
from fastmta.config.machine import interfaces
from fastmta.master import process, shards
from fastmta.master.assignment import ADOPT, DRAIN, READY, STOP, Assignment
from fastmta.master.generation import Generation, Slot, plan
from fastmta.master.identity import IdentityError
from fastmta.master.journal import Journal
from fastmta.master.preload import freeze
from fastmta.master.process import Phase, Run, Worker
from fastmta.master.sockets import Listeners
from fastmta.master.spool import AlreadyRunning, Spool, State

if TYPE_CHECKING:
    from fastmta._ext.shared import SharedTable

STALE_PATIENCE: Final = 5.0  # seconds for the workers of a master that died to leave its addresses
AT_ONCE: Final = 2.0  # a worker that dies so soon after it was ready counts as failed
FIRST_PAUSE: Final = 0.5  # seconds before the third try, doubled with each that fails
LONGEST_PAUSE: Final = 30.0
TRIES: Final = 3  # workers killed while starting before a generation is given up
COLUMNS: Final = 64  # of the shared table: so many workers can live at one time
SHARD_PAUSE: Final = 0.25  # seconds between two looks for a free shard
GRACE: Final = 3.0  # seconds after fastmta_stop_timeout before SIGKILL
TICK: Final = 5.0  # seconds between looks at the log file
WANTED_FILES: Final = 65536
HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)


class StartError(Exception):
    """The mail system cannot start; the text says why."""


class Supervisor:
    """The master process. `run` returns when all is stopped."""

    def __init__(self, directory: Path, run: Run, prepare: Callable[[], SharedTable], up: Callable[[], None]) -> None:
        """directory: the configuration; run: a worker's body.

        prepare loads what workers need and makes the table that they share; up is called once when all of them accept.
        """
        self.directory = directory
        self.run_worker = run
        self.prepare = prepare
        self.up = up
        self.workers: dict[int, Worker] = {}  # by process id
        self.listeners = Listeners()
        self.previous: Generation | None = None  # while a reload is under way: what goes on if it fails
        self.generations = 1
        self.reloads = 0
        self.error = ""
        self.stopping = False
        self.failed = ""  # why the start failed, once it has
        self.next_tick = 0.0
        self.state: State | None = None

    def run(self) -> None:
        """Start, supervise, stop. Raises StartError, also when the first workers fail."""
        os.umask(0o022)
        try:
            self._set_up()
        except (ConfigError, IdentityError, OSError, ImportError) as error:
            raise StartError(str(error)) from error
        except AlreadyRunning:
            raise StartError("the FastMTA mail system is already running") from None
        try:
            self._loop()
        except BaseException:
            for line in traceback.format_exc().splitlines():
                self.journal.fatal(line)
            raise
        finally:
            self._kill_all()
            self.listeners.close()
            self.spool.unlock()
            self.journal.close()
        if self.failed:
            raise StartError(self.failed)

    def _set_up(self) -> None:
        config = load(self.directory)
        self.current = plan(1, config, self.directory)
        environment.become(environment.imported(config, os.environ))
        self.journal = Journal(self.current.log)
        self.current.identity.must_reach(self.current.queue_directory)
        self.spool = Spool(self.current.queue_directory)
        self.spool.prepare(self.current.identity, self.current.public_gid)
        self.spool.lock()
        patience = STALE_PATIENCE if self.spool.unclean else 0.0
        try:
            self.current.bound = self.listeners.bind(config, self.current.backlog, patience)
            raise_file_limit()
            os.chdir(self.current.queue_directory)
            self.shared = self.prepare()
        except BaseException:
            self.listeners.close()
            self.spool.unlock()
            raise
        freeze()
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        for number in HANDLED:
            signal.signal(number, _noted)
        self.poll = select.poll()
        self.poll.register(self.wake_read, select.POLLIN)
        self.journal.info(f"daemon started -- version {fastmta.__version__}, configuration {self.directory}")
        self._report([*config.warnings, *config.report()])

    def _report(self, lines: list[str]) -> None:
        for line in lines:
            self.journal.warning(line)

    # The loop

    def _loop(self) -> None:
        while True:
            self._reconcile()
            self._publish()
            if self.stopping and not self.workers:
                return
            for fd, _ in self.poll.poll(self._milliseconds()):
                if fd == self.wake_read:
                    self._signals()
                else:
                    self._listen_to(fd)

    def _milliseconds(self) -> int:
        """Until something is due by the clock."""
        due = [self.next_tick]
        due += [worker.deadline for worker in self.workers.values() if worker.deadline]
        due += [slot.not_before for slot in self.current.slots]
        now = time.monotonic()
        nearest = min((when for when in due if when > now), default=now)
        return int((nearest - now) * 1000) + 1

    def _signals(self) -> None:
        for number in os.read(self.wake_read, 1024):
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGQUIT or self.stopping:
                self._abort(number)
            else:
                self._stop(number)

    def _listen_to(self, fd: int) -> None:
        """A worker said something over its ready pipe, or closed it."""
        worker = next((worker for worker in self.workers.values() if worker.ready_fd == fd), None)
        if worker is not None:
            self._hear(worker)

    def _hear(self, worker: Worker) -> None:
        while worker.ready_fd >= 0:
            try:
                data = os.read(worker.ready_fd, 4096)
            except BlockingIOError:
                return
            if data == READY:
                worker.became_ready = time.monotonic()
                if worker.phase is Phase.STARTING:
                    worker.phase = Phase.READY
            elif data:
                worker.said += data
                continue
            self.poll.unregister(worker.ready_fd)
            os.close(worker.ready_fd)
            worker.ready_fd = -1

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self.workers.pop(pid, None)
            if worker is not None:
                self._hear(worker)
                if worker.ready_fd >= 0:
                    self.poll.unregister(worker.ready_fd)
                worker.close()
                self.shared.clear_worker(worker.number)
                self._died(worker, status)

    def _died(self, worker: Worker, status: int) -> None:
        how = process.describe(status)
        why = worker.said.decode("utf-8", "replace")
        if how and worker.phase is not Phase.KILLED:
            self.journal.warning(f"process fastmta-{worker.number} pid {worker.pid} {how}")
            for line in why.splitlines():
                self.journal.fatal(f"fastmta-{worker.number}: {line}")
        if self.stopping:
            return
        if worker.generation != self.current.number or worker.phase not in (Phase.STARTING, Phase.READY):
            self._tell_to_adopt()
            return
        now = time.monotonic()
        slot = self.current.slots[worker.slot]
        slot.last_shard = worker.primary_shard
        if worker.became_ready and now - worker.became_ready > AT_ONCE:
            slot.failures = 0
        else:
            slot.failures += 1
        if slot.failures > 1:
            slot.not_before = now + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (slot.failures - 2))
            self.journal.warning(f"worker {worker.slot}: bad startup -- throttling")
        if not self.current.was_ready and not worker.became_ready and (why or slot.failures >= TRIES):
            self._give_up(why or f"process fastmta-{worker.number} {how or 'ended before it was ready'}")

    def _give_up(self, why: str) -> None:
        """The generation that was to take over cannot start: the one before goes on, if there is one."""
        if self.previous is None:
            self.failed = why
            self._stop(0)
            return
        broken, self.current, self.previous = self.current, self.previous, None
        for worker in self.workers.values():
            if worker.generation == broken.number:
                self._stop_worker(worker)
        self.listeners.keep(self.current.bound)
        self._refuse_reload(why)

    # What is to be done

    def _reconcile(self) -> None:
        now = time.monotonic()
        if now >= self.next_tick:
            self.next_tick = now + TICK
            self.journal.poll()
        for worker in self.workers.values():
            if worker.deadline and now >= worker.deadline:
                self._time_is_up(worker)
        if self.stopping:
            return
        mine = {worker.slot: worker for worker in self._at_work(self.current)}
        missing = [number for number in range(len(self.current.slots)) if number not in mine]
        for number in missing:
            if now >= self.current.slots[number].not_before:
                self._start_worker(number, self.current.slots[number])
        ready = sum(worker.phase is Phase.READY for worker in mine.values())
        starved = sum(self.current.slots[number].starved for number in missing)
        if ready == len(self.current.slots):
            if not self.current.was_ready:
                self._take_over()
        elif starved and ready + starved == len(self.current.slots):
            self._make_room(starved, ready)

    def _at_work(self, generation: Generation) -> list[Worker]:
        return [
            worker
            for worker in self.workers.values()
            if worker.generation == generation.number and worker.phase in (Phase.STARTING, Phase.READY)
        ]

    def _start_worker(self, number: int, slot: Slot) -> None:
        """Fork a worker for a slot, or note when to try again."""
        generation = self.current
        shard = shards.choose(
            number,
            len(generation.slots),
            generation.shards,
            [worker.primary_shard for worker in self.workers.values()],
            lambda shard: shards.is_locked(self.spool.shard(shard)),
            slot.last_shard,
        )
        now = time.monotonic()
        slot.starved = shard is None or len(self.workers) >= COLUMNS
        if shard is None or slot.starved:
            slot.not_before = now + SHARD_PAUSE
            return
        make = partial(self._assignment, number, shard)
        try:
            self.spool.make_shard(shard, generation.identity)
            worker = process.fork(make, self.run_worker, self._leave, now)
        except OSError as error:
            self.journal.warning(f"cannot start a worker: {error}")
            slot.not_before = now + 1.0
            return
        self.workers[worker.pid] = worker
        self.poll.register(worker.ready_fd, select.POLLIN)

    def _assignment(self, slot: int, shard: int, ready_fd: int, control_fd: int) -> Assignment:
        generation = self.current
        return Assignment(
            config=generation.config,
            generation=generation.number,
            number=shards.smallest_free(worker.number for worker in self.workers.values()),
            slot=slot,
            slots=len(generation.slots),
            listeners=generation.bound,
            shared=self.shared,
            primary_shard=shard,
            ready_fd=ready_fd,
            control_fd=control_fd,
            identity=generation.identity,
            log=generation.log,
        )

    def _leave(self) -> None:
        """In a new worker: close what is the master's own."""
        for worker in self.workers.values():
            worker.close()
        self.listeners.keep(self.current.bound)
        for fd in (self.wake_read, self.wake_write, self.spool.lock_fd):
            os.close(fd)
        self.journal.close()

    def _take_over(self) -> None:
        """All of the current generation accepts: the older ones may go."""
        first = self.current.number == 1
        self.current.was_ready = True
        self.previous = None
        self.listeners.leave(self.current.bound)  # before the workers do, who accept what still waits there
        for worker in self.workers.values():
            if worker.generation != self.current.number:
                self._drain_worker(worker)
        if first:
            self._publish()
            self.up()
        else:
            self.reloads += 1
            self.error = ""

    def _make_room(self, missing: int, ready: int) -> None:
        """No shard is free: old workers have to leave theirs, but somebody has to accept meanwhile."""
        if any(worker.phase in (Phase.DRAINING, Phase.STOPPING) for worker in self.workers.values()):
            return
        old = [w for w in self.workers.values() if w.generation != self.current.number and w.phase is Phase.READY]
        for worker in old[: max(1, min(missing, len(old) + ready - 1))]:
            self._drain_worker(worker)

    def _tell_to_adopt(self) -> None:
        for worker in self._at_work(self.current):
            worker.tell(ADOPT)

    # Reload

    def _reload(self) -> None:
        if self.stopping:
            return
        self.journal.poll()
        try:
            interfaces.cache_clear()  # this host may have other addresses by now
            config = load(self.directory)
            generation = plan(self.generations + 1, config, self.directory)
            surroundings = environment.imported(config, os.environ)
            if generation.queue_directory != self.spool.directory:
                raise ConfigError("", 0, "queue_directory", "it cannot be changed by a reload: stop and start")
            self.spool.prepare(generation.identity, generation.public_gid)
            generation.bound = self.listeners.bind(config, generation.backlog)
        except (ConfigError, IdentityError, OSError) as error:
            self._refuse_reload(str(error))
            return
        environment.become(surroundings)
        self.journal.close()
        self.journal = Journal(generation.log)
        self.journal.info(f"reload -- version {fastmta.__version__}, configuration {self.directory}")
        self._report([*config.warnings, *config.report()])
        self.generations += 1
        if self.previous is None:
            self.previous = self.current
        else:  # the generation that this one overtakes was not complete yet
            for worker in self._at_work(self.current):
                self._drain_worker(worker)
        self.current = generation
        freeze()

    def _refuse_reload(self, why: str) -> None:
        self.journal.error(f"reload: {why}")
        self.journal.warning("the configuration is not changed")
        self.error = why
        self.reloads += 1

    # The end of a worker, and of all

    def _drain_worker(self, worker: Worker) -> None:
        if worker.phase in (Phase.STARTING, Phase.READY):
            worker.tell(DRAIN)
            worker.phase = Phase.DRAINING
            timeout = self.current.drain_timeout
            worker.deadline = time.monotonic() + timeout if timeout else 0.0

    def _stop_worker(self, worker: Worker) -> None:
        if worker.phase in (Phase.STOPPING, Phase.KILLED):
            return
        if worker.phase is Phase.STARTING:
            os.kill(worker.pid, signal.SIGTERM)
        worker.tell(STOP)
        worker.phase = Phase.STOPPING
        worker.deadline = time.monotonic() + self.current.stop_timeout + GRACE

    def _time_is_up(self, worker: Worker) -> None:
        if worker.phase is Phase.DRAINING:
            self._stop_worker(worker)
            return
        self.journal.warning(f"process fastmta-{worker.number} pid {worker.pid} does not stop: killing it")
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        worker.phase = Phase.KILLED
        worker.deadline = 0.0
        os.kill(worker.pid, signal.SIGKILL)

    def _stop(self, number: int) -> None:
        if number:
            self.journal.info(f"terminating on signal {number}")
        self.stopping = True
        self.listeners.close()
        for worker in self.workers.values():
            self._stop_worker(worker)

    def _abort(self, number: int) -> None:
        self.journal.info(f"aborting on signal {number}")
        self.stopping = True
        self.listeners.close()
        for worker in self.workers.values():
            self._kill(worker)

    def _kill_all(self) -> None:
        """On our own failure: leave no worker behind."""
        for worker in self.workers.values():
            self._kill(worker)
            os.waitpid(worker.pid, 0)

    def _publish(self) -> None:
        state = State(
            pid=os.getpid(),
            version=fastmta.__version__,
            config_directory=str(self.directory),
            generation=self.current.number,
            reloads=self.reloads,
            error=self.error,
            listening=self.listeners.addresses(),
            workers=[(w.number, w.pid, w.generation, w.phase.value) for w in self.workers.values()],
        )
        if state != self.state:
            self.state = state
            try:
                self.spool.publish(state)
            except OSError as error:  # a full disk: mail goes on without it
                self.state = None
                self.journal.warning(f"cannot publish what `fastmta status` shows: {error}")


def _noted(number: int, frame: object) -> None:
    """A signal's handler: its number is in the wakeup pipe already."""


def raise_file_limit() -> None:
    """As many open files as the system allows this process: a session is a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() == 0 and hard != resource.RLIM_INFINITY and hard < WANTED_FILES:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (WANTED_FILES, WANTED_FILES))
            return
        except (ValueError, OSError):  # root of a container need not have that power
            pass
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
