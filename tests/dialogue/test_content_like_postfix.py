"""What arrives at a next hop after odd content, through a live Postfix and from FastMTA: the same bytes.

Postfix relays to smtp-sink, which keeps what it gets; FastMTA's content is read as any next hop reads it (dots off).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogue.live_postfix import LivePostfix
from tests.dialogue.smtpd_here import SmtpdHere
from tests.dialogue.talk import comparable_reply, read_reply
from tests.live import free_port, need, wait_for

HEADER = b"Subject: s\r\nMessage-Id: <m@x>\r\nDate: d\r\nFrom: f@x.example\r\nTo: t@x.example\r\n\r\n"
BODIES = [
    *(
        b"a\n.\n",
        b"a\n.\r\n",
        b"a\r\n.\n",
        b"a\r\n.\r\r\n",
        b"a\r\r\n",
        b"a\r.\r\n",
        b"a\r\n.\rb\r\n",
        b"a\r\n.\0\r\n",
        b"a\0b\r\n",
    ),
    *(
        b"\r.\r\r\n",
        b"a\nb\r\n",
        b"a\n\n",
        b"a\r\n..\r\n",
        b"a\r\n.b\r\n",
        b"a\n..\n",
        b"a\n.b\r\n",
        b"a\r\r\r\n",
        b".\n",
        b"\n.\n",
    ),
    *(b"\xff\xfe\r\n", b"\x7f\x1b[0m\r\n", b"", b"\r\n", b"\n", b"\r\n\r\n", b"..\r\n.\n..\n"),
    *(
        b"x" * n + end
        for n in (2045, 2046, 2047, 2048, 2049, 4095, 4096, 4097)
        for end in (b"\r\n", b".\r\n", b"\n", b"\rz\r\n")
    ),
    *(b"x" * n + b"\r\n.x\r\n" for n in (2047, 2048, 2049)),
]
HEADERS = [
    *(
        b"From x\r\nFrom y\r\nSubject: z\r\n",
        b">From x\r\nSubject: z\r\n",
        b">>>From x\r\n",
        b" foo\r\nSubject: z\r\n",
        b"\tfoo\r\n",
    ),
]
MODES = ["normalize", "no", "reject"]


class Sink:
    """smtp-sink, and what it kept."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="sink"))
        self.folder.chmod(0o755)
        shutil.chown(self.folder, "postfix")
        command = [need("smtp-sink"), "-u", "postfix", "-d", "kept.%M.", f"127.0.0.1:{self.port}", "100"]
        self.process = subprocess.Popen(command, cwd=self.folder)

    def next(self) -> bytes:
        """The next message, without what Postfix and smtp-sink put before it."""

        def complete() -> bool:
            return any(path.read_bytes().endswith(b"\n\n") for path in self.folder.iterdir())

        wait_for(complete, 20, "the message at the sink")
        (path,) = self.folder.iterdir()
        data = path.read_bytes()
        path.unlink()
        data = data[data.index(b"Received: from x.example") :]
        lines = data.split(b"\n")
        rest = next(at for at, line in enumerate(lines) if at and line[:1] not in (b"\t", b" "))
        return b"\n".join(lines[rest:])[:-1]  # one newline is smtp-sink's own


@pytest.fixture(scope="module")
def sink() -> Iterator[Sink]:
    if os.getuid():
        pytest.skip("Postfix needs root")
    made = Sink()
    yield made
    made.process.terminate()
    made.process.wait(10)
    shutil.rmtree(made.folder)


@pytest.fixture(scope="module")
def postfix(sink: Sink) -> Iterator[LivePostfix]:
    options = [{"smtpd_forbid_bare_newline": mode} for mode in MODES]
    with LivePostfix(Path(tempfile.mkdtemp(prefix="pf")), options, sink.port) as server:
        yield server


def send(port: int, content: bytes) -> bytes:
    """The reply to the content, sent by DATA in one go."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock, sock.makefile("rb") as file:
        read_reply(file)
        for line in (
            b"EHLO x.example\r\n",
            b"MAIL FROM:<a@b.example>\r\n",
            b"RCPT TO:<r@relay.example>\r\n",
            b"DATA\r\n",
        ):
            sock.sendall(line)
            read_reply(file)
        sock.sendall(content)
        return comparable_reply(read_reply(file))


def received(content: list[bytes]) -> bytes:
    """As smtp-sink keeps it."""
    lines = b"".join(content).split(b"\r\n")
    return b"\n".join(line[1:] if line.startswith(b".") else line for line in lines)


@pytest.mark.peer
@pytest.mark.parametrize("mode", MODES)
def test_content(mode: str, postfix: LivePostfix, sink: Sink, tmp_path: Path) -> None:
    port = postfix.ports[MODES.index(mode)]
    wholes = [HEADER + body for body in BODIES] + [header + b"\r\nbody\r\n" for header in HEADERS]
    with SmtpdHere(tmp_path, {"smtpd_forbid_bare_newline": mode}) as server:
        for whole in wholes:
            sent = whole if whole.endswith(b"\n") else whole + b"\r\n"
            reply = send(port, sent + b"tail\r\n.\r\n")
            assert send(server.port, sent + b"tail\r\n.\r\n") == reply, whole[-60:]
            if not reply.startswith(b"250"):
                continue
            expected = sink.next()
            ours = received(server.intake.messages[-1].content)
            if whole.startswith(HEADER):
                assert ours == expected, whole[-60:]
            else:  # Postfix adds header fields that are not there
                added = (b"Message-Id: ", b"Date: ", b"From: a@b.example")
                kept = [line for line in expected.split(b"\n") if not line.startswith(added)]
                assert ours.split(b"\n") == kept, whole
