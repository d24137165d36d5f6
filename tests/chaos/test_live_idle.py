"""Thousands of silent clients cost nothing but their sockets, and a new one is served at once.

10,000 sessions, or as many as the limit of open files allows; FASTMTA_SESSIONS for another number.
"""

from __future__ import annotations

import os
import resource
import selectors
import smtplib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer

ALL = 10_000  # sessions that must fit
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
SPARE = 500  # open files for everything else
ALLOWED = ALL if HARD == resource.RLIM_INFINITY else min(ALL, HARD - SPARE)
SESSIONS = int(os.environ.get("FASTMTA_SESSIONS", str(ALLOWED)))
LIMIT = 250e6  # bytes, in all
AT_ONCE = 100  # connections that are being set up at one time


def memory(server: LiveServer) -> float:
    """PSS of all processes of the server, in bytes."""
    total = 0
    for pid in (server.master_pid(), *server.worker_pids()):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


@pytest.fixture(autouse=True)
def enough_files() -> Iterator[None]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, SESSIONS + SPARE), HARD))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, HARD))


def open_sessions(port: int, count: int, say: bytes) -> list[socket.socket]:
    """Sessions from several addresses that were greeted, and whose commands were answered."""
    made: list[socket.socket] = []
    with selectors.DefaultSelector() as waiting:
        while len(made) < count or waiting.get_map():
            while len(made) < count and len(waiting.get_map()) < AT_ONCE:
                sock = socket.socket()
                sock.bind((f"127.0.0.{2 + len(made) % 20}", 0))
                sock.settimeout(30)
                sock.connect(("127.0.0.1", port))
                made.append(sock)
                waiting.register(sock, selectors.EVENT_READ, say)
            ready = waiting.select(30)
            assert ready, f"nothing comes any more after {len(made)} sessions"
            for key, _ in ready:
                sock = key.fileobj  # type: ignore[assignment]
                answer = sock.recv(1000)
                assert answer.startswith(b"2"), answer
                waiting.unregister(sock)
                if key.data:
                    sock.sendall(key.data)
                    waiting.register(sock, selectors.EVENT_READ, b"")
    return made


@pytest.mark.parametrize("say", [b"EHLO client.example\r\n"], ids=["after EHLO"])
def test_idle_sessions(tmp_path: Path, say: bytes) -> None:
    parameters = {"smtpd_client_connection_count_limit": "0", "default_transport": "discard"}
    with LiveServer(tmp_path, parameters, workers=2) as server:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            client.sendmail("a@here.test", ["b@there.test"], "Subject: x\r\n\r\nx")
        before = memory(server)
        sessions = open_sessions(server.port, SESSIONS, say)
        with_all = memory(server)
        started = time.monotonic()
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            client.sendmail("a@here.test", ["b@there.test"], "Subject: x\r\n\r\nx")
        took = time.monotonic() - started
        print(
            f"\n{before / 1e6:.0f} MB at rest, {with_all / 1e6:.0f} MB with {SESSIONS} idle sessions "
            f"({(with_all - before) / SESSIONS:.0f} bytes each), a message took {took * 1000:.0f} ms"
        )
        assert before + (with_all - before) / SESSIONS * ALL < LIMIT
        assert took < 2, "a new client waits"
        # they are all still there, and both workers have their share
        for sock in sessions[:: max(1, SESSIONS // 50)]:
            sock.sendall(b"NOOP\r\n")
            assert sock.recv(100) == b"250 2.0.0 Ok\r\n"
        status = server.run("fastmta", "status").stderr
        assert status.count("ready") >= 2, status
        for sock in sessions:
            sock.close()
        server.wait_log("disconnect from", count=SESSIONS + 2, seconds=60)
