"""Brings the index of a shard up to date from its log at start, or makes it anew; finds damage and torn ends.

Used by queue/shard.py, as a chore. The index is trusted when a check in a process of its own (indexcheck.py: a damaged
LMDB file can crash who reads it) finds it whole, and it was closed cleanly or written since the machine started. Then
the log is read from the position that the index covers, else from its beginning.

Damage: a stretch that cannot be read, before the `base` of a later record, is set aside and reported; one after it is
the torn end of a batch that nobody was told to be accepted, and goes without a word. Raises OSError, lmdb.Error.
"""

from __future__ import annotations

import os
import shutil
import signal
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Final, TypeAlias

import lmdb
import msgspec

from fastmta._ext.records import DAMAGE, FIRST_RECORD, MESSAGE, MOVED, OUTCOME, REMOVE, parse_segment_header
from fastmta.model.message import Place
from fastmta.queue import indexcheck
from fastmta.queue.behind import Behind
from fastmta.queue.chores import PAUSE, Chore
from fastmta.queue.index import VERSION, Index, IndexDamaged, Meta
from fastmta.queue.indexcheck import Verdict
from fastmta.queue.model import Entry, decode_message, decode_moved, decode_outcome, decode_remove
from fastmta.queue.segments import Segments
from fastmta.queue.settings import QueueSettings

OVERLAY: Final = 1000
OPENINGS: Final = 4  # without a write in between
INDEX_OPENED: Final = "index-opened"  # beside the index: a byte for each opening since the last write
STEP: Final = 32
Record: TypeAlias = tuple[int, int, int, bytes]


class Recovery:
    """One recovery: `index` is there when run() has ended."""

    def __init__(
        self,
        directory: Path,
        segments: Segments,
        settings: QueueSettings,
        behind: Behind,
        boot_id: str,
        notify: Callable[[str], None],
    ) -> None:
        """directory: of the index. Nothing happens before run()."""
        self.index: Index
        self._directory = directory
        self._opened_file = directory.with_name(INDEX_OPENED)
        self._segments = segments
        self._settings = settings
        self._behind = behind
        self._boot_id = boot_id
        self._notify = notify
        self._check = 0  # process id of the check that runs
        self._limit = behind.position
        self._overlay: dict[str, Entry | None] = {}
        self._opened = False

    def run(self, trust_index: bool, count: bool) -> Chore:
        """Recover. count: the segments' live counters are to be found too (at the start; later they are known).

        Raises OSError, lmdb.Error, such as when the disk is full: it may be called again after stop().
        """
        self._overlay.clear()
        old = [number for number in sorted(self._segments) if (number, 0) < self._limit]
        if count:
            self._count_anew(old)
            if old:  # a process that was killed may have written what it did not sync: nothing may build on that
                yield from self._segments.sync(old[-1])
        verdict: Verdict | None = None
        if old and trust_index and (self._directory / "data.mdb").exists():
            verdict = yield from self._verdict()
        start = (0, 0)
        if verdict is not None:
            start = self._open(verdict)
        if start == (0, 0):
            self._wipe()
        if start != (0, 0) and verdict is not None and count:
            for number, (live, live_bytes) in verdict.segments.items():
                segment = self._segments.get(number)
                if segment is not None:
                    segment.live, segment.live_bytes = live, live_bytes
        try:
            yield from self._replay(old, start, count)
        except (IndexDamaged, lmdb.Error) as error:
            if isinstance(error, lmdb.DiskError | lmdb.MapFullError):
                raise
            self._notify(f"queue shard {self._segments.shard}: index damaged ({error}): making it anew")
            self._wipe()
            self._overlay.clear()
            if count:
                self._count_anew(old)
            yield from self._replay(old, (0, 0), count)
        self._behind.covered = self._limit

    def _count_anew(self, old: list[int]) -> None:
        for number in old:
            segment = self._segments[number]
            segment.live = segment.live_bytes = 0

    def stop(self) -> None:
        """Give up in the middle: what is done is done, the rest is for the next time."""
        if self._check:
            os.kill(self._check, signal.SIGKILL)
            os.waitpid(self._check, 0)
            self._check = 0
        if self._opened:
            self.index.close()
            self._opened = False

    # The index

    def _verdict(self) -> Generator[int, None, Verdict | None]:
        # A fork, no program: a worker that gave up root may not be able to read the interpreter's files.
        read_end, write_end = os.pipe()
        with warnings.catch_warnings():
            # It warns of threads: the commit thread shares nothing with the child.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            indexcheck.report(self._directory, write_end)
        os.close(write_end)
        self._check = pid
        os.set_blocking(read_end, False)
        answer = b""
        with open(read_end, "rb", buffering=0) as pipe:
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0:
                answer += pipe.read() or b""
                yield PAUSE
            self._check = 0
            answer += pipe.read() or b""
        try:
            verdict = msgspec.json.decode(answer, type=Verdict)
        except msgspec.DecodeError:
            verdict = Verdict(f"the check ended with status {os.waitstatus_to_exitcode(ended[1])}")
        if verdict.problem:
            self._notify(f"queue shard {self._segments.shard}: index damaged ({verdict.problem}): making it anew")
            return None
        return verdict

    def _open(self, verdict: Verdict) -> tuple[int, int]:
        """Open the index that was found whole; returns from where on the log is not in it, (0, 0): it is of no use.

        Damage among its free pages shows only when it is written, and may be the end of the process: an index that was
        opened several times and never written since is of no use either.
        """
        with self._opened_file.open("ab") as opened:
            opened.write(b".")
        if self._opened_file.stat().st_size > OPENINGS:
            return 0, 0
        self.index = Index(self._directory, self._settings.index_map_size)
        self._opened = True
        meta = self.index.meta()
        if (
            meta is None
            or meta.segment > self._limit[0]
            or meta.version != VERSION
            or not (meta.clean or meta.boot_id == self._boot_id)
        ):
            return 0, 0
        with self.index:
            self.index.set_meta(Meta(VERSION, self._boot_id, meta.segment, meta.offset))
        self.index.sync()
        return meta.segment, meta.offset

    def _wipe(self) -> None:
        self._opened_file.unlink(missing_ok=True)
        if self._opened:
            self.index.close()
            self._opened = False
        shutil.rmtree(self._directory, ignore_errors=True)
        self.index = Index(self._directory, self._settings.index_map_size)
        self._opened = True
        with self.index:
            self.index.set_meta(Meta(VERSION, self._boot_id))
        self.index.sync()

    # The log

    def _replay(self, old: list[int], start: tuple[int, int], count: bool) -> Chore:
        for number in old:
            if number < start[0]:
                continue
            yield from self._replay_segment(number, start[1] if number == start[0] else FIRST_RECORD, old[-1], count)
            yield from self._flush((number, self._end(number)), count)
        yield from self._flush(self._limit, count)

    def _end(self, number: int) -> int:
        """How far a segment is read: what came since this recovery began is not its business."""
        return self._limit[1] if number == self._limit[0] else self._segments[number].size

    def _replay_segment(self, number: int, offset: int, newest: int, count: bool) -> Chore:
        """Read one segment.

        A batch counts as durable when a later one follows; of the last one each record is verified.
        """
        segments = self._segments
        size = self._end(number)
        newest_now = number == newest and count
        if size < FIRST_RECORD:
            return
        self._check_header(number, newest_now)
        scanner = segments.scanner(number, max(offset, FIRST_RECORD), size)
        durable = 0
        batch: list[Record] = []
        damaged: list[tuple[int, int]] = []
        steps = 0
        while (item := scanner.next()) is not None:
            kind, at, length, meta, base, _ = item
            if base > durable:
                durable = base
                for record in batch:
                    self._apply(number, *record)
                batch.clear()
                while damaged and damaged[0][0] < base:
                    segments.set_aside(number, *damaged.pop(0), "damaged")
            if kind == DAMAGE:
                damaged.append((at, length))
            else:
                batch.append((kind, at, length, meta))
            steps += 1
            if steps % STEP == 0:
                if len(self._overlay) >= OVERLAY:
                    yield from self._flush((number, durable), count)
                yield None
        end = self._known_end(number)
        for record in batch:
            if segments.read(Place(number, record[1], record[2])) is None:
                damaged.append((record[1], record[2]))
            else:
                self._apply(number, *record)
        for stretch in damaged:
            if stretch[0] < end:
                segments.set_aside(number, *stretch, "damaged")
        if newest_now and damaged and sum(damaged[-1]) >= size and damaged[-1][0] >= durable:
            segments.truncate(number, damaged[-1][0])

    def _check_header(self, number: int, newest_now: bool) -> None:
        if not newest_now and parse_segment_header(os.pread(self._segments.file(number), FIRST_RECORD, 0)) is None:
            self._notify(f"queue shard {self._segments.shard}: segment {number}: its header is damaged")

    def _known_end(self, number: int) -> int:
        """Where a segment ended, as the next one remembers it; 0 when it does not."""
        following = min((other for other in self._segments if other > number), default=None)
        if following is None:
            return 0
        header = parse_segment_header(os.pread(self._segments.file(following), FIRST_RECORD, 0))
        return 0 if header is None else header[4]

    def _apply(self, number: int, kind: int, at: int, length: int, meta: bytes) -> None:
        try:
            if kind == MESSAGE:
                envelope, state = decode_message(meta)
                self._overlay[envelope.queue_id] = Entry(number, at, length, number, envelope, state)
            elif kind == REMOVE:
                queue_id, home = decode_remove(meta)
                entry = self._known(queue_id)
                if entry is not None and entry.segment == home:
                    self._overlay[queue_id] = None
            elif kind == OUTCOME:
                queue_id, home, new_state = decode_outcome(meta)
                entry = self._known(queue_id)
                if entry is not None and entry.segment == home:
                    entry.state_segment = number
                    entry.state = new_state
                    self._overlay[queue_id] = entry
            elif kind == MOVED:
                envelope, state, _ = decode_moved(meta)
                self._overlay[envelope.queue_id] = Entry(number, at, length, number, envelope, state)
        except msgspec.DecodeError as error:
            self._segments.set_aside(number, at, length, f"not understood ({error})")

    def _known(self, queue_id: str) -> Entry | None:
        try:
            return self._overlay[queue_id]
        except KeyError:
            return self.index.get(queue_id)

    def _flush(self, position: tuple[int, int], count: bool) -> Chore:
        """Write what was found, and then that the index covers the log up to there."""
        segments, index = self._segments, self.index
        found = list(self._overlay.items())
        for start in range(0, len(found), STEP):
            with index:
                for queue_id, entry in found[start : start + STEP]:
                    former = index.delete(queue_id) if entry is None else index.put(entry)
                    if count and former is not None:
                        segments.count_out(former.segment, former.length)
                    if count and entry is not None:
                        segments.count_in(entry.segment, entry.length)
            yield None
        self._overlay.clear()
        with index:
            index.set_meta(Meta(VERSION, self._boot_id, *position))
        index.trim(4000)
