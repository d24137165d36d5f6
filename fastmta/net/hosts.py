"""/etc/hosts, as the native name service reads it first: names to addresses and back.

Called by deliver/route.py (smtp_host_lookup = native) and net/clientname.py. The file is read again when it has
changed, at most once a second. Raises nothing: an unreadable file is an empty one. hosts(5).
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable
from pathlib import Path


class HostsFile:
    """One hosts file."""

    def __init__(self, path: Path = Path("/etc/hosts"), clock: Callable[[], float] = time.monotonic) -> None:
        """The file is read at the first question."""
        self._path = path
        self._clock = clock
        self._checked = -10.0
        self._stamp: tuple[int, int] | None = None
        self._addresses: dict[str, list[str]] = {}
        self._names: dict[str, str] = {}

    def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a name, in the order of the file; none when it is not there."""
        self._refresh()
        return tuple(self._addresses.get(name.lower().rstrip("."), ()))

    def name(self, address: str) -> str | None:
        """The first name of an address (in canonical text form)."""
        self._refresh()
        return self._names.get(address)

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked < 1.0:
            return
        self._checked = now
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._stamp:
                return
            text = self._path.read_text("utf-8", "replace")
        except OSError:
            stamp, text = None, ""
        self._stamp = stamp
        self._addresses, self._names = {}, {}
        for line in text.splitlines():
            words = line.split("#", 1)[0].split()
            if len(words) < 2:
                continue
            try:
                address = str(ipaddress.ip_address(words[0].partition("%")[0]))
            except ValueError:
                continue
            self._names.setdefault(address, words[1])
            for word in words[1:]:
                known = self._addresses.setdefault(word.lower(), [])
                if address not in known:
                    known.append(address)
