"""mysql: a query to MySQL or MariaDB, with aiomysql (extra `mysql`): pure Python, asyncio from end to end.

Called through tables.lookup. Every column of every row is a value. A key is quoted as the server's mode wants it, for
the inside of the quotes that the query has. A server that is down is passed over for retry_interval; a query that is
wrong is TempFail.

Postfix manual: mysql_table(5).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fastmta.tables.database import QueryTable, tls_context
from fastmta.tables.lookup import Context, Flags, Table, TempFail
from fastmta.tables.query import sql_query, to_text
from fastmta.tables.remote import Host, Lost, Refused, Servers, client_library

_PORT: Final = 3306
_TIMEOUT: Final = 30.0
_LOCAL_SOCKET: Final = "/run/mysqld/mysqld.sock"
_NO_BACKSLASH_ESCAPES: Final = 0x200
_ESCAPES: Final = str.maketrans(
    {"\\": "\\\\", "'": "\\'", '"': '\\"', "\n": "\\n", "\r": "\\r", "\0": "\\0", "\x1a": "\\Z"}
)


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open mysql:name. Raises TableError."""
    return MysqlTable(name, flags, context)


class MysqlTable(QueryTable):
    """One query and the servers that it goes to."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__("mysql", name, flags, context)
        options = self.options
        self._client = client_library("aiomysql", "mysql")
        self._query = self.templates.query(sql_query(options))
        self._must_have_result = options.flag("require_result_set", True)
        self._settings: dict[str, Any] = {
            "user": options.text("user") or None,
            "password": options.text("password"),
            "db": options.required("dbname"),
            "charset": options.text("charset", "utf8mb4"),
            "ssl": tls_context(options),
        }
        file, group = options.text("option_file"), options.text("option_group", "client")
        if file:
            self._settings.update(read_default_file=file, read_default_group=group or "client")
        elif options.find("option_group"):
            context.warn(f"{self.name}: option option_group has no effect here without option_file: my.cnf is not read")
        idle, retry = self.intervals()
        hosts = self.hosts(_PORT)
        options.finish()
        self._servers: Servers[Any] = Servers(
            self.name,
            hosts,
            self._connect,
            context,
            errors=(self._client.OperationalError, self._client.InterfaceError),
            timeout=_TIMEOUT,
            idle=idle,
            retry=retry,
        )

    async def _connect(self, host: Host) -> Any:
        # As MySQL's own library has it, "localhost" is the local socket.
        path = host.path or (_LOCAL_SOCKET if host.name == "localhost" else None)
        address = {"unix_socket": path} if path else {"host": host.name, "port": host.port}
        return await self._client.connect(**address, **self._settings, autocommit=True, conv={})

    async def ask(self, key: str) -> Iterable[str | None]:
        """All values of all rows. Raises TempFail."""
        if self.templates.expand_key(self._query, key, str) is None:
            return ()
        values = await self._servers.use(lambda connection: self._work(connection, key))
        return [to_text(value, self.name, self._flags) if isinstance(value, bytes) else value for value in values]

    async def _work(self, connection: Any, key: str) -> list[str | bytes | None]:
        def quote(text: str) -> str:
            if not connection.server_status & _NO_BACKSLASH_ESCAPES:
                return text.translate(_ESCAPES)
            if '"' in text and any('"' in part for part in self._query):
                raise TempFail(f"{self.name}: the server has NO_BACKSLASH_ESCAPES: put '%s' in the query, not \"%s\"")
            return text.replace("'", "''")

        query = self.templates.expand_key(self._query, key, quote)
        values: list[str | bytes | None] = []
        try:
            async with connection.cursor() as cursor:
                await cursor.execute(query)
                results = 0
                while True:
                    if cursor.description is not None:
                        results += 1
                        values += [value for row in await cursor.fetchall() for value in row]
                    if not await cursor.nextset():
                        break
        except (self._client.OperationalError, self._client.InterfaceError) as error:
            raise Lost(str(error)) from None
        except (self._client.Error, UnicodeError) as error:
            raise Refused(str(error)) from None
        if results > 1:
            raise Refused("query returned more than one result set")
        if not results and self._must_have_result:
            raise Refused("query returned no result set (require_result_set = yes)")
        return values

    def close(self) -> None:
        """No more lookups."""
        super().close()
        self._servers.close()
