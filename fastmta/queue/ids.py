"""Queue ids: unique across shards, restarts and clocks that go backward.

A queue id is the time and a number (ext/records.pyx has both forms). The number is serial * 16 + shard; the serial
grows by one with each id and never repeats: a file holds the first serial that was not yet reserved, and is written,
durably, before the serials of a block are used. Used by queue/shard.py; raises OSError.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from fastmta._ext.records import long_id, short_id

SHARDS_MOST: Final = 16
BLOCK: Final = 1 << 16
FIRST_SERIAL: Final = 0x1000


class Serials:
    """The serials of one shard."""

    def __init__(self, directory: Path, shard: int, long_form: bool, floor: int = FIRST_SERIAL) -> None:
        """floor: no serial below it, for a shard whose file was lost."""
        self._file = directory / "serial"
        self._shard = shard
        self._make = long_id if long_form else short_id
        try:
            self._next = max(int(self._file.read_text("ascii")), floor)
        except (FileNotFoundError, ValueError):
            self._next = floor
        self._reserved = self._next

    def new_id(self, now: float) -> str:
        """A queue id that there never was."""
        serial = self._next
        if serial >= self._reserved:
            self._reserve(serial + BLOCK)
        self._next = serial + 1
        return self._make(now, serial * SHARDS_MOST + self._shard)

    def _reserve(self, end: int) -> None:
        temporary = self._file.with_name("serial.new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"%d\n" % end)
            os.fdatasync(fd)
        finally:
            os.close(fd)
        temporary.replace(self._file)
        directory = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._reserved = end

    def close(self) -> None:
        """Give back what was reserved and not used."""
        if self._reserved != self._next:
            self._reserve(self._next)
