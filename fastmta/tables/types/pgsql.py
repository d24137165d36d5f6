"""pgsql: a query to PostgreSQL, with psycopg (extra `pgsql`): it is libpq, and so connects and quotes as Postfix does.

Called through tables.lookup. Every column of every row is a value. A server that is down or going down is passed over
for retry_interval; a query that is wrong is TempFail.

Postfix manual: pgsql_table(5).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, Final

from fastmta.tables.database import QueryTable
from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.query import sql_query, to_text
from fastmta.tables.remote import Host, Lost, Refused, Servers, client_library

_PORT: Final = 5432
_TIMEOUT: Final = 30.0
# Of SQLSTATE: connection exception, insufficient resources, operator intervention, system error
_SERVER_TROUBLE: Final = ("08", "53", "57", "58")


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open pgsql:name. Raises TableError."""
    return PgsqlTable(name, flags, context)


class _Link:
    """One connection of psycopg."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def close(self) -> None:
        self.connection.pgconn.finish()


class PgsqlTable(QueryTable):
    """One query and the servers that it goes to."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__("pgsql", name, flags, context)
        options = self.options
        self._psycopg = client_library("psycopg", "pgsql")
        self._query = self.templates.query(sql_query(options, function=True))
        self._login = {
            "user": options.text("user"),
            "password": options.text("password"),
            "dbname": options.required("dbname"),
            "client_encoding": options.text("encoding", "UTF8"),
        }
        idle, retry = self.intervals()
        hosts = [Host(text) for text in options.text("hosts").split() if "://" in text] or self.hosts(_PORT)
        options.finish()
        self._servers: Servers[_Link] = Servers(
            self.name,
            hosts,
            self._connect,
            context,
            errors=(self._psycopg.OperationalError,),
            timeout=_TIMEOUT,
            idle=idle,
            retry=retry,
        )

    async def _connect(self, host: Host) -> _Link:
        settings = {name: value for name, value in self._login.items() if value}
        if not host.name and not host.path:
            address: dict[str, Any] = {"conninfo": host.text}
        elif PurePath(host.path).name.startswith(".s.PGSQL."):
            socket = PurePath(host.path)
            address = {"host": str(socket.parent), "port": socket.name.rpartition(".")[2]}
        else:
            address = {"host": host.path or host.name, "port": host.port or _PORT}
        connect = self._psycopg.AsyncConnection.connect
        return _Link(await connect(**address, **settings, autocommit=True, prepare_threshold=None))

    async def ask(self, key: str) -> Iterable[str | None]:
        """All values of all rows. Raises TempFail."""
        if self.templates.expand_key(self._query, key, str) is None:
            return ()

        async def work(link: _Link) -> list[bytes | None]:
            connection = link.connection
            escape = self._psycopg.pq.Escaping(connection.pgconn).escape_string

            def quote(text: str) -> str:
                return bytes(escape(text.encode(connection.info.encoding))).decode(connection.info.encoding)

            try:
                cursor = await connection.execute(self.templates.expand_key(self._query, key, quote))
            except self._psycopg.Error as error:
                state = error.sqlstate or "08"
                raise (Lost if state.startswith(_SERVER_TROUBLE) else Refused)(str(error)) from None
            except UnicodeError as error:
                raise Refused(str(error)) from None
            result = cursor.pgresult
            if result is None or cursor.description is None:
                raise Refused("query returned no result")
            rows, columns = range(result.ntuples), range(result.nfields)
            return [result.get_value(row, column) for row in rows for column in columns]

        values = await self._servers.use(work)
        return [None if value is None else to_text(value, self.name, self._flags) for value in values]

    def close(self) -> None:
        """No more lookups."""
        super().close()
        self._servers.close()
