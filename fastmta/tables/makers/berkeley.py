"""hash and btree: makes Berkeley DB files where the package `berkeleydb` is installed, else LMDB files (berkeley.py).

The file is filled, or a copy of it changed, under another name, and takes its place when it is whole. Keys and values
end with a zero byte, as Postfix writes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from typing import Any

from fastmta.tables.berkeley import library
from fastmta.tables.maker import Duplicates, Maker, MakerError, Request, number
from fastmta.tables.makers import lmdb
from fastmta.tables.makers.replacement import Replacement


class BerkeleyMaker(Maker):
    """A file that is made anew, or a changed copy."""

    def __init__(self, path: str, request: Request, db: Any) -> None:
        """Raises MakerError."""
        super().__init__(path, request)
        self._path = f"{path}.db"
        self._library = db
        self._replaces = request.duplicates is Duplicates.REPLACE
        self._replacement = Replacement(self._path, request.mode)
        self._draft = f"{self._replacement.temporary}.draft"
        self._lock = -1
        self._db = db.DB()
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._draft)  # noqa: PTH108
            if request.incremental:
                self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, request.mode)
                fcntl.lockf(self._lock, fcntl.LOCK_EX)
                with open(self._lock, "rb", closefd=False) as source, open(self._draft, "wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            self._db.set_cachesize(0, number(request.context, "berkeley_db_create_buffer_size", 16777216))
            kind = db.DB_HASH if request.kind == "hash" else db.DB_BTREE
            self._db.open(self._draft, dbtype=kind, flags=db.DB_CREATE)
        except (OSError, db.DBError) as error:
            self._replacement.abort()
            self._close()
            raise MakerError(f"open database {self._path}: {error.args[-1]}") from None

    def _put(self, key: bytes, value: bytes) -> bool:
        try:
            self._db.put(key + b"\0", value + b"\0", flags=0 if self._replaces else self._library.DB_NOOVERWRITE)
        except self._library.DBKeyExistError:
            return False
        except self._library.DBError as error:
            raise MakerError(f"error writing {self.name}: {error.args[-1]}") from None
        return True

    def _delete(self, key: bytes) -> bool:
        done = False
        for form in (key + b"\0", key):
            try:
                self._db.delete(form)
                done = True
            except self._library.DBNotFoundError:
                continue
            except self._library.DBError as error:
                raise MakerError(f"error deleting from {self.name}: {error.args[-1]}") from None
        return done

    def commit(self) -> None:
        """Durable and in place."""
        try:
            self._db.close()
            with open(self._draft, "rb") as source:
                with open(self._replacement.descriptor, "wb", closefd=False) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
            self._replacement.commit()
        except (OSError, self._library.DBError) as error:
            self._replacement.abort()
            raise MakerError(f"error writing {self.name}: {error.args[-1]}") from None
        finally:
            self._close()

    def abort(self) -> None:
        """Leave all as it was."""
        self._replacement.abort()
        self._close()

    def _close(self) -> None:
        with contextlib.suppress(self._library.DBError):
            self._db.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._draft)  # noqa: PTH108
        self._replacement.close()
        if self._lock >= 0:
            os.close(self._lock)


def open_maker(path: str, request: Request) -> Maker:
    """Begin to make path.db, or path.lmdb. Raises MakerError."""
    db = library()
    return lmdb.open_maker(path, request) if db is None else BerkeleyMaker(path, request, db)
