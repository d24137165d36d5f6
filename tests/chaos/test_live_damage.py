"""A running or stopped server whose queue was damaged, as root starts it: its workers are another user's."""

from __future__ import annotations

import os
import re
import shutil
import smtplib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import LiveServer, free_port, wait_for
from tests.live_sink import Sink

LATE = {"minimal_backoff_time": "1h", "maximal_backoff_time": "1h"}
COUNT = 12


def send(server: LiveServer, count: int = COUNT) -> list[str]:
    """So many messages that cannot be delivered now; their queue ids."""
    ids = []
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        for number in range(count):
            client.ehlo()
            client.mail("a@here.test")
            client.rcpt(f"n{number}@there.test")
            code, text = client.data(f"Subject: n{number}\r\n\r\nmark-{number:03d}\r\n" + "x" * 500 + "\r\n")
            assert code == 250, text
            ids.append(text.decode().split()[-1])
    server.wait_log("status=deferred", count=count)
    return ids


def listed(server: LiveServer) -> list[str]:
    done = server.run("postqueue", "-j")
    assert done.returncode == 0, done.stderr
    return re.findall(r'"queue_id": "(\w+)"', done.stdout)


def numbers(sink: Sink) -> list[int]:
    return sorted(int(number) for mail in sink.mails for number in re.findall(r"^mark-(\d+)", mail.content, re.M))


def test_a_damaged_message_is_kept_aside_and_the_rest_delivered(tmp_path: Path) -> None:
    port = free_port()
    with LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{port}", **LATE}, workers=2) as server:
        ids = send(server)
        segments = [path for path in server.queue.glob("shard-*/log/*.seg") if b"mark-005" in path.read_bytes()]
        assert len(segments) == 1
        server.stop()  # contents are in memory until then
        data = bytearray(segments[0].read_bytes())
        data[data.index(b"mark-005") + 20] ^= 1
        segments[0].write_bytes(data)
        server.start()
        done = server.run("postcat", "-q", ids[5])
        assert done.returncode == 1
        assert done.stderr == f"postcat: fatal: {ids[5]}: damaged, or gone\n"
        with Sink(port=port) as sink:
            assert server.run("postqueue", "-f").returncode == 0
            sink.wait(COUNT - 1, 30)
            wait_for(lambda: listed(server) == [], 30, "an empty queue")
            assert numbers(sink) == [number for number in range(COUNT) if number != 5]
        log = server.wait_log("set aside as corrupt/")
        assert f"{ids[5]}: damaged message" in log
        kept = list((server.queue / "corrupt").iterdir())
        assert len(kept) == 1
        assert b"mark-005" in kept[0].read_bytes()
        assert "panic" not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="to make a folder that the workers may not write to")
def test_a_damaged_message_is_not_forgotten_where_no_copy_can_be_made(tmp_path: Path) -> None:
    port = free_port()
    with LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{port}", **LATE}) as server:
        ids = send(server)
        server.stop()
        (segment,) = [path for path in server.queue.glob("shard-*/log/*.seg") if b"mark-005" in path.read_bytes()]
        data = bytearray(segment.read_bytes())
        data[data.index(b"mark-005") + 20] ^= 1
        segment.write_bytes(data)
        server.start()
        corrupt = server.queue / "corrupt"
        os.chown(corrupt, 0, 0)
        with Sink(port=port) as sink:
            assert server.run("postqueue", "-f").returncode == 0
            sink.wait(COUNT - 1, 30)
            server.wait_log("it stays")
            wait_for(lambda: listed(server) == [ids[5]], 30, "the damaged one alone is listed")
        assert b"mark-005" in segment.read_bytes()
        assert not list(corrupt.iterdir())


def remove(index: Path) -> None:
    shutil.rmtree(index)


def truncate(index: Path) -> None:
    os.truncate(index / "data.mdb", 8192)


def garbage(index: Path) -> None:
    (index / "data.mdb").write_bytes(os.urandom((index / "data.mdb").stat().st_size))


def test_an_index_that_is_taken_away_from_a_running_server_is_made_anew(tmp_path: Path) -> None:
    with LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{free_port()}", **LATE}, workers=2) as server:
        ids = send(server)
        assert sorted(listed(server)) == sorted(ids)
        for index in server.queue.glob("shard-*/index"):
            remove(index)
        assert sorted(listed(server)) == sorted(ids)
        more = send(server, 3)
        assert set(listed(server)) >= {*ids, *more}
        assert server.run("postsuper", "-h", "ALL").stderr == f"postsuper: Placed on hold: {COUNT + 3} messages\n"


@pytest.mark.parametrize("damage", [remove, truncate, garbage])
@pytest.mark.parametrize("killed", [False, True], ids=["stopped", "killed"])
def test_a_damaged_index_of_a_stopped_system_is_made_anew_for_the_tools(
    tmp_path: Path, damage: Callable[[Path], None], killed: bool
) -> None:
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{free_port()}", **LATE})
    server.start()
    try:
        ids = send(server)
    finally:
        if killed:
            server.kill()
        else:
            server.stop()
    wait_for(lambda: not server.master_pid(), 10, "the end of the server")
    for index in server.queue.glob("shard-*/index"):
        if (index / "data.mdb").exists():
            damage(index)
    assert sorted(listed(server)) == sorted(ids)
    assert b"mark-003" in subprocess.run(["cat", *server.queue.glob("shard-*/log/*.seg")], capture_output=True).stdout
    assert "mark-003" in server.run("postcat", "-q", ids[3]).stdout


def test_fewer_shards_leave_no_mail_behind(tmp_path: Path) -> None:
    port = free_port()
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{port}", **LATE}, workers=4)
    with server:
        for _ in range(8):
            send(server, 3)
        assert len(list(server.queue.glob("shard-*/log/*.seg"))) > 1
    server.parameters |= {"fastmta_queue_shards": "1", "fastmta_workers": "1"}
    server.write_main_cf()
    with server, Sink(port=port) as sink:
        wait_for(lambda: len(listed(server)) == 24, 20, "all are listed")

        def gone() -> bool:
            assert server.run("postqueue", "-f").returncode == 0
            return len(sink.mails) == 24

        wait_for(gone, 30, "all are delivered")
