"""A full disk: mail is put off with 452 4.3.1, what was accepted is kept and delivered, and that makes room again."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer, free_port, wait_for
from tests.live_sink import Sink

FAST = {"minimal_backoff_time": "2s", "maximal_backoff_time": "2s", "queue_run_delay": "1s"}
BODY = ("x" * 70 + "\r\n") * 1400  # 100 KB
SIZE = 48  # MB
STORAGE = (452, b"4.3.1 Insufficient system storage")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: ext4 in a file, or tmpfs where there are no loop devices."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False
    if shutil.which("mkfs.ext4"):
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(SIZE << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
        mounted = subprocess.run(["mount", "-o", "loop", str(image), str(disk)], capture_output=True).returncode == 0
    if not mounted:
        tmpfs = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}m", "tmpfs", str(disk)]
        if subprocess.run(tmpfs, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def attempt(port: int, number: int) -> tuple[int, bytes]:
    """Send one: what the server says to it in the end."""
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo()
        answer = client.mail("a@here.test")
        if answer[0] != 250:
            return answer
        assert client.rcpt(f"n{number}@there.test")[0] == 250
        return client.data(f"Subject: n{number}\r\n\r\n{BODY}")


def fill(server: LiveServer, first: int) -> tuple[list[int], set[tuple[int, bytes]]]:
    """Send until every worker says no: what was acknowledged, and what was said to the rest."""
    done: list[int] = []
    refusals: list[tuple[int, bytes]] = []
    for number in range(first, first + 2 * SIZE * 10):
        answer = attempt(server.port, number)
        if answer[0] == 250:
            done.append(number)
        else:
            refusals.append(answer)
            if len(refusals) == 40:
                return done, set(refusals)
    raise AssertionError("the disk never was full")


def free(disk: Path) -> float:
    """In MB."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize / 1e6


# A message_size_limit keeps room for one message; without one there is still room for the index and for outcomes.
@pytest.mark.parametrize("limit", ["1000000", "0"])
@pytest.mark.parametrize("restart", [False, True], ids=["", "restart"])
def test_full_disk(small_disk: Path, tmp_path: Path, limit: str, restart: bool) -> None:
    port = free_port()
    parameters = {
        "queue_directory": str(small_disk / "queue"),
        "relayhost": f"[127.0.0.1]:{port}",
        "message_size_limit": limit,
        "fastmta_queue_segment_size": "4000000",
        **FAST,
    }
    server = LiveServer(tmp_path / "server", parameters, workers=2)
    server.queue = small_disk / "queue"
    with server, contextlib.ExitStack() as stack:
        kept, refusals = fill(server, 0)
        assert refusals == {STORAGE}
        assert len(kept) > SIZE * 10 * 0.4
        server.wait_log("452 4.3.1 Insufficient system storage; from=<a@here.test> proto=ESMTP")
        listed = server.run("mailq", timeout=60).stdout
        assert f"in {len(kept)} Requests." in listed, listed[-200:]
        if restart:
            server.stop()
            server.start()
            assert f"in {len(kept)} Requests." in server.run("mailq").stdout
        sink = stack.enter_context(Sink(port=port))
        server.run("fastmta", "flush")
        sink.wait(len(kept), 90)
        wait_for(lambda: attempt(server.port, 10000)[0] == 250, 60, f"room again: {free(small_disk)} MB")
        sink.wait(len(kept) + 1, 60)
        wait_for(lambda: free(small_disk) > SIZE * 0.5, 60, f"space is given back: {free(small_disk)} MB")
        arrived = re.findall(r"^Subject: n(\d+)", "\n".join(mail.content for mail in sink.mails), re.MULTILINE)
        assert sorted(map(int, arrived)) == [*kept, 10000]
        assert all(mail.content.endswith(BODY) for mail in sink.mails)
        # and once more, to the brim
        sink.gate.clear()
        more, refusals = fill(server, 20000)
        assert refusals == {STORAGE}
        assert len(more) > SIZE * 10 * 0.4
        sink.gate.set()
        sink.wait(len(kept) + 1 + len(more), 90)
    assert "panic" not in server.log()


def test_queue_minfree(tmp_path: Path) -> None:
    found = os.statvfs(tmp_path)
    too_much = 2 * found.f_blocks * found.f_frsize
    with LiveServer(tmp_path, {"queue_minfree": str(too_much), "default_transport": "discard"}) as server:
        assert attempt(server.port, 1) == STORAGE
        log = server.wait_log("disconnect from")
        assert (
            "NOQUEUE: reject: MAIL from localhost[127.0.0.1]: 452 4.3.1 Insufficient system storage; "
            "from=<a@here.test> proto=ESMTP helo=<"
        ) in log
        server.parameters["queue_minfree"] = "0"
        server.write_main_cf()
        assert server.run("fastmta", "reload").returncode == 0
        assert attempt(server.port, 2)[0] == 250
