"""The highest connection, message and recipient rates, logged as anvil(8) does.

Every anvil_status_update_time, and at stop. The figures are those of all workers (`SharedTable.peaks` gives each to one
of them, once). Made by master/worker.py; one worker of a generation reports from time to time, every worker when it
ends, so that the last one leaves nothing untold. Raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from fastmta.observe import lines

COUNT: Final = "count"  # what SharedTable.peaks calls the connections at one time; the others are rates
ORDER: Final = ("connection", COUNT, "message", "recipient", "newtls", "auth")  # anvil's


class Peaks(Protocol):
    """The part of _ext.shared.SharedTable that is needed."""

    time_unit: float

    def peaks(self) -> list[tuple[str, int, str, int]]:
        """(what, value, "service:address", Unix time), and forget them."""


class LineLog(Protocol):
    """The part of observe.log.Log that is needed."""

    def write(self, service: str, line: str) -> None:
        """Log a line."""


class Timer(Protocol):
    """What call_later gives."""

    def cancel(self) -> None:
        """Do not call."""


class Statistics:
    """One worker's part in it."""

    def __init__(
        self, table: Peaks, log: LineLog, call_later: Callable[[float, Callable[[], None]], Any], interval: float
    ) -> None:
        """interval: anvil_status_update_time, in seconds; nothing runs before `start`."""
        self._table = table
        self._log = log
        self._call_later = call_later
        self._interval = interval
        self._timer: Timer | None = None

    def start(self) -> None:
        """Report from time to time."""
        self._timer = self._call_later(self._interval, self._tick)

    def stop(self) -> None:
        """Another generation does so from now on, or nobody."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.report()
        self.start()

    def report(self) -> None:
        """Log what is new."""
        for what, value, user, when in sorted(self._table.peaks(), key=lambda peak: ORDER.index(peak[0])):
            if what == COUNT:
                line = lines.statistics_count(value, user, when)
            else:
                line = lines.statistics_rate(what, value, int(self._table.time_unit), user, when)
            self._log.write("anvil", line)
