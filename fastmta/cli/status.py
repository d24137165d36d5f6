"""`fastmta status`: exit status 0 when the mail system runs, 1 when it does not."""

from __future__ import annotations

from pathlib import Path

from fastmta.cli import script
from fastmta.config import ConfigError, load
from fastmta.master import spool


def main(directory: Path, arguments: list[str]) -> int:
    """Tell whether it runs; where it does, what the master tells about itself."""
    try:
        queue_directory = load(directory).queue_directory
        pid = spool.running(queue_directory)
        state = spool.read_state(queue_directory)
    except (ConfigError, OSError) as error:
        return script.fatal(str(error))
    if pid is None:
        script.info(f"{script.SYSTEM} is not running")
        return 1
    script.info(f"{script.SYSTEM} is running: PID: {pid}")
    if state is not None and state.pid == pid:
        script.info(f"version {state.version}, configuration {state.config_directory}")
        script.info(f"listening at {', '.join(state.listening)}")
        for number, worker, generation, phase in sorted(state.workers):
            script.info(f"worker {number}: PID: {worker}, generation {generation}, {phase}")
        if state.error:
            script.warning(f"the last reload failed: {state.error}")
    return 0
