"""lmdb: makes the files that Postfix's lmdb_table(5) reads.

Keys and values end with a zero byte, as Postfix writes them; a file that was made without is continued without. A new
file is filled in transactions of bounded size, which bounds the memory, and is copied without the pages that they left
free when it is whole; an incremental change is one transaction. The file's size limit begins with lmdb_map_size and
doubles when it is full: what was in the transaction is then put again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

import lmdb

from fastmta.tables.maker import Duplicates, Maker, MakerError, Request
from fastmta.tables.makers.replacement import Replacement

_BATCH: Final = 1 << 23
"""Bytes of keys and values in one transaction of a new file."""

_DEFAULT_SIZE: Final = 16777216


class LmdbMaker(Maker):
    """One file that is being made or changed."""

    def __init__(self, path: str, request: Request) -> None:
        """Raises MakerError."""
        super().__init__(path, request)
        self._file = f"{path}.lmdb"
        self._replacement: Replacement | None = None
        self._lock = -1
        self._replaces = request.duplicates is Duplicates.REPLACE
        self._changes: list[tuple[bytes, bytes | None]] = []
        self._bytes = 0
        size = _map_size(request)
        try:
            if request.incremental:
                self._lock = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, request.mode)
                fcntl.lockf(self._lock, fcntl.LOCK_EX)
                size = max(size, 3 * os.fstat(self._lock).st_size)
                self._environment = _open(self._file, size, True)
            else:
                self._replacement = Replacement(self._file, request.mode)
                draft = f"{self._replacement.temporary}.draft"
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(draft)  # noqa: PTH108
                self._environment = _open(draft, size, False)
                os.unlink(draft)  # noqa: PTH108
            self._transaction = self._environment.begin(write=True, buffers=True)
        except (OSError, lmdb.Error) as error:
            if self._replacement is not None:
                self._replacement.abort()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise MakerError(f"open database {self._file}: {reason}") from None
        self._end = b"\0" if self._with_zero() else b""

    def _with_zero(self) -> bool:
        with self._transaction.cursor() as cursor:
            return not cursor.first() or bytes(cursor.key()).endswith(b"\0")

    def _put(self, key: bytes, value: bytes) -> bool:
        key += self._end
        value += self._end
        try:
            try:
                done = self._transaction.put(key, value, overwrite=self._replaces)
            except lmdb.MapFullError:
                self._grow()
                done = self._transaction.put(key, value, overwrite=self._replaces)
        except lmdb.Error as error:
            raise MakerError(f"error updating {self.name}: {error}") from None
        if done:
            self._note(key, value)
        return done

    def _delete(self, key: bytes) -> bool:
        key += self._end
        try:
            try:
                done = self._transaction.delete(key)
            except lmdb.MapFullError:
                self._grow()
                done = self._transaction.delete(key)
        except lmdb.BadValsizeError:
            return False
        except lmdb.Error as error:
            raise MakerError(f"error deleting from {self.name}: {error}") from None
        if done:
            self._note(key, None)
        return done

    def _note(self, key: bytes, value: bytes | None) -> None:
        self._changes.append((key, value))
        self._bytes += len(key) + (0 if value is None else len(value))
        if self._bytes >= _BATCH and self._replacement is not None:
            while True:
                try:
                    self._transaction.commit()
                    break
                except lmdb.MapFullError:
                    self._grow()
            self._changes.clear()
            self._bytes = 0
            self._transaction = self._environment.begin(write=True, buffers=True)

    def _grow(self) -> None:
        """Double the limit and do again what the transaction, which is lost, had done."""
        while True:
            self._transaction.abort()
            self._environment.set_mapsize(2 * self._environment.info()["map_size"])
            self._transaction = self._environment.begin(write=True, buffers=True)
            try:
                for key, value in self._changes:
                    if value is None:
                        self._transaction.delete(key)
                    else:
                        self._transaction.put(key, value)
            except lmdb.MapFullError:
                continue
            return

    def commit(self) -> None:
        """Durable and in place."""
        try:
            while True:
                try:
                    self._transaction.commit()
                    break
                except lmdb.MapFullError:
                    self._grow()
            if self._replacement is not None:
                self._environment.copyfd(self._replacement.descriptor, compact=True)
                self._replacement.commit()
        except lmdb.Error as error:
            self.abort()
            raise MakerError(f"error updating {self.name}: {error}") from None
        self._close()

    def abort(self) -> None:
        """Leave all as it was."""
        self._transaction.abort()
        if self._replacement is not None:
            self._replacement.abort()
        self._close()

    def _close(self) -> None:
        self._environment.close()
        if self._replacement is not None:
            self._replacement.close()
            self._replacement = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _open(path: str, size: int, sync: bool) -> lmdb.Environment:
    # lock=False: Postfix's programs take a lock on the file itself, and so do we
    return lmdb.open(path, map_size=size, subdir=False, lock=False, sync=sync, metasync=sync, readahead=False)


def _map_size(request: Request) -> int:
    try:
        return max(int(request.context.parameters.get_str("lmdb_map_size")), 1 << 16)
    except (KeyError, ValueError):
        return _DEFAULT_SIZE


def open_maker(path: str, request: Request) -> Maker:
    """Begin to make path.lmdb. Raises MakerError."""
    return LmdbMaker(path, request)
