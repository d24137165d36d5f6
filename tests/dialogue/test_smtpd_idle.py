"""Ten thousand silent clients: they cost their sockets, and little else."""

from __future__ import annotations

import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SESSIONS = 10_000

SERVER = """
import sys
from pathlib import Path
from tests.dialogue.smtpd_here import SmtpdHere
from tests.live import wait_for
with SmtpdHere(Path(sys.argv[1]), {"smtpd_client_connection_count_limit": "0"}) as server:
    def pss():
        text = Path("/proc/self/smaps_rollup").read_text()
        return int(text[text.index("Pss:") + 4:].split()[0])
    print(server.port, pss(), flush=True)
    sys.stdin.readline()
    wait_for(lambda: len(server.service.sessions) >= int(sys.argv[2]), 60, "the sessions")
    print(len(server.service.sessions), pss(), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
def test_ten_thousand_idle_sessions(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SESSIONS + 200:
        pytest.skip(f"no more than {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tmp_path), str(SESSIONS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    sockets: list[socket.socket] = []
    try:
        assert server.stdin is not None and server.stdout is not None
        port, before = (int(word) for word in server.stdout.readline().split())
        for number in range(SESSIONS):
            # a loopback address has not enough ports for many runs in a row
            source = (f"127.0.{1 + number % 5}.1", 0)
            sockets.append(socket.create_connection(("127.0.0.1", port), 10, source_address=source))
        for sock in sockets:
            assert sock.recv(100).startswith(b"220 ")
            sock.sendall(b"EHLO x.example\r\n")
        for sock in sockets:
            assert sock.recv(1000).startswith(b"250-")
        for sock in sockets[::10]:
            sock.sendall(b"MAIL FROM:<a@b.exam")  # and then nothing
        begin = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), 10) as one:
            assert re.match(rb"220 .*\r\n", one.recv(100))
            one.sendall(b"NOOP\r\n")
            assert one.recv(100) == b"250 2.0.0 Ok\r\n"
        assert time.monotonic() - begin < 1
        server.stdin.write("\n")
        server.stdin.flush()
        sessions, after = (int(word) for word in server.stdout.readline().split())
        print(f"{sessions} sessions: {before} KB -> {after} KB")
        assert sessions >= SESSIONS
        assert after < 250 * 1000
        assert (after - before) / sessions < 10
    finally:
        for sock in sockets:
            sock.close()
        server.kill()
        server.communicate(timeout=10)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
