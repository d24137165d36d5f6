"""The log of a process: lines get their prefix, are gathered, and go out once per turn of the event loop.

Every part that has something to tell calls Log.write (or warning, error, fatal, panic) with a line of observe.lines. In
maillog_file a line begins "Nov 23 08:08:38 mx postfix/smtpd[123]: " as Postfix writes it; to syslog it goes without the
host, which syslogd adds. Nothing here raises into the caller or waits; lines that had to be dropped (full disk, dead
syslogd) are counted, and told when lines flow again. LogConfigError comes out of check() alone. Reference:
MAILLOG_README, postlogd(8), maillog_file*, syslog_name and syslog_facility in postconf(5).
"""

from __future__ import annotations

import atexit
import os
import time
import traceback
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from fastmta._ext.loglines import LineBuffer
from fastmta.observe.sinks import STDOUT, FileSink, SyslogSink

_INFO: Final = 6  # syslog severities
_WARNING: Final = 4
_ERROR: Final = 3
_FATAL: Final = 2

# syslog(3) facilities by name
FACILITIES: Final = {
    "auth": 4, "authpriv": 10, "cron": 9, "daemon": 3, "ftp": 11, "kern": 0, "lpr": 6, "mail": 2, "news": 7, "user": 1,
    "security": 4, "syslog": 5, "uucp": 8, "local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20,
    "local5": 21, "local6": 22, "local7": 23,
}  # fmt: skip

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class LogConfigError(Exception):
    """maillog_file or what belongs to it cannot work: which parameter, and why."""

    def __init__(self, parameter: str, message: str) -> None:
        """Name the parameter of main.cf and say what is wrong with it."""
        super().__init__(message)
        self.parameter = parameter


class LogSettings(msgspec.Struct, frozen=True):
    """From main.cf. An empty maillog_file means syslog.

    maillog_file_permissions are those of a new file; owner is the uid that it gets when we are root, so that an
    unprivileged worker can open it again (-1: as it comes).
    """

    maillog_file: str = ""
    maillog_file_permissions: int = 0o600
    maillog_file_prefixes: tuple[str, ...] = ("/var", STDOUT)
    myhostname: str = "localhost"
    syslog_name: str = "postfix"
    syslog_facility: str = "mail"
    syslog_path: str = "/dev/log"
    owner: int = -1


def check(settings: LogSettings) -> None:
    """Raise LogConfigError where the settings cannot work. Touches no file."""
    if settings.syslog_facility not in FACILITIES:
        raise LogConfigError("syslog_facility", f'unknown syslog facility "{settings.syslog_facility}"')
    name = settings.maillog_file
    if not name:
        return
    if not any(_under(name, prefix) for prefix in settings.maillog_file_prefixes):
        raise LogConfigError(
            "maillog_file", f"maillog_file value '{name}' does not match any prefix in maillog_file_prefixes"
        )
    if not name.startswith("/"):
        raise LogConfigError("maillog_file", f"maillog_file value '{name}' is not an absolute pathname")
    if not 0 < settings.maillog_file_permissions <= 0o777:
        raise LogConfigError("maillog_file_permissions", f"bad permissions {settings.maillog_file_permissions:o}")


def _under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip("/") + "/")


def ident(syslog_name: str, service: str) -> str:
    """What stands before "[pid]": "postfix/smtpd"; for a master.cf service with its own syslog_name hand this to
    write().
    """
    return f"{syslog_name}/{service}"


class _Sink(Protocol):
    dropped: int

    def put(self, data: bytes, second: int) -> None: ...
    def idle(self) -> bool: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


class Log:
    """The log of one process."""

    def __init__(
        self,
        settings: LogSettings,
        defer: Callable[[Callable[[], None]], object] | None = None,
        open_file: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the log.

        defer (loop.call_soon) runs a callable at the end of the loop turn; without it every line is written at once.
        open_file returns a descriptor of maillog_file, for a process that may not open it by name.
        """
        self._settings = settings
        self._defer = defer
        self._clock = clock
        self._buffer = LineBuffer()
        self._scheduled = False
        self._second = 0
        self._stamp = ""
        self._prefixes: dict[str, bytes] = {}  # of this second, by service
        self._tail = f"[{os.getpid()}]: "
        self._syslog = not settings.maillog_file
        self._facility = FACILITIES.get(settings.syslog_facility, 2) * 8
        self._host = settings.myhostname.partition(".")[0]
        self._sink: _Sink
        if self._syslog:
            self._sink = SyslogSink(settings.syslog_path)
        else:
            self._sink = FileSink(settings.maillog_file, settings.maillog_file_permissions, settings.owner, open_file)
        atexit.register(self.close)

    def write(self, service: str, line: str) -> None:
        """Log a line as "postfix/service[pid]: line"; a service with a "/" in it is the whole name (see ident)."""
        if not self._scheduled:
            self._begin()
        prefix = self._prefixes.get(service)
        if prefix is None:
            prefix = self._prefixes[service] = self._prefix(service, _INFO)
        self._buffer.append(prefix, line)
        if self._defer is None:
            self.flush()

    def warning(self, service: str, text: str) -> None:
        """Log "warning: text"."""
        self._severe(service, _WARNING, "warning: " + text)

    def error(self, service: str, text: str) -> None:
        """Log "error: text"."""
        self._severe(service, _ERROR, "error: " + text)

    def fatal(self, service: str, text: str) -> None:
        """Log "fatal: text"; ending the process is up to the caller."""
        self._severe(service, _FATAL, "fatal: " + text)

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        """Log "panic: text": a bug of ours; and the traceback of the exception that showed it."""
        self._severe(service, _FATAL, "panic: " + text)
        if error is not None:
            for line in "".join(traceback.format_exception(error)).splitlines():
                self._severe(service, _FATAL, "panic: " + line)

    def flush(self) -> None:
        """Write what was gathered, now."""
        self._scheduled = False
        sink = self._sink
        sink.put(self._buffer.take(), self._second)
        if sink.dropped and sink.idle():
            text = f"{sink.dropped} log lines were dropped: the log did not take them"
            sink.dropped = 0
            self._buffer.append(self._prefix("master", _WARNING), "warning: " + text)
            sink.put(self._buffer.take(), self._second)

    def poll(self) -> None:
        """Look at the file, and try again what could not be written; for a timer, about once a second."""
        self._begin_second()
        self.flush()

    def reopen(self) -> None:
        """Open the file or the connection anew: after a rotation, on reload."""
        self.flush()
        self._sink.reopen()

    def close(self) -> None:
        """Flush and close. Later lines are still written, each at once."""
        atexit.unregister(self.close)
        self._defer = None
        self._begin_second()
        self.flush()
        self._sink.close()

    def _severe(self, service: str, severity: int, line: str) -> None:
        if not self._syslog:  # in a file a line tells its severity in its text only
            self.write(service, line)
            return
        if not self._scheduled:
            self._begin()
        self._buffer.append(self._prefix(service, severity), line)
        if self._defer is None:
            self.flush()

    def _begin(self) -> None:
        """The first line of a loop turn: look at the clock, and see to it that the turn's lines go out."""
        self._begin_second()
        self._scheduled = True
        if self._defer is not None:
            self._defer(self._turn_ended)

    def _begin_second(self) -> None:
        second = int(self._clock())
        if second == self._second:
            return
        self._second = second
        self._prefixes.clear()
        t = time.localtime(second)
        clock = f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d}"
        if self._syslog:
            self._stamp = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2d} {clock} "
        else:
            self._stamp = f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:02d} {clock} {self._host} "

    def _turn_ended(self) -> None:
        if self._scheduled:
            self.flush()

    def _prefix(self, service: str, severity: int) -> bytes:
        name = service if "/" in service else ident(self._settings.syslog_name, service)
        priority = f"<{self._facility + severity}>" if self._syslog else ""
        return f"{priority}{self._stamp}{name}{self._tail}".encode("utf-8", "replace")
