"""The log of the master: from parameters to observe.log's settings, which workers use as well.

Used by master/supervisor.py and master/worker.py. The master has no event loop: its lines are written at once. A
maillog_file that does not exist is made by the master, mail_owner's, because a worker could not do so in a folder of
root's. Raises ConfigError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmta.config import ConfigError
from fastmta.master.identity import Identity
from fastmta.observe.log import Log, LogConfigError, LogSettings, check

if TYPE_CHECKING:
    from fastmta.config import Config


def log_settings(config: Config, identity: Identity) -> LogSettings:
    """The settings of every process of this configuration."""
    settings = LogSettings(
        maillog_file=config.get_str("maillog_file"),
        maillog_file_prefixes=config.get_list("maillog_file_prefixes"),
        myhostname=config.get_str("myhostname"),
        syslog_name=config.get_str("syslog_name"),
        syslog_facility=config.get_str("syslog_facility"),
        owner=identity.uid if identity.change else -1,
    )
    try:
        check(settings)
    except LogConfigError as error:
        raise ConfigError(*config.where(error.parameter), error.parameter, str(error)) from None
    return settings


class Journal:
    """What the master says, as postfix/master[pid]."""

    def __init__(self, settings: LogSettings) -> None:
        """Open the log."""
        self._log = Log(settings)

    def info(self, text: str) -> None:
        """Log it as it is."""
        self._log.write("master", text)

    def warning(self, text: str) -> None:
        """Log "warning: text"."""
        self._log.warning("master", text)

    def error(self, text: str) -> None:
        """Log "error: text"."""
        self._log.error("master", text)

    def fatal(self, text: str) -> None:
        """Log "fatal: text"."""
        self._log.fatal("master", text)

    def poll(self) -> None:
        """Follow a log file that was renamed: to be called now and then."""
        self._log.poll()

    def close(self) -> None:
        """Close the log."""
        self._log.close()
