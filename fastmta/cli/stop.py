"""`fastmta stop`: returns after deliveries under way have ended or their time (fastmta_stop_timeout) is up.

`end` also serves `fastmta abort`. The end of the master, which ends last, is waited for by its pidfd.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from fastmta.cli import script
from fastmta.config import ConfigError, load
from fastmta.master import spool


def main(directory: Path, arguments: list[str]) -> int:
    """Stop in order."""
    return end(directory, signal.SIGTERM, "stopping")


def end(directory: Path, number: signal.Signals, doing: str) -> int:
    """Send the master that signal and wait until it is gone."""
    try:
        queue_directory = load(directory).queue_directory
        pid = spool.running(queue_directory)
        if not pid:
            return script.fatal(f"{script.SYSTEM} is not running")
        script.info(f"{doing} {script.SYSTEM}")
        _signal_and_wait(pid, number)
    except (ConfigError, OSError) as error:
        return script.fatal(str(error))
    return 0


def _signal_and_wait(pid: int, number: signal.Signals) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(process, number)
        gone = select.poll()
        gone.register(process, select.POLLIN)
        gone.poll()
    except ProcessLookupError:
        return
    finally:
        os.close(process)
