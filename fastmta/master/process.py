"""One worker process as the master sees it: fork, state, what it said, how it ended.

Used by master/supervisor.py. The fork is the delicate part: a signal that comes between the fork and the child's own
set-up must not reach the master's handlers in the child, and the child must not keep the master's ends of any pipe, or
nobody would ever see them close. Raises OSError when no process can be made.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn

import msgspec

from fastmta.master.assignment import Assignment
from fastmta.observe.log import Log

Run = Callable[[Assignment], object]

OURS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD)
IGNORED: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)


class Phase(enum.Enum):
    """Where a worker is in its life."""

    STARTING = "starting"  # forked, does not accept yet
    READY = "ready"
    DRAINING = "draining"  # told to finish at leisure
    STOPPING = "stopping"  # told to finish in time
    KILLED = "killed"


class Worker(msgspec.Struct, eq=False):
    """A live worker process. Times are of the monotonic clock."""

    pid: int
    number: int
    slot: int
    generation: int
    primary_shard: int
    control_fd: int
    ready_fd: int
    born: float
    phase: Phase = Phase.STARTING
    became_ready: float = 0.0
    deadline: float = 0.0  # when its time is up; 0 = never
    said: bytes = b""  # over the ready pipe

    def tell(self, command: bytes) -> None:
        """Write a command to its control pipe. A worker that is dead by now is found out soon enough."""
        with contextlib.suppress(OSError):
            os.write(self.control_fd, command)

    def close(self) -> None:
        """Close the master's ends of its pipes."""
        for fd in (self.control_fd, self.ready_fd):
            if fd >= 0:
                os.close(fd)
        self.control_fd = self.ready_fd = -1


def fork(make: Callable[[int, int], Assignment], run: Run, leave: Callable[[], None], born: float) -> Worker:
    """Fork a worker.

    make(ready_fd, control_fd) gives its assignment; leave closes, in the child, all that is the master's own.
    """
    ready_read, ready_write = os.pipe()
    control_read, control_write = os.pipe()
    os.set_blocking(ready_read, False)
    os.set_blocking(control_read, False)
    os.set_blocking(control_write, False)
    assignment = make(ready_write, control_read)
    sys.stdout.flush()
    sys.stderr.flush()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, OURS)
    try:
        pid = os.fork()
        if pid == 0:
            os.close(ready_read)
            os.close(control_write)
            _child(assignment, run, leave, blocked)
    except OSError:
        os.close(ready_read)
        os.close(control_write)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(ready_write)
        os.close(control_read)
    return Worker(
        pid=pid,
        number=assignment.number,
        slot=assignment.slot,
        generation=assignment.generation,
        primary_shard=assignment.primary_shard,
        control_fd=control_write,
        ready_fd=ready_read,
        born=born,
    )


def _child(assignment: Assignment, run: Run, leave: Callable[[], None], mask: Iterable[int]) -> NoReturn:
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in OURS:
            signal.signal(number, signal.SIG_DFL)
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        leave()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(f"fastmta-{assignment.number}")
        run(assignment)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException as error:
        text = traceback.format_exc() if _is_bug(error) else str(error)
        with contextlib.suppress(OSError):
            os.write(assignment.ready_fd, text.encode("utf-8", "replace")[-4000:])
            os.close(assignment.ready_fd)
            text = ""
        if text:  # it was ready, so the master does not listen any more
            _log(assignment, text)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _log(assignment: Assignment, text: str) -> None:
    log = Log(assignment.log)
    for line in text.splitlines():
        log.panic("master", line)
    log.close()


def _is_bug(error: BaseException) -> bool:
    """Whether the text alone would not tell the administrator what is wrong."""
    return not (isinstance(error, OSError) or type(error).__module__.startswith("fastmta."))


def describe(status: int) -> str:
    """How a process ended, in Postfix's words; "" when as it should."""
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    return f"exit status {code}" if code else ""
