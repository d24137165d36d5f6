"""socketmap: a server that is asked "name key" in netstrings: socketmap:inet:host:port:name, socketmap:unix:path:name.

    "MAP KEY"      OK VALUE: found    NOTFOUND : not found    TEMP, TIMEOUT, PERM REASON: cannot say

Called through tables.lookup. Raises TempFail for all of the last kind, as Postfix does, and for a server that does not
answer.

Postfix manual: socketmap_table(5).
"""

from __future__ import annotations

from typing import Final

from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail
from fastmta.tables.query import fold, to_text
from fastmta.tables.remote import Lost, RemoteTable, Servers, Stream, connect_stream, parse_host

_REPLY_LIMIT: Final = 100_000
_TIMEOUT: Final = 100.0
_IDLE: Final = 10.0
_RETRY: Final = 1.0


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open socketmap:server:name. Raises TableError."""
    return SocketmapTable(name, flags, context)


class SocketmapTable(RemoteTable):
    """One map of a server. It is asked once, with the whole key, and in its own case: it may match patterns."""

    is_pattern = True

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__(f"socketmap:{name}", flags, context)
        server, _, self._map = name.rpartition(":")
        if not server.startswith(("inet:", "unix:")) or not self._map or not server[5:]:
            raise TableError(f"{self.name}: bad name: expecting inet:host:port:name or unix:pathname:name")
        self._servers: Servers[Stream] = Servers(
            self.name,
            [parse_host(server, 0)],
            lambda host: connect_stream(host, _REPLY_LIMIT),
            context,
            timeout=_TIMEOUT,
            idle=_IDLE,
            retry=_RETRY,
        )

    async def fetch(self, key: str) -> str | None:
        """Ask. Raises TempFail."""
        if self._flags.fold_pattern:
            key = fold(key, self._flags.utf8)
        request = f"{self._map} {key}".encode("utf-8", "surrogateescape")

        async def ask(stream: Stream) -> tuple[bytes, bytes]:
            stream.writer.write(b"%d:%s," % (len(request), request))
            status, blank, rest = (await _netstring(stream)).partition(b" ")
            known = status in (b"OK", b"TEMP", b"TIMEOUT", b"PERM") and blank
            if not known and status != b"NOTFOUND":
                raise Lost(f"bad reply: {status[:100]!r}")
            return status, rest

        status, rest = await self._servers.use(ask)
        if status == b"NOTFOUND":
            return None
        text = to_text(rest, self.name, self._flags)
        if status != b"OK":
            raise TempFail(f"{self.name}: {status.decode()} {text}")
        return text

    def close(self) -> None:
        """No more lookups."""
        self._servers.close()


async def _netstring(stream: Stream) -> bytes:
    digits = b""
    while True:
        byte = await stream.reader.readexactly(1)
        if byte == b":" and digits:
            break
        if not byte.isdigit() or len(digits) > 6:
            raise Lost("no netstring in reply")
        digits += byte
    length = int(digits)
    if length > _REPLY_LIMIT:
        raise Lost(f"reply of {length} bytes")
    data = await stream.reader.readexactly(length + 1)
    if not data.endswith(b","):
        raise Lost("no end of netstring in reply")
    return data[:-1]
