"""The index of a shard: an LMDB view of its log, written in batches behind it. The log is the truth.

Used by queue/shard.py (the owner: due(), lookups), queue/behind.py (writes), queue/recover.py and, read-only from
other processes, by queue/listing.py. LMDB runs without syncs: what a crash of the machine leaves is found out by the
boot id in `meta` (and by indexcheck.py) and rebuilt from the log. Four tables:

    entries  number of the queue id, 8 bytes big-endian   -> CRC-32C, model.Entry
    due      second of the next attempt, 4 bytes          -> numbers (sorted duplicates); held messages have none
    places   segment, 4 bytes                             -> numbers with their content or their last OUTCOME there
    meta     "meta"                                       -> Meta

Numbers grow with time, so new entries go to the end of the table. Reads fault pages of the file into this process;
`trim()` gives them back. Raises IndexDamaged for what does not fit together, lmdb.Error for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

import lmdb
import msgspec

from fastmta._ext.commit import drop_pages
from fastmta._ext.records import crc32c, id_number
from fastmta.model.message import FLAG_HOLD
from fastmta.queue.model import Entry, EntryHead, State, decode_entry, decode_entry_head, encode

VERSION: Final = 1
NO_ROW: Final = b""
FIRST: Final = bytes(4)


class IndexDamaged(Exception):
    """The index is not what was written: it must be rebuilt."""


class Meta(msgspec.Struct, array_like=True):
    """segment, offset: the log is in the index up to there. clean: closed and synced since the last change."""

    version: int
    boot_id: str
    segment: int = 0
    offset: int = 0
    clean: bool = False


_decode_meta = msgspec.msgpack.Decoder(Meta).decode


def key_of(queue_id: str) -> bytes:
    """The key of a queue id in `entries`."""
    return id_number(queue_id).to_bytes(8, "big")


def seal(entry: Entry) -> bytes:
    """The value of an entry."""
    body = encode(entry)
    return crc32c(body).to_bytes(4, "little") + body


def unseal(value: bytes) -> Entry:
    """The entry of a value."""
    body = value[4:]
    if crc32c(body) != int.from_bytes(value[:4], "little"):
        raise IndexDamaged("an entry's checksum is wrong")
    try:
        return decode_entry(body)
    except msgspec.DecodeError as error:
        raise IndexDamaged(str(error)) from error


def unseal_head(value: bytes) -> EntryHead:
    """The place of an entry."""
    body = value[4:]
    if crc32c(body) != int.from_bytes(value[:4], "little"):
        raise IndexDamaged("an entry's checksum is wrong")
    return decode_entry_head(body)


def due_key(state: State | None) -> bytes:
    """The key in `due`; NO_ROW for a held message."""
    if state is None:
        return FIRST
    if state.flags & FLAG_HOLD:
        return NO_ROW
    return min(max(math.ceil(state.next_attempt), 0), 0xFFFFFFFF).to_bytes(4, "big")


class Index:
    """An open index. Writes go between `begin()` and `commit()`, or in a `with index:`."""

    def __init__(
        self, directory: Path, map_size: int, read_only: bool = False, lock: bool = True, wary: bool = False
    ) -> None:
        """map_size: bytes of address space; lock False: nobody else writes. Raises lmdb.Error, OSError.

        wary: raise IndexDamaged for a file that is shorter than it says, as one may be that was not damaged, too: to
        read behind the end of a file ends the process.
        """
        if not read_only:
            directory.mkdir(mode=0o700, exist_ok=True)
        self._env = lmdb.open(
            str(directory),
            map_size=map_size,
            max_dbs=8,
            readonly=read_only,
            create=not read_only,
            sync=False,
            metasync=False,
            readahead=False,
            lock=lock,
            mode=0o600,
        )
        if wary:
            needs = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            has = (directory / "data.mdb").stat().st_size
            if has < needs:
                self._env.close()
                raise IndexDamaged(f"{has} bytes are there of {needs}")
        create = not read_only
        self._entries = self._env.open_db(b"entries", create=create)
        self._due = self._env.open_db(b"due", dupsort=True, dupfixed=True, create=create)
        self._places = self._env.open_db(b"places", dupsort=True, dupfixed=True, create=create)
        self._meta = self._env.open_db(b"meta", create=create)
        self._file = str(directory.resolve() / "data.mdb")
        self._inode = Path(self._file).stat().st_ino
        self._txn: lmdb.Transaction[bytes] | None = None
        self._reads = 0

    @property
    def in_place(self) -> bool:
        """Whether its file is still where others look for it."""
        try:
            return Path(self._file).stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    # Writing

    def begin(self) -> None:
        """Begin a write transaction."""
        self._txn = self._env.begin(write=True)

    def commit(self) -> None:
        """End it. Other processes see it; whether it is on disk is left to the kernel."""
        txn, self._txn = self._txn, None
        assert txn is not None
        txn.commit()

    def __enter__(self) -> Index:
        """Begin a write transaction."""
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit it, or drop it when there was an exception."""
        txn, self._txn = self._txn, None
        assert txn is not None
        if kind is None:
            txn.commit()
        else:
            txn.abort()

    def put(self, entry: Entry) -> EntryHead | None:
        """Insert or replace; returns where the former entry lay."""
        self._reads += 1
        txn = self._txn
        assert txn is not None
        key = key_of(entry.envelope.queue_id)
        value = txn.replace(key, seal(entry), db=self._entries)
        row = due_key(entry.state)
        if value is None:
            if row:
                txn.put(row, key, db=self._due)
            self._put_places(key, entry.segment, entry.state_segment)
            return None
        former = unseal(value)
        old_row = due_key(former.state)
        if old_row != row:
            if old_row:
                txn.delete(old_row, key, db=self._due)
            if row:
                txn.put(row, key, db=self._due)
        if (former.segment, former.state_segment) != (entry.segment, entry.state_segment):
            self._delete_places(key, former.segment, former.state_segment)
            self._put_places(key, entry.segment, entry.state_segment)
        return EntryHead(former.segment, former.offset, former.length, former.state_segment)

    def delete(self, queue_id: str) -> EntryHead | None:
        """Take a message out; returns where it lay, None when it was not there."""
        self._reads += 1
        txn = self._txn
        assert txn is not None
        key = key_of(queue_id)
        value = txn.pop(key, db=self._entries)
        if value is None:
            return None
        former = unseal(value)
        row = due_key(former.state)
        if row:
            txn.delete(row, key, db=self._due)
        self._delete_places(key, former.segment, former.state_segment)
        return EntryHead(former.segment, former.offset, former.length, former.state_segment)

    def _put_places(self, key: bytes, segment: int, state_segment: int) -> None:
        txn = self._txn
        assert txn is not None
        txn.put(segment.to_bytes(4, "big"), key, db=self._places)
        if state_segment != segment:
            txn.put(state_segment.to_bytes(4, "big"), key, db=self._places)

    def _delete_places(self, key: bytes, segment: int, state_segment: int) -> None:
        txn = self._txn
        assert txn is not None
        txn.delete(segment.to_bytes(4, "big"), key, db=self._places)
        if state_segment != segment:
            txn.delete(state_segment.to_bytes(4, "big"), key, db=self._places)

    def set_meta(self, meta: Meta) -> None:
        """Write how far the index is."""
        txn = self._txn
        assert txn is not None
        txn.put(b"meta", encode(meta), db=self._meta)

    # Reading

    def _reader(self) -> lmdb.Transaction[bytes]:
        self._reads += 1
        return self._env.begin()

    def meta(self) -> Meta | None:
        """How far the index is; None when it was never filled."""
        with self._env.begin() as txn:
            value = txn.get(b"meta", db=self._meta)
        if value is None:
            return None
        try:
            return _decode_meta(value)
        except msgspec.DecodeError:
            return None

    def get(self, queue_id: str) -> Entry | None:
        """The entry of that queue id."""
        number = id_number(queue_id)
        if number < 0:
            return None
        txn = self._txn
        if txn is not None:
            value = txn.get(number.to_bytes(8, "big"), db=self._entries)
        else:
            with self._reader() as reader:
                value = reader.get(number.to_bytes(8, "big"), db=self._entries)
        if value is None:
            return None
        entry = unseal(value)
        return entry if entry.envelope.queue_id == queue_id else None

    def due(self, start: tuple[bytes, bytes], end: int, limit: int) -> list[tuple[bytes, bytes, Entry]]:
        """Up to limit rows (second, number, entry) from start on, not later than second `end`."""
        rows: list[tuple[bytes, bytes, Entry]] = []
        last = end.to_bytes(4, "big")
        with self._reader() as txn, txn.cursor(db=self._due) as cursor:
            second, number = start
            found = cursor.set_range_dup(second, number) if number else cursor.set_range(second)
            if not found and number:
                found = cursor.set_range((int.from_bytes(second, "big") + 1).to_bytes(4, "big"))
            while found and len(rows) < limit:
                key, value = cursor.item()
                if key > last:
                    break
                sealed = txn.get(value, db=self._entries)
                if sealed is None:
                    raise IndexDamaged("a due message has no entry")
                rows.append((key, value, unseal(sealed)))
                self._reads += 1
                found = cursor.next()
        return rows

    def first_due(self, start: tuple[bytes, bytes]) -> int | None:
        """The second of the first row from start on."""
        second, number = start
        with self._reader() as txn, txn.cursor(db=self._due) as cursor:
            found = cursor.set_range_dup(second, number) if number else cursor.set_range(second)
            if not found and number:
                found = cursor.set_range((int.from_bytes(second, "big") + 1).to_bytes(4, "big"))
            return int.from_bytes(cursor.key(), "big") if found else None

    def entries(self, after: bytes = b"", limit: int = 256) -> list[tuple[bytes, Entry]]:
        """Up to limit entries with a key above `after`, in the order of their numbers."""
        rows: list[tuple[bytes, Entry]] = []
        with self._reader() as txn, txn.cursor(db=self._entries) as cursor:
            found = cursor.set_range(after) if after else cursor.first()
            if found and cursor.key() == after:
                found = cursor.next()
            while found and len(rows) < limit:
                rows.append((cursor.key(), unseal(cursor.value())))
                self._reads += 1
                found = cursor.next()
        return rows

    def last_key(self) -> bytes:
        """The highest key of an entry; empty when there is none."""
        with self._env.begin() as txn, txn.cursor(db=self._entries) as cursor:
            return cursor.key() if cursor.last() else b""

    def in_segment(self, segment: int, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """Up to limit entries that need that segment, with keys above `after`."""
        key = segment.to_bytes(4, "big")
        found: list[tuple[bytes, Entry]] = []
        with self._reader() as txn, txn.cursor(db=self._places) as cursor:
            more = cursor.set_range_dup(key, after) if after else cursor.set_key(key)
            if more and cursor.value() == after:
                more = cursor.next_dup()
            while more and len(found) < limit:
                number = cursor.value()
                sealed = txn.get(number, db=self._entries)
                if sealed is None:
                    raise IndexDamaged("a place has no entry")
                found.append((number, unseal(sealed)))
                self._reads += 1
                more = cursor.next_dup()
        return found

    def heads(self) -> Iterator[EntryHead]:
        """The place of every entry, in one transaction."""
        with self._env.begin() as txn, txn.cursor(db=self._entries) as cursor:
            for value in cursor.iternext(keys=False, values=True):
                yield unseal_head(value)

    def walk_rows(self) -> tuple[int, int]:
        """Read all of `due` and `places`: how many rows there are; each must have an entry's number."""
        counts = []
        with self._env.begin() as txn:
            for table in (self._due, self._places):
                count = 0
                with txn.cursor(db=table) as cursor:
                    for key, value in cursor:
                        if len(key) != 4 or len(value) != 8:
                            raise IndexDamaged("a row of the wrong size")
                        count += 1
                counts.append(count)
        return counts[0], counts[1]

    def fits_file(self) -> bool:
        """Whether the file is as long as its pages need: reading beyond its end would be the end of the process."""
        pages = self._env.info()["last_pgno"] + 1
        return Path(self._file).stat().st_size >= pages * self._env.stat()["psize"]

    def count(self) -> int:
        """How many messages are in it."""
        with self._env.begin() as txn:
            return txn.stat(self._entries)["entries"]

    def sync(self) -> None:
        """Put it on disk."""
        self._env.sync(True)

    def trim(self, reads: int = 0) -> None:
        """Give the mapped pages back to the page cache if there was more than that much use since the last time."""
        if self._reads > reads:
            self._reads = 0
            drop_pages(self._file)

    def close(self) -> None:
        """Close it; nothing is synced."""
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
        self._env.close()
