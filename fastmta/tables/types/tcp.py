"""tcp: a server that is asked "get key" over TCP: tcp:host:port.

    get KEY           200 VALUE: found    500 TEXT: not found    400 TEXT: cannot say now

Keys and values travel with %XX for what is not plain text. Nothing protects them on their way: use it on loopback.
Called through tables.lookup. Raises TempFail for 400 and for a server that does not answer.

Postfix manual: tcp_table(5).
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

from fastmta.tables.lookup import Context, Flags, Table, TempFail
from fastmta.tables.query import fold, to_text
from fastmta.tables.remote import Lost, RemoteTable, Servers, Stream, connect_stream, parse_host

_REPLY_LIMIT: Final = 4096
_TIMEOUT: Final = 100.0
_IDLE: Final = 10.0
_RETRY: Final = 1.0
_PLAIN: Final = "".join(chr(code) for code in range(33, 127) if chr(code) != "%")


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open tcp:host:port. Raises TableError."""
    return TcpTable(name, flags, context)


class TcpTable(RemoteTable):
    """One server. It is asked once, with the whole key, and in its own case: it may match patterns."""

    is_pattern = True

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__(f"tcp:{name}", flags, context)
        self._servers: Servers[Stream] = Servers(
            self.name,
            [parse_host(name, 0)],
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
        sent = quote_from_bytes(
            key.encode("utf-8", "surrogateescape"),
            _PLAIN,
        )

        async def ask(stream: Stream) -> bytes:
            stream.writer.write(f"get {sent}\n".encode())
            reply = await stream.line()
            if reply[:3] not in (b"200", b"400", b"500") or reply[3:4] not in (b" ", b"\t"):
                raise Lost(f"bad reply: {reply[:100]!r}")
            return reply

        reply = await self._servers.use(ask)
        value = unquote_to_bytes(reply[4:].lstrip())
        if reply.startswith(b"500"):
            return None
        text = to_text(value, self.name, self._flags)
        if reply.startswith(b"400"):
            raise TempFail(f"{self.name}: {text}")
        return text

    def close(self) -> None:
        """No more lookups."""
        self._servers.close()
