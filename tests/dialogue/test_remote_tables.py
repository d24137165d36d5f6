"""Remote tables in a session: answers are awaited, a server that is down is a 451, and it comes back by itself."""

from __future__ import annotations

import socket
import socketserver
import threading
from pathlib import Path

from tests.dialogue.script import BASE, QUIT, Script, steps
from tests.dialogue.smtpd_here import SmtpdHere
from tests.dialogue.talk import run
from tests.live import free_port

KNOWN = {b"u@relay.example": b"200 yes", b"127.0.0.1": b"200 yes", b"gone.example": b"200 error:5.7.9%20gone"}


class Handler(socketserver.StreamRequestHandler):
    """tcp_table(5)."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(KNOWN.get(line.split()[1], b"500 none") + b"\n")


class TableServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def replies(port: int, *commands: bytes) -> list[bytes]:
    script = Script("remote", [*steps(b"HELO x.example", b"MAIL FROM:<s@far.example>", *commands), QUIT])
    return run(port, script)[3:-1]


def test_a_remote_table_is_awaited_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    values = {"mynetworks": f"tcp:127.0.0.1:{port}", "relay_recipient_maps": f"tcp:127.0.0.1:{port}"}
    commands = (b"RCPT TO:<u@relay.example>", b"RCPT TO:<v@relay.example>", b"RCPT TO:<w@far.example>")
    with SmtpdHere(tmp_path, {**BASE, **values}) as server:
        down = replies(server.port, *commands)
        assert [reply[:9] for reply in down] == [b"451 4.3.0"] * 3
        with TableServer(("127.0.0.1", port), Handler) as tables:
            thread = threading.Thread(target=tables.serve_forever)
            thread.start()
            try:
                threading.Event().wait(1.1)  # a server that was down is left alone for a second
                up = replies(server.port, *commands)
            finally:
                tables.shutdown()
                thread.join()
    assert up == [
        b"250 2.1.5 Ok\r\n",
        b"550 5.1.1 <v@relay.example>: Recipient address rejected: User unknown in relay recipient table\r\n",
        b"250 2.1.5 Ok\r\n",
    ]
    assert not [line for line in server.log.lines if "panic" in line]


def test_a_client_that_is_gone_when_the_table_answers(tmp_path: Path) -> None:
    """Its session has ended in the log; nothing is said or done for it any more."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        values = {"mynetworks": f"tcp:127.0.0.1:{silent.getsockname()[1]}"}
        with SmtpdHere(tmp_path, {**BASE, **values}) as server:
            with socket.create_connection(("127.0.0.1", server.port), 10) as client:
                client.sendall(b"HELO x.example\r\nMAIL FROM:<s@far.example>\r\nRCPT TO:<w@far.example>\r\n")
                asked, _ = silent.accept()
                assert asked.recv(100) == b"get unknown\n"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            asked.sendall(b"200 yes\n")
            asked.close()
        assert not [line for line in server.log.lines if "panic" in line]
        assert server.intake.count == 0 or server.log.lines[-1].startswith("smtpd: disconnect")
