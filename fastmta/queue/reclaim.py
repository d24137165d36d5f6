"""Gives disk space back: unlinks segments in which nothing is alive, moves the survivors out of mostly dead ones.

Used by queue/shard.py, as a chore after each write of the index. A segment may go when (1) no message has its home in
it, (2) no message has its last OUTCOME in it, both as the index knows it, which covers the segment; and (3) its
tombstones for segments that still exist were written anew and are durable. So a tombstone lives as long as what it
kills, and nothing comes back. Segments go in the order of their numbers, and the newest one stays: its number must
not be used again.

A message that is being moved may be changed or removed meanwhile; what was said about its old copy is then said again
about the new one. Raises OSError, IndexDamaged.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Final

from fastmta._ext.records import MOVED, REMOVE
from fastmta.model.message import Message, Place
from fastmta.queue.chores import Chore
from fastmta.queue.index import Index
from fastmta.queue.model import Entry, decode_moved, decode_remove, encode, message_of, state_of

if TYPE_CHECKING:
    from fastmta.queue.keeping import Keeping

ROWS: Final = 32
BYTES_AT_ONCE: Final = 16 << 20  # moved in one round
SEGMENTS_AT_ONCE: Final = 4
SMALL: Final = (
    8  # a segment shorter than 1/8 of the full size counts as that long: the many of many restarts are merged
)


class Reclaim:
    """Reclaims the segments of a shard.

    moving: messages whose MOVED record is not durable yet, and what came in between: "", "changed" or "removed".
    """

    def __init__(self, shard: Keeping) -> None:
        """Nothing happens before run()."""
        self.moving: dict[str, str] = {}
        self._shard = shard

    def due(self) -> bool:
        """Whether there is a segment to do something about."""
        return bool(self._chosen())

    def _chosen(self) -> list[int]:
        shard = self._shard
        segments, settings = shard.segments, shard.settings
        newest = min(shard.behind.covered[0], max(segments, default=0))
        floor = settings.segment_size // SMALL
        share = 1.0 - settings.dead_share
        return sorted(
            number
            for number, segment in segments.items()
            if number < newest and not segment.pinned and segment.live_bytes <= share * max(segment.size, floor)
        )[:SEGMENTS_AT_ONCE]

    def run(self, index: Index) -> Generator[int | None, None, bool]:
        """One round; whether it got anything done. What it moved is in the index after the next write only."""
        budget = BYTES_AT_ONCE
        dropped = False
        for number in self._chosen():
            segment = self._shard.segments[number]
            left = False
            after = b""
            while rows := index.in_segment(number, after, ROWS):
                left = True
                after = rows[-1][0]
                for _, entry in rows:
                    budget -= self._rescue(number, entry)
                yield None
                if budget <= 0:
                    return True
            if left or segment.live:
                continue
            yield from self._drop(number)
            dropped = dropped or number not in self._shard.segments
        return dropped or budget < BYTES_AT_ONCE

    def _rescue(self, number: int, entry: Entry) -> int:
        """Get out of that segment what this message has in it; returns how many bytes that took, 0: it stays."""
        shard = self._shard
        queue_id = entry.envelope.queue_id
        behind = shard.behind
        if queue_id in self.moving or queue_id in behind.removing or behind.is_changing(queue_id) or shard.log.failed:
            return 0
        message = behind.loaded.get(queue_id)
        if message is None:
            message = message_of(entry, shard.number)
        place = message.place
        if place is None:
            return 0
        if place.segment != number:
            if entry.state_segment == number:
                shard.rewrite(message)
                return 1
            return 0
        content = message.content
        if content is None:
            record = shard.segments.read(place)
            if record is None:
                return int(shard.give_up(message))
            content = [record[2]]
        meta = encode((message.envelope, state_of(message), number))

        def moved(new: Place | None, error: int) -> None:
            self._moved(message, place, new)

        self.moving[queue_id] = ""
        shard.submit(MOVED, meta, content, (None, moved))
        return place.length

    def _moved(self, message: Message, old: Place, new: Place | None) -> None:
        shard = self._shard
        queue_id = message.envelope.queue_id
        meanwhile = self.moving.pop(queue_id)
        place = new or old
        if new is not None:
            shard.segments.count_out(old.segment, old.length)
            tombs = shard.segments.grown(new.segment, 0).tombs
            if tombs is not None and old.segment in shard.segments:
                tombs[old.segment] = tombs.get(old.segment, 0) + 1
        if meanwhile == "removed":
            shard.bury(queue_id, place)
            return
        if new is None:
            return
        live = shard.giving.find(shard.index, queue_id)
        if live is None:
            return
        live.place = new
        shard.moved(live, new, meanwhile == "changed")

    def _drop(self, number: int) -> Chore:
        """Nothing is alive in it: take care of its tombstones, and unlink it."""
        shard = self._shard
        segments = shard.segments
        older = [other for other in segments if other < number]
        tombs = segments[number].tombs
        if older and (tombs is None or any(home in segments for home in tombs)):
            scanner = segments.scanner(number)
            steps = 0
            while (item := scanner.next()) is not None:
                kind, meta = item[0], item[3]
                if kind == REMOVE:
                    queue_id, home = decode_remove(meta)
                elif kind == MOVED:
                    envelope, _, home = decode_moved(meta)
                    queue_id = envelope.queue_id
                else:
                    home = number
                if home < number and home in segments:
                    shard.carry(queue_id, home)
                steps += 1
                if steps % ROWS == 0:
                    yield None
            yield shard.hurry()
            if shard.unsettled:
                return  # they could not be written: another time
        yield from segments.unlink(number)

    def clear(self) -> None:
        """Unlink everything: the queue is empty, and is being closed."""
        segments = self._shard.segments
        for number in sorted(segments):
            segments.path(number).unlink(missing_ok=True)
            segments.sync_directory()
            segments.forget(number)
