"""The segment files of a shard: which there are, what is alive in each, how to read a record back, what to set aside.

Used by queue/shard.py and its chores; the commit thread makes and fills the files. Reading raises OSError; a record
that is not what was written is None.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmta._ext.records import FIRST_RECORD, Scanner, parse_segment_header, read_record
from fastmta.model.message import Place
from fastmta.queue.chores import PAUSE, Chore

OPEN_FILES: Final = 16
COPY: Final = 1 << 20
REPORTS: Final = 100  # of damage, then every hundredth


class Segment:
    """One segment. live, live_bytes: messages that have their home in it.

    states: last OUTCOMEs of messages at home elsewhere; tombs: its tombstones by the segment that they are for, None
    when that is not known (written before the start).
    """

    __slots__ = ("live", "live_bytes", "number", "pinned", "size", "tombs")

    def __init__(self, number: int, size: int, tombs: dict[int, int] | None) -> None:
        """Nothing in it is alive yet."""
        self.number = number
        self.size = size
        self.live = 0
        self.live_bytes = 0
        self.tombs = tombs
        self.pinned = False  # it has something damaged of which there is no copy


class Segments(dict[int, Segment]):
    """Segments by number."""

    def __init__(self, shard: int, directory: Path, corrupt: Path, notify: Callable[[str], None]) -> None:
        """directory: of the log; corrupt: where what is damaged is put."""
        super().__init__()
        self.shard = shard
        self.directory = directory
        self._corrupt = corrupt
        self._notify = notify
        self._files: dict[int, int] = {}
        self._set_aside = 0
        self._thread: threading.Thread | None = None

    def load(self) -> None:
        """Find the files."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        found: list[tuple[int, int]] = []
        for item in os.scandir(self.directory):
            stem, _, ending = item.name.partition(".")
            if ending == "seg" and stem.isascii() and stem.isdigit():
                found.append((int(stem), item.stat().st_size))
        for number, size in sorted(found):
            self[number] = Segment(number, size, None)

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.directory / f"{number:010d}.seg"

    def grown(self, number: int, size: int) -> Segment:
        """The commit thread wrote up to there."""
        segment = self.get(number)
        if segment is None:
            segment = self[number] = Segment(number, size, {})
        elif size > segment.size:
            segment.size = size
        return segment

    def count_in(self, number: int, length: int) -> None:
        """A message of that length has its home there now."""
        segment = self.get(number)
        if segment is not None:
            segment.live += 1
            segment.live_bytes += length

    def count_out(self, number: int, length: int) -> None:
        """It no longer has."""
        segment = self.get(number)
        if segment is not None:
            segment.live -= 1
            segment.live_bytes -= length

    def file(self, number: int) -> int:
        """A descriptor to read from; one of a few that stay open."""
        fd = self._files.pop(number, None)
        if fd is None:
            fd = os.open(self.path(number), os.O_RDONLY | os.O_CLOEXEC)
            if len(self._files) >= OPEN_FILES:
                os.close(self._files.pop(next(iter(self._files))))
        self._files[number] = fd
        return fd

    def read(self, place: Place, with_content: bool = True) -> tuple[int, bytes, bytes] | None:
        """(kind, meta, content) of a record."""
        return read_record(self.file(place.segment), place.offset, place.length, with_content)

    def scanner(self, number: int, start: int = FIRST_RECORD, end: int | None = None) -> Scanner:
        """Walk a segment, to its end if no other is given; the header's salt when that is whole."""
        fd = self.file(number)
        header = parse_segment_header(os.pread(fd, FIRST_RECORD, 0))
        salt = header[2] if header is not None else 0
        return Scanner(fd, self[number].size if end is None else end, start, salt)

    def set_aside(self, number: int, offset: int, length: int, why: str) -> bool:
        """Copy a damaged stretch to the folder "corrupt", durably, and report it. False: that failed; the segment stays
        as long as it is open here.
        """
        name = f"shard-{self.shard:02d}-{number:010d}-{offset}"
        where = f"{length} bytes at {offset} set aside as corrupt/{name}"
        try:
            self._corrupt.mkdir(mode=0o700, exist_ok=True)
            with (self._corrupt / name).open("wb") as copy:
                fd = self.file(number)
                while length > 0 and (piece := os.pread(fd, min(length, COPY), offset)):
                    copy.write(piece)
                    offset += len(piece)
                    length -= len(piece)
                copy.flush()
                os.fsync(copy.fileno())
        except OSError as error:
            known = self.get(number)
            if known is not None:
                known.pinned = True
            self._notify(
                f"queue shard {self.shard}: segment {number}: {why}: cannot set corrupt/{name} aside: {error}: it stays"
            )
            return False
        self._set_aside += 1
        if self._set_aside <= REPORTS or self._set_aside % REPORTS == 0:
            self._notify(f"queue shard {self.shard}: segment {number}: {why}: {where} (number {self._set_aside})")
        return True

    def truncate(self, number: int, size: int) -> None:
        """Cut a torn end off."""
        os.truncate(self.path(number), size)
        self[number].size = size

    def unlink(self, number: int) -> Chore:
        """Remove a segment, durably. Ends when that is done. Raises OSError."""
        fd = self._files.pop(number, None)
        if fd is not None:
            os.close(fd)
        trouble: list[OSError] = []
        try:
            yield from self._in_thread(lambda: self._unlink(number), trouble)
        finally:  # who gives up waiting must know all the same what is there
            if not trouble:
                self.forget(number)
        if trouble:
            raise trouble[0]

    def _unlink(self, number: int) -> None:
        self.path(number).unlink(missing_ok=True)
        self.sync_directory()

    def sync(self, number: int) -> Chore:
        """Make a segment durable as it is, with its name. Ends when that is done. Raises OSError."""
        trouble: list[OSError] = []
        yield from self._in_thread(lambda: self._sync(number), trouble)
        if trouble:
            raise trouble[0]

    def _sync(self, number: int) -> None:
        fd = os.open(self.path(number), os.O_RDWR | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        self.sync_directory()

    def _in_thread(self, work: Callable[[], None], trouble: list[OSError]) -> Chore:
        """What takes milliseconds is done in a thread. Ends when it is done, also when nobody waits any more."""

        def run() -> None:
            try:
                work()
            except OSError as error:
                trouble.append(error)

        thread = self._thread = threading.Thread(target=run, name="segments", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                yield PAUSE
        finally:
            thread.join()

    def join(self) -> None:
        """Wait for the removal that is under way, if there is one."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def forget(self, number: int) -> None:
        """It is gone, durably, and so nothing needs a tombstone in it."""
        self.pop(number, None)
        for segment in self.values():
            if segment.tombs:
                segment.tombs.pop(number, None)

    def sync_directory(self) -> None:
        """Make the names durable."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Close all files, when what is being removed is gone."""
        self.join()
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
