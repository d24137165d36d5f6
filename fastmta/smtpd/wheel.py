"""One coarse timer for all sessions of a worker: each notes when it was last active, the wheel looks once a second.

smtpd/protocol.py adds a session when it begins. Being active costs a session one assignment; the wheel looks at it
again only when its time could be up. A timeout comes up to two seconds late, never early. Raises nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Timed(Protocol):
    """active is the wheel's `now` when the session last did something; timeout in seconds, 0 for none."""

    active: int
    timeout: int

    def timed_out(self) -> None:
        """Called once the session was inactive for timeout seconds. It stays on the wheel until removed."""


class Wheel:
    """Ticks while there is something on it."""

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        """call_later is that of the loop."""
        self.now = 0
        self._call_later = call_later
        self._slots: dict[int, set[Timed]] = {}
        self._place: dict[Timed, int] = {}
        self._ticking = False

    def __len__(self) -> int:
        """How many are on it."""
        return len(self._place)

    def add(self, item: Timed) -> None:
        """From now on."""
        item.active = self.now
        self._put(item)
        if not self._ticking:
            self._ticking = True
            self._call_later(1.0, self.tick)

    def remove(self, item: Timed) -> None:
        """No longer; nothing happens where it is not there."""
        slot = self._place.pop(item, None)
        if slot is not None and slot in self._slots:
            self._slots[slot].discard(item)

    def _put(self, item: Timed) -> None:
        # one more than the timeout, since a second that has begun does not count
        slot = max(item.active + (item.timeout or 3600) + 1, self.now + 1)
        self._slots.setdefault(slot, set()).add(item)
        self._place[item] = slot

    def tick(self) -> None:
        """A second went by."""
        self.now += 1
        try:
            for item in self._slots.pop(self.now, ()):
                if self._place.get(item) == self.now:
                    self._look(item)
        finally:
            self._ticking = bool(self._place)
            if self._ticking:
                self._call_later(1.0, self.tick)

    def _look(self, item: Timed) -> None:
        """Its time could be up."""
        over = item.timeout and self.now - item.active > item.timeout
        if over:
            item.active = self.now
        self._put(item)
        if over:
            item.timed_out()
