"""Runs the master: in this process, or as a daemon whose parent waits until the mail system is up.

Called by cli/start.py and cli/foreground.py. The daemon reports over a pipe: UP, or the text of what went wrong; then
it closes it. Raises StartError.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastmta.master.preload import preload
from fastmta.master.supervisor import StartError, Supervisor

if TYPE_CHECKING:
    from fastmta._ext.shared import SharedTable
    from fastmta.master.assignment import Assignment

UP: Final = b"\0"


def foreground(directory: Path, up: Callable[[], None]) -> None:
    """Run the master in this process until it is stopped; up is called once when it accepts mail."""
    Supervisor(directory, _run_worker, _prepare, up).run()


def start(directory: Path) -> int:
    """Run the master as a daemon; returns its process id once all workers accept."""
    report_read, report_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(report_read)
        _daemon(directory, report_write)
    os.close(report_write)
    with open(report_read, "rb", buffering=0) as report:
        # Workers have the other end open as well: its end of file may come late.
        told = report.read(1)
        if told != UP:
            told += report.read()
    if told == UP:
        return pid
    os.waitpid(pid, 0)
    raise StartError(told.decode("utf-8", "replace") or "the master ended without a word: see the log")


def _daemon(directory: Path, report: int) -> None:
    """The child of `start`; never returns."""
    status = 1
    try:
        os.setsid()
        _leave_terminal(report)

        def up() -> None:
            os.write(report, UP)
            os.close(report)

        foreground(directory, up)
        status = 0
    except StartError as error:
        _tell(report, str(error))
    except BaseException:
        _tell(report, traceback.format_exc())
    finally:
        os._exit(status)


def _tell(report: int, text: str) -> None:
    """Report an error. Once the mail system was up nobody listens any more, and it is in the log."""
    with contextlib.suppress(OSError):
        os.write(report, text.encode("utf-8", "replace"))


def _leave_terminal(report: int) -> None:
    """Keep nothing that the caller may wait for: its terminal, pipes of its output, files that it left open."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, report)
    os.closerange(report + 1, 4096)


def _run_worker(assignment: Assignment) -> None:
    from fastmta.master.worker import run

    run(assignment)


def _prepare() -> SharedTable:
    """Load all that workers need, and make the table that they share."""
    preload()
    from fastmta._ext.shared import SharedTable

    return SharedTable.create()
