"""redis: a key of a Redis (or Valkey) server, or a field of one of its hashes. Ours: Postfix has no such type.

    hosts           inet:host:port, unix:/path; several: any of them that works (localhost:6379)
    user, password  for AUTH, if there is a password
    database        for SELECT (0)
    key_format      the key, of %s %u %d ... (%s)
    hash            the name of a hash: key_format is then a field of it, HGET instead of GET; may have %s ... as well
    tls             yes: TLS, with tls_cert_file, tls_key_file, tls_CAfile, tls_CApath, tls_verify_cert, tls_ciphers
    timeout (5), idle_interval (60), retry_interval (10)    seconds
    domain, result_format       as in mysql_table(5)

The protocol is spoken here, without a library: a lookup is one command. Called through tables.lookup. Raises TempFail
for servers that do not answer, and for a key that holds something else than a string.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from fastmta.tables.database import QueryTable, tls_context
from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.query import to_text
from fastmta.tables.remote import Host, Lost, Refused, Servers, Stream, connect_stream

_PORT: Final = 6379
_LINE_LIMIT: Final = 4096
_VALUE_LIMIT: Final = 1 << 20


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open redis:name. Raises TableError."""
    return RedisTable(name, flags, context)


class RedisTable(QueryTable):
    """One key or hash, and the servers that have it."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__("redis", name, flags, context)
        options = self.options
        self._key = self.templates.query(options.text("key_format", "%s"))
        self._hash = self.templates.query(options.text("hash"))
        user, password = options.text("user"), options.text("password")
        self._greeting: list[list[str]] = []
        if password:
            self._greeting.append(["AUTH", user, password] if user else ["AUTH", password])
        database = options.number("database", 0)
        if database:
            self._greeting.append(["SELECT", str(database)])
        tls = options.flag("tls", False)
        context_of_tls = tls_context(options, always=tls)
        self._tls = context_of_tls if tls else None
        idle = options.number("idle_interval", 60, 1)
        retry = options.number("retry_interval", 10, 1)
        timeout = options.number("timeout", 5, 1)
        hosts = self.hosts(_PORT)
        options.finish()
        self._servers: Servers[Stream] = Servers(
            self.name, hosts, self._connect, context, timeout=timeout, idle=idle, retry=retry
        )

    async def _connect(self, host: Host) -> Stream:
        if self._tls is not None and not host.path:
            pair = await asyncio.open_connection(host.name, host.port, ssl=self._tls, limit=_LINE_LIMIT)
            stream = Stream(*pair)
        else:
            stream = await connect_stream(host, _LINE_LIMIT)
        try:
            for command in self._greeting:
                await _command(stream, command)
        except BaseException as error:
            stream.close()
            if isinstance(error, Refused):
                raise Lost(str(error)) from None
            raise
        return stream

    async def ask(self, key: str) -> Iterable[str | None]:
        """The value. Raises TempFail."""
        name = self.templates.expand_key(self._key, key, str)
        if name is None:
            return ()
        where = self.templates.expand_key(self._hash, key, str)
        command = ["HGET", where, name] if where else ["GET", name]
        value = await self._servers.use(lambda stream: _command(stream, command))
        return () if value is None else (to_text(value, self.name, self._flags),)

    def close(self) -> None:
        """No more lookups."""
        super().close()
        self._servers.close()


async def _command(stream: Stream, words: list[str]) -> bytes | None:
    """One command and its reply, which is a line or a string (RESP2)."""
    sent = [word.encode("utf-8", "surrogateescape") for word in words]
    stream.writer.write(b"*%d\r\n" % len(sent) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in sent))
    line = await stream.line()
    kind, rest = line[:1], line[1:]
    if kind == b"+":
        return rest
    if kind == b"-":
        text = rest.decode("utf-8", "replace")
        # While it loads its data, or where its master is gone, another server may do better.
        raise (Lost if text.startswith(("LOADING", "MASTERDOWN", "CLUSTERDOWN")) else Refused)(text)
    if kind == b"$" and rest == b"-1":
        return None
    if kind != b"$" or not rest.isdigit() or int(rest) > _VALUE_LIMIT:
        raise Lost(f"unexpected reply: {line[:100]!r}")
    data = await stream.reader.readexactly(int(rest) + 2)
    return data[:-2]
