"""memcache: a memcached server, in front of another table if there is a backup.

    get KEY            VALUE KEY FLAGS LENGTH, the data, END    or END alone
    set KEY FLAGS TTL LENGTH, the data                          STORED

What the server does not have, or cannot say, is asked of the backup, and what that has is stored in the server. The
protocol is spoken here, without a library: two commands, and line_size_limit and data_size_limit are about its bytes.
Called through tables.lookup. Raises TempFail for a server that does not answer where there is no backup.

Postfix manual: memcache_table(5).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastmta.tables.lookup import Context, Flags, Table, TempFail, open_table
from fastmta.tables.query import DomainList, Options, Templates, fold, is_searchable, to_text
from fastmta.tables.remote import Lost, RemoteTable, Servers, Stream, connect_stream, parse_host

_PORT: Final = 11211
_LONGEST_KEY: Final = 250
_IDLE: Final = 60.0
_RETRY: Final = 1.0
_Work = Callable[[Stream], Awaitable[bytes | None]]


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open memcache:name. Raises TableError."""
    return MemcacheTable(name, flags, context)


class MemcacheTable(RemoteTable):
    """One server, and its backup."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__(f"memcache:{name}", flags, context)
        options = Options("memcache", name, context)
        templates = Templates(self.name, context)
        self._templates = templates
        self._key = templates.query(options.text("key_format", "%s"))
        self._domains = DomainList(options.text("domain"), context)
        self._ttl = options.number("ttl", 3600)
        self._store_flags = options.number("flags", 0)
        self._tries = options.number("max_try", 2, 1)
        self._pause = options.number("retry_pause", 1, 1)
        self._data_limit = options.number("data_size_limit", 10240, 1)
        line_limit = options.number("line_size_limit", 1024, 1)
        host = parse_host(options.text("memcache", "inet:localhost:11211"), _PORT)
        timeout = options.number("timeout", 2, 1)
        backup = options.text("backup")
        options.finish()
        self._backup = open_table(backup, context, flags) if backup else None
        self._servers: Servers[Stream] = Servers(
            self.name,
            [host],
            lambda host: connect_stream(host, line_limit),
            context,
            timeout=timeout,
            idle=_IDLE,
            retry=_RETRY,
        )

    async def fetch(self, key: str) -> str | None:
        """Ask the server, then the backup. Raises TempFail."""
        if self._flags.fold_fixed:
            key = fold(key, self._flags.utf8)
        if not is_searchable(key) or not await self._domains.admits(key):
            return None
        wanted = self._templates.expand_key(self._key, key, str)
        if not wanted:
            return None
        sent = wanted.encode()
        # No command can name such a key: the server does not have it.
        is_possible = len(sent) <= _LONGEST_KEY and not any(byte <= 32 or byte == 127 for byte in sent)
        value: bytes | None = None
        try:
            if is_possible:
                value = await self._try(lambda stream: self._get(stream, sent))
        except TempFail:
            if self._backup is None:
                raise
        if value is not None:
            return to_text(value, self.name, self._flags)
        if self._backup is None:
            return None
        text = await self._backup.fetch(key)
        if text is not None and is_possible:
            await self._remember(sent, text.encode("utf-8", "surrogateescape"))
        return text

    async def _try(self, work: _Work) -> bytes | None:
        for _ in range(self._tries - 1):
            try:
                return await self._servers.use(work)
            except TempFail:
                await asyncio.sleep(self._pause)
        return await self._servers.use(work)

    async def _get(self, stream: Stream, key: bytes) -> bytes | None:
        stream.writer.write(b"get %s\r\n" % key)
        words = (await stream.line()).split()
        if words == [b"END"]:
            return None
        if len(words) < 4 or words[0] != b"VALUE" or not words[3].isdigit():
            raise Lost(f"unexpected reply: {b' '.join(words)[:100]!r}")
        length = int(words[3])
        if length > self._data_limit:
            raise Lost(f"data of {length} bytes (data_size_limit)")
        data = await stream.reader.readexactly(length)
        if await stream.line() or await stream.line() != b"END":
            raise Lost("no END after data")
        return data

    async def _remember(self, key: bytes, data: bytes) -> None:
        """Store what the backup said; where that does not work, the next lookup asks the backup again."""
        command = b"set %s %d %d %d\r\n%s\r\n" % (key, self._store_flags, self._ttl, len(data), data)

        async def work(stream: Stream) -> bytes:
            stream.writer.write(command)
            return await stream.line()

        try:
            reply = await self._servers.use(work)
        except TempFail:
            return
        if reply != b"STORED":
            self._context.warn(f"{self.name}: update failed: {reply[:100]!r}")

    def refresh(self) -> bool:
        """Of the backup."""
        return self._backup is not None and self._backup.refresh()

    def close(self) -> None:
        """No more lookups."""
        self._servers.close()
        self._domains.close()
        if self._backup is not None:
            self._backup.close()
