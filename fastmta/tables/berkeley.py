"""hash and btree: Berkeley DB files where the package `berkeleydb` is installed, else the same table kept as LMDB.

With the package, path.db is copied under Postfix's lock and read from the copy: a postmap that writes path.db in place
does not disturb lookups. Without it, path.lmdb is read. It is made from the text `path` where it is missing or where
path.db is newer than it (Postfix's own postmap has run); in a temporary place where we may not write beside it. As
Postfix, we do not look at a text that is newer, except to warn. Called by types/ and makers/.

Raises TableError, that names the file and what to run. Postfix: dict_db(3), NON_BERKELEYDB_README.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastmta._ext.mapped import Damaged
from fastmta.config.lines import logical_lines
from fastmta.config.values import to_list
from fastmta.tables.datafile import DataFile, OpenFile
from fastmta.tables.lookup import Context, Flags, Table, TableError
from fastmta.tables.maker import Duplicates, MakerError, number, open_maker
from fastmta.tables.source import Stamp, stamp
from fastmta.tables.types.lmdb import LmdbTable, text_of
from fastmta.tables.types.texthash import TexthashTable


def library() -> Any:
    """The module berkeleydb.db, or None where it is not installed."""
    try:
        return importlib.import_module("berkeleydb.db")
    except ImportError:
        return None


class BerkeleyFile:
    """A Berkeley DB file that nobody else has."""

    def __init__(self, path: str, kind: str, db: Any, cache: int) -> None:
        """Raises Damaged."""
        self._error = db.DBError
        self._zero: bool | None = None
        self._db = db.DB()
        try:
            self._db.set_cachesize(0, cache)
            self._db.open(path, dbtype=db.DB_HASH if kind == "hash" else db.DB_BTREE, flags=db.DB_RDONLY)
        except db.DBError:
            raise Damaged(f"it is no {kind} table of Berkeley DB") from None

    def get(self, key: bytes) -> str | None:
        """With a zero byte at the end or without, whichever was found first. Raises Damaged."""
        try:
            for zero in (True, False) if self._zero is None else (self._zero,):
                value: bytes | None = self._db.get(key + b"\0" if zero else key)
                if value is not None:
                    self._zero = zero
                    return text_of(value)
        except self._error as error:
            raise Damaged(str(error.args[-1])) from None
        return None

    def items(self) -> Iterator[tuple[str, str]]:
        """In the file's order. Raises Damaged."""
        cursor = self._db.cursor()
        try:
            entry = cursor.first()
            while entry is not None:
                yield text_of(entry[0]), text_of(entry[1])
                entry = cursor.next()
        except self._error as error:
            raise Damaged(str(error.args[-1])) from None
        finally:
            cursor.close()

    def close(self) -> None:
        """No more lookups."""
        self._db.close()


class BerkeleyTable(DataFile):
    """A table that Berkeley DB reads."""

    def __init__(self, kind: str, name: str, flags: Flags, context: Context, db: Any) -> None:
        """Raises TableError."""
        self._kind = kind
        self._db = db
        super().__init__(kind, name, ".db", flags, context)

    def open_file(self, descriptor: int) -> OpenFile:
        """A copy of it. Waits for a postmap that is writing it."""
        fcntl.lockf(descriptor, fcntl.LOCK_SH)
        copy, path = tempfile.mkstemp(prefix="fastmta-", suffix=".db")
        try:
            with open(copy, "wb") as target, open(descriptor, "rb", closefd=False) as source:
                shutil.copyfileobj(source, target, 1 << 20)
            file = BerkeleyFile(
                path, self._kind, self._db, number(self.context, "berkeley_db_read_buffer_size", 131072)
            )
        finally:
            os.unlink(path)  # noqa: PTH108
        os.close(descriptor)
        return file

    def is_new(self) -> bool:
        """Changed, and nobody is writing it now: a refresh does not wait."""
        if not super().is_new():
            return False
        with open(self.path, "rb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def sequence(self) -> Iterator[tuple[str, str]]:
        """In the file's order."""
        assert isinstance(self._file, BerkeleyFile)
        return self._file.items()


class KeptAsLmdb(LmdbTable):
    """A table of type hash or btree that is kept as LMDB."""

    def __init__(self, kind: str, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        self._kept = f"{name}.lmdb"
        self._old = f"{name}.db"
        self._text = name
        try:
            super().__init__(kind, name, ".lmdb", flags, context)
        except MakerError as error:
            raise TableError(f"open database {name}.lmdb: {error}") from None
        self._old_seen = _stamp_of(self._old)

    def _open(self) -> tuple[Stamp, OpenFile]:
        kept, old, text = _stamp_of(self._kept), _stamp_of(self._old), _stamp_of(self._text)
        if text is None or (kept is not None and (old is None or old <= kept)):
            if kept is None:
                raise FileNotFoundError(
                    f"it is not there, nor is its source {self._text}, and the Python package berkeleydb that reads "
                    f'{self._old} is not installed: run "pip install fastmta[berkeleydb]", or "fastmta postmap" '
                    f"for lmdb:{self._text}"
                )
            return super()._open()
        try:
            self._make(self._text)
        except MakerError:
            return self._open_elsewhere()
        return super()._open()

    def _open_elsewhere(self) -> tuple[Stamp, OpenFile]:
        """Where we may not write beside the source: a file without a name."""
        with tempfile.TemporaryDirectory(prefix="fastmta-") as folder:
            path = str(Path(folder) / "table")
            self._make(path)
            self.path = f"{path}.lmdb"
            try:
                _, file = super()._open()
            finally:
                self.path = self._kept
        return _stamp_of(self._kept) or (0, 0, 0, 0), file

    def _make(self, path: str) -> None:
        context = self.context
        maker = open_maker(
            f"lmdb:{path}",
            incremental=False,
            duplicates=Duplicates.IGNORE,
            context=context,
            mode=os.stat(self._text).st_mode & 0o777,  # noqa: PTH116
            flags=self.flags,
        )
        try:
            for key, value in self._entries():
                maker.put(key, value)
        except BaseException:
            maker.abort()
            raise
        maker.commit()

    def _entries(self) -> Iterator[tuple[str, str]]:
        if self.name in _alias_tables(self.context):
            return aliases(Path(self._text), self.context)
        return TexthashTable("texthash", self._text, self.flags, self.context).sequence()

    def is_new(self) -> bool:
        """Another LMDB file is in place, or Postfix's postmap has run."""
        old = _stamp_of(self._old)
        if old is not None and old != self._old_seen:
            self._old_seen = old
            return True
        kept = _stamp_of(self._kept)
        return kept is not None and kept != self._seen


def aliases(path: Path, context: Context) -> Iterator[tuple[str, str]]:
    """The entries of a text in the form of aliases(5): "name: value", the name perhaps in quotes."""
    warnings: list[str] = []
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for place, line in logical_lines(text, str(path), warnings):
        end, quoted = 0, False
        while end < len(line) and (quoted or line[end] != ":"):
            quoted ^= line[end] == '"'
            end += 1
        key, value = line[:end].strip().replace('"', ""), line[end + 1 :].strip()
        if key and value:
            yield key, value
        else:
            context.warn(f"{path}, line {place}: need name:value pair")
    for warning in warnings:
        context.warn(warning)


def _alias_tables(context: Context) -> list[str]:
    names: list[str] = []
    for parameter in ("alias_maps", "alias_database"):
        with contextlib.suppress(KeyError):
            names += to_list(context.parameters.get_str(parameter))
    return names


def _stamp_of(path: str) -> Stamp | None:
    try:
        return stamp(os.stat(path))  # noqa: PTH116
    except OSError:
        return None


def open_berkeley(kind: str, name: str, flags: Flags, context: Context) -> Table:
    """Open kind:name. Raises TableError."""
    db = library()
    # What our postmap made while the package was not there is still good.
    if db is not None and (Path(f"{name}.db").exists() or not Path(f"{name}.lmdb").exists()):
        return BerkeleyTable(kind, name, flags, context, db)
    return KeptAsLmdb(kind, name, flags, context)
