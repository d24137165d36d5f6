"""`fastmta why`: what it says of each state."""

from __future__ import annotations

import smtplib
from pathlib import Path

from fastmta.admin.protocol import Destination, Why
from fastmta.cli.why import explain
from tests.live import LiveServer


def test_deferred_on_a_dead_destination() -> None:
    dead = Destination(
        "smtp", "example.org", window=5, dead_until=1060.0, reason="connect to a[192.0.2.1]:25: timed out"
    )
    lines = explain(Why("ABC", "deferred", 1030.0, 2, 1, ["no route"], [dead]), 1000.0)
    assert lines[0] == "ABC: in the deferred queue, 1 recipient left, tried 2 times"
    assert lines[1].startswith("  next attempt at ")
    assert lines[1].endswith("(in 30 s)")
    assert lines[2] == "  last time: no route"
    assert lines[3].startswith("  smtp:example.org is taken for dead, tried again at ")
    assert lines[3].endswith(": connect to a[192.0.2.1]:25: timed out")


def test_waiting_for_its_turn() -> None:
    busy = Destination("smtp", "example.org", window=5, in_use=5, waiting=70)
    lines = explain(Why("ABC", "active", recipients=3, destinations=[busy]), 1000.0)
    assert lines == [
        "ABC: in the active queue, 3 recipients left, not tried yet",
        "  smtp:example.org: 5 of 5 deliveries at a time are under way, 70 wait for their turn",
    ]


def test_on_hold() -> None:
    assert explain(Why("ABC", "hold", recipients=1), 0.0)[1] == "  waits for the postmaster: `postsuper -H` releases it"


def test_a_running_server_is_asked(tmp_path: Path) -> None:
    with LiveServer(tmp_path, {"defer_transports": "smtp"}, workers=2) as server:
        with smtplib.SMTP("127.0.0.1", server.port) as client:
            client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\nhello\r\n")
        log = server.wait_log("status=deferred")
        queue_id = log.partition("postfix/cleanup[")[2].split()[1].rstrip(":")
        done = server.run("fastmta", "why", queue_id, "0123456789")
        assert done.returncode == 1
        assert done.stdout.startswith(f"{queue_id}: in the deferred queue, 1 recipient left, tried once\n")
        assert "deferred transport" in done.stdout
        assert "0123456789: not in the queue" in done.stderr
