"""Run a script against a server on a loopback port; make replies and log lines comparable."""

from __future__ import annotations

import re
import socket

from tests.dialogue.script import Script

PATIENCE = 5.0  # seconds for a reply that must come

_QUEUE_ID = re.compile(r"(?<![\w.])(4QUEUE\d{5}|[0-9A-F]{9,14})(?![\w.])")


def read_reply(file: socket.SocketIO | object) -> bytes:
    """One reply, of one or more lines; b"" at the end of the connection."""
    out = b""
    while True:
        line: bytes = file.readline()  # type: ignore[attr-defined]
        out += line
        if not line or line[3:4] != b"-":
            return out


def run(port: int, script: Script) -> list[bytes]:
    """What the server says: the greeting, then for each step its replies together. b"" means that it hung up."""
    said: list[bytes] = []
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock, sock.makefile("rb") as file:
        said.append(read_reply(file))
        for step in script.steps:
            try:
                sock.sendall(step.send)
                said.append(b"".join(read_reply(file) for _ in range(step.replies)))
            except ConnectionError:
                said.append(b"")
            except TimeoutError:
                raise AssertionError(f"{script.name}: no reply to {step.send[:60]!r} after {said}") from None
    return said


def comparable_reply(reply: bytes) -> bytes:
    """Without queue ids."""
    return re.sub(rb"queued as \w+", b"queued as QUEUEID", reply)


def comparable_log(lines: list[str]) -> list[str]:
    """Lines of smtpd, without queue ids."""
    return [_QUEUE_ID.sub("QUEUEID", line) for line in lines if line.startswith("smtpd: ")]
