"""`fastmta reload`: new workers on the new configuration; returns once they accept, or says why the old ones stay."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

from fastmta.cli import check, script
from fastmta.config import ConfigError, load
from fastmta.master import spool

PATIENCE: Final = 60.0  # seconds for the new workers to be ready
INTERVAL: Final = 0.02


def main(directory: Path, arguments: list[str]) -> int:
    """Reload and wait for the answer."""
    try:
        config = load(directory)
        queue_directory = config.queue_directory
        pid = spool.running(queue_directory)
        if not pid:
            return script.fatal(f"{script.SYSTEM} is not running")
        before = spool.read_state(queue_directory)
        check.warn(directory, config)
        script.info(f"refreshing {script.SYSTEM}")
        os.kill(pid, signal.SIGHUP)
    except (ConfigError, OSError) as error:
        return script.fatal(str(error))
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        state = spool.read_state(queue_directory)
        if state is not None and before is not None and state.reloads > before.reloads:
            return script.fatal(state.error) if state.error else 0
        if spool.running(queue_directory) != pid:
            return script.fatal(f"{script.SYSTEM} ended")
        time.sleep(INTERVAL)
    return script.fatal("no new worker is ready yet: see the log")
