"""`fastmta start`: returns once every socket answers and all workers are ready, or says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastmta.cli import check, script
from fastmta.config import ConfigError, load
from fastmta.master import daemon, spool
from fastmta.master.supervisor import StartError
from fastmta.observe.sinks import STDOUT

RUNNING: Final = f"{script.SYSTEM} is already running"


def main(directory: Path, arguments: list[str]) -> int:
    """Start as a daemon."""
    try:
        config = load(directory)
        if spool.running(config.queue_directory) is not None:
            return script.fatal(RUNNING)
        if config.get_str("maillog_file") == STDOUT:
            return script.fatal(f"maillog_file = {STDOUT} needs `fastmta start-fg`")
        check.warn(directory, config)
        script.info(f"starting {script.SYSTEM}")
        daemon.start(directory)
    except (ConfigError, OSError) as error:
        return script.fatal(str(error))
    except StartError as error:
        script.fatal(str(error))
        return script.fatal("mail system startup failed")
    return 0
