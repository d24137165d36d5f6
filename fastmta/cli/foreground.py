"""`fastmta start-fg`: runs the master in this process until it is stopped, for containers and for a look at it.

Logs to maillog_file, which may be /dev/stdout. SIGTERM and Ctrl-C stop it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastmta.cli import check, script
from fastmta.cli.start import RUNNING
from fastmta.config import ConfigError, load
from fastmta.master import daemon, spool
from fastmta.master.supervisor import StartError


def main(directory: Path, arguments: list[str]) -> int:
    """Start, and stay."""
    return stay(directory, lambda: None)


def stay(directory: Path, up: Callable[[], None]) -> int:
    """Start, call up once the mail system accepts mail, and stay until it is stopped."""
    try:
        config = load(directory)
        if spool.running(config.queue_directory) is not None:
            return script.fatal(RUNNING)
        check.warn(directory, config)
        script.info(f"starting {script.SYSTEM}")
        daemon.foreground(directory, up)
    except (ConfigError, OSError) as error:
        return script.fatal(str(error))
    except StartError as error:
        script.fatal(str(error))
        return script.fatal("mail system startup failed")
    return 0
