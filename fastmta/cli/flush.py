"""`fastmta flush`: every deferred message is tried again now."""

from __future__ import annotations

from pathlib import Path

from fastmta.cli import script
from fastmta.config import ConfigError, load
from fastmta.master import spool


def main(directory: Path, arguments: list[str]) -> int:
    """Ask every worker to flush its queue."""
    from fastmta.admin import client
    from fastmta.admin.protocol import FLUSH, Request

    try:
        queue_directory = load(directory).queue_directory
        if spool.running(queue_directory) is None:
            return script.fatal(f"{script.SYSTEM} is not running")
        client.ask_all(queue_directory, Request(FLUSH))
    except (ConfigError, OSError, client.UnreachableError, client.NotAllowedError, client.RefusedError) as error:
        return script.fatal(str(error))
    return 0
