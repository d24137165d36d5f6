"""A small server of tables, for tests: python -m tests.table_server tcp|socketmap PORT|PATH. Answers are in ANSWERS."""

from __future__ import annotations

import socketserver
import sys
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

VALUES: dict[bytes, bytes] = {
    b"joe@example.com": b"found joe",
    b"two words": b"a b % c",
    "jürgen@example.com".encode(): "grün".encode(),
    b"100%": b"percent",
    b"line": b"one\ttwo",
    b"empty": b"",
}


class Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            _, _, sent = line.rstrip(b"\r\n").partition(b" ")
            key = unquote_to_bytes(sent)
            if key == b"hang":
                continue
            if key == b"gone":
                return
            if key == b"temp":
                reply = b"400 try%20later"
            elif key == b"bad":
                reply = b"hello"
            elif key in VALUES:
                reply = b"200 " + quote_from_bytes(VALUES[key], "").encode()
            else:
                reply = b"500 none"
            self.wfile.write(reply + b"\n")


class Socketmap(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while length := self._length():
            request = self.rfile.read(length + 1)[:-1]
            name, _, key = request.partition(b" ")
            if key == b"gone" or name != b"map":
                return
            if key in (b"temp", b"timeout", b"perm"):
                reply = key.upper() + b" because"
            elif key == b"bad":
                reply = b"hello"
            elif key in VALUES:
                reply = b"OK " + VALUES[key]
            else:
                reply = b"NOTFOUND "
            self.wfile.write(b"%d:%s," % (len(reply), reply))

    def _length(self) -> int:
        digits = b""
        while (byte := self.rfile.read(1)) not in (b"", b":"):
            digits += byte
        return int(digits or b"0")


def serve(kind: str, where: str) -> None:
    socketserver.ThreadingMixIn.daemon_threads = True
    socketserver.TCPServer.allow_reuse_address = True
    handler = Tcp if kind == "tcp" else Socketmap
    if where.isdigit():
        socketserver.ThreadingTCPServer(("127.0.0.1", int(where)), handler).serve_forever()
    Path(where).unlink(missing_ok=True)
    socketserver.ThreadingUnixStreamServer(where, handler).serve_forever()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])
