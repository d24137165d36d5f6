"""lmdb: makes the files that Postfix's lmdb_table(5) reads.

Keys and values end with a zero byte, as Postfix writes them; a file that was made without is continued without. A new
file is filled in sorted batches of bounded size, which bounds the memory, and is copied without the pages that they
left free when it is whole; an incremental change is one transaction. The file's size limit begins with lmdb_map_size
and doubles when it is full: what was in the transaction is then put again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import Final

import lmdb

from fastmta._ext.batches import in_order
from fastmta.tables.maker import Duplicates, Maker, MakerError, Request, number
from fastmta.tables.makers.replacement import Replacement

_BATCH: Final = 1 << 26
"""Bytes of keys and values that are kept in memory for a new file."""

_LONGEST_KEY: Final = 511
_BAD_SIZE: Final = "MDB_BAD_VALSIZE: Unsupported size of key/DB name/data, or wrong DUPFIXED size"


class LmdbMaker(Maker):
    """A file that is made anew."""

    def __init__(self, path: str, request: Request) -> None:
        """Raises MakerError."""
        super().__init__(path, request)
        self._replaces = request.duplicates is Duplicates.REPLACE
        self._pending: dict[bytes, bytes] = {}
        self._bytes = 0
        self._written: lmdb.Transaction | None = None  # to read what former batches have put
        self._replacement = Replacement(f"{path}.lmdb", request.mode)
        # What we fill has no name, so that nothing is left behind when we are killed.
        draft = f"{self._replacement.temporary}.draft"
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)  # noqa: PTH108
            self._environment = _open(draft, _map_size(request), False)
            os.unlink(draft)  # noqa: PTH108
        except (OSError, lmdb.Error) as error:
            self._replacement.abort()
            self._replacement.close()
            raise MakerError(f"open database {path}.lmdb: {error}") from None

    def _put(self, key: bytes, value: bytes) -> bool:
        if len(key) >= _LONGEST_KEY:
            raise MakerError(f"error updating {self.name}: {_BAD_SIZE}")
        key += b"\0"
        value += b"\0"
        if self._replaces:
            self._pending[key] = value
        elif (self._written is not None and self._written.get(key) is not None) or (
            self._pending.setdefault(key, value) is not value
        ):
            return False
        self._bytes += len(key) + len(value)
        if self._bytes >= _BATCH:
            self._flush()
        return True

    def _delete(self, key: bytes) -> bool:
        key += b"\0"
        there = self._pending.pop(key, None) is not None
        if self._written is not None and self._written.get(key) is not None:
            self._flush()
            self._write(lambda transaction: transaction.delete(key))
            there = True
        return there

    def _flush(self) -> None:
        """Write what is pending. Sorted, because neighbours are then put into the same page at about the same time."""
        items = in_order(self._pending)
        append = self._written is None

        def put(transaction: lmdb.Transaction) -> None:
            with transaction.cursor() as cursor:
                cursor.putmulti(items, append=append)

        self._write(put)
        self._pending.clear()
        self._bytes = 0

    def _write(self, change: Callable[[lmdb.Transaction], object]) -> None:
        if self._written is not None:
            self._written.abort()
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    change(transaction)
                break
            except lmdb.MapFullError:
                _double(self._environment)
            except lmdb.Error as error:
                raise MakerError(f"error updating {self.name}: {error}") from None
        self._written = self._environment.begin(buffers=True)

    def commit(self) -> None:
        """Durable and in place."""
        try:
            self._flush()
            if self._written is not None:
                self._written.abort()
            self._environment.copyfd(self._replacement.descriptor, compact=True)
            self._replacement.commit()
        except lmdb.Error as error:
            self._replacement.abort()
            raise MakerError(f"error updating {self.name}: {error}") from None
        finally:
            self._close()

    def abort(self) -> None:
        """Leave all as it was."""
        if self._written is not None:
            self._written.abort()
        self._replacement.abort()
        self._close()

    def _close(self) -> None:
        self._environment.close()
        self._replacement.close()


class LmdbChanger(Maker):
    """A file that is changed, all in one transaction."""

    def __init__(self, path: str, request: Request) -> None:
        """Raises MakerError."""
        super().__init__(path, request)
        file = f"{path}.lmdb"
        self._replaces = request.duplicates is Duplicates.REPLACE
        self._changes: list[tuple[bytes, bytes | None]] = []
        self._lock = -1
        try:
            self._lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, request.mode)
            # Postfix's programs hold this lock while they read, and wait for it.
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            self._environment = _open(file, max(_map_size(request), 3 * os.fstat(self._lock).st_size), True)
            self._transaction = self._environment.begin(write=True)
        except (OSError, lmdb.Error) as error:
            if self._lock >= 0:
                os.close(self._lock)
            reason = error.strerror if isinstance(error, OSError) else str(error).removeprefix(f"{file}: ")
            raise MakerError(f"open database {file}: {reason}") from None
        with self._transaction.cursor() as cursor:
            self._end = b"\0" if not cursor.first() or cursor.key().endswith(b"\0") else b""

    def _put(self, key: bytes, value: bytes) -> bool:
        key += self._end
        value += self._end
        done = self._do(lambda: self._transaction.put(key, value, overwrite=self._replaces))
        if done:
            self._changes.append((key, value))
        return done

    def _delete(self, key: bytes) -> bool:
        key += self._end
        if len(key) > _LONGEST_KEY or not key:
            return False
        done = self._do(lambda: self._transaction.delete(key))
        if done:
            self._changes.append((key, None))
        return done

    def _do(self, change: Callable[[], bool]) -> bool:
        while True:
            try:
                return change()
            except lmdb.MapFullError:
                self._grow()
            except lmdb.BadValsizeError:
                raise MakerError(f"error updating {self.name}: {_BAD_SIZE}") from None
            except lmdb.Error as error:
                raise MakerError(f"error updating {self.name}: {error}") from None

    def _grow(self) -> None:
        """Double the limit and do again what the transaction, which is lost, had done."""
        while True:
            self._transaction.abort()
            _double(self._environment)
            self._transaction = self._environment.begin(write=True)
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
        except lmdb.Error as error:
            raise MakerError(f"error updating {self.name}: {error}") from None
        finally:
            self._close()

    def abort(self) -> None:
        """Leave all as it was."""
        self._transaction.abort()
        self._close()

    def _close(self) -> None:
        self._environment.close()
        os.close(self._lock)


def _open(path: str, size: int, sync: bool) -> lmdb.Environment:
    # lock=False: Postfix's programs take a lock on the file itself, and so do we
    return lmdb.open(path, map_size=size, subdir=False, lock=False, sync=sync, metasync=sync, readahead=False)


def _double(environment: lmdb.Environment) -> None:
    environment.set_mapsize(2 * environment.info()["map_size"])


def _map_size(request: Request) -> int:
    return max(number(request.context, "lmdb_map_size", 16777216), 1 << 16)


def open_maker(path: str, request: Request) -> Maker:
    """Begin to make path.lmdb, or to change it. Raises MakerError."""
    return LmdbChanger(path, request) if request.incremental else LmdbMaker(path, request)
