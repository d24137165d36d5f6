"""sqlite: a query to a database file. Local: a lookup reads a file, and a database that is locked is TempFail at once.

Called through tables.lookup. The file is opened for reading only and must be there (Postfix makes an empty one). A file
that was replaced is opened again by refresh(). A query that is wrong is TempFail, where Postfix's program dies.

Postfix manual: sqlite_table(5).
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail
from fastmta.tables.query import DomainList, Options, Templates, fold, is_searchable, sql_query, to_text


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open sqlite:name. Raises TableError."""
    return SqliteTable(name, flags, context)


def quote(text: str) -> str:
    """Text for the inside of an SQL string: the template has the quotes around it."""
    return text.replace("'", "''")


class SqliteTable(Table):
    """One query and the database that it goes to."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        self.name = f"sqlite:{name}"
        options = Options("sqlite", name, context)
        self._path = Path(options.required("dbpath"))
        query = sql_query(options)
        limit = options.number("expansion_limit", 0)
        self._templates = Templates(self.name, context, options.result_format(), limit)
        self._query = self._templates.query(query)
        self._domains = DomainList(options.text("domain"), context)
        if not self._domains.is_local:
            raise TableError(f"{self.name}: domain: a table that asks a server is not supported here")
        options.finish()
        self._flags = flags
        self._warn = context.warn
        self._warned = False
        try:
            self._identity = self._stat()
            self._database = self._connect()
        except (OSError, sqlite3.Error) as error:
            raise TableError(f"{self.name}: open database {self._path}: {error}") from None

    def _stat(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_dev, status.st_ino

    def _connect(self) -> sqlite3.Connection:
        uri = f"{self._path.absolute().as_uri()}?mode=ro"
        database = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        database.text_factory = bytes
        return database

    def get(self, key: str) -> str | None:
        """The result of the query, the first column of all rows with commas between. Raises TempFail."""
        if not is_searchable(key):
            return None
        if self._flags.fold_fixed:
            key = fold(key, self._flags.utf8)
        if not self._domains.admits_now(key):
            return None
        query = self._templates.expand_key(self._query, key, quote)
        if query is None:
            return None
        try:
            rows = self._database.execute(query).fetchall()
            values = [self._text(row[0]) for row in rows]
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise TempFail(f"{self.name}: SQL query failed: {error}") from None
        return self._templates.gather(values, key)

    def _text(self, value: bytes | int | float | None) -> str | None:
        if value is None or isinstance(value, bytes):
            return None if value is None else to_text(value, self.name, self._flags)
        if isinstance(value, int):
            return str(value)
        # SQLite writes floating point otherwise than Python does.
        text: bytes = self._database.execute("SELECT CAST(? AS TEXT)", (value,)).fetchone()[0]
        return text.decode()

    def refresh(self) -> bool:
        """Open the file again where another one has taken its place."""
        try:
            identity = self._stat()
            if identity == self._identity:
                return False
            database = self._connect()
        except (OSError, sqlite3.Error) as error:
            if not self._warned:
                self._warn(f"{self.name}: {self._path}: {error}")
            self._warned = True
            return False
        self._database.close()
        self._database, self._identity, self._warned = database, identity, False
        return True

    def close(self) -> None:
        """No more lookups."""
        self._database.close()
        self._domains.close()
