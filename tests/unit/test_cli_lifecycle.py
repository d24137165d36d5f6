"""A whole mail system through its commands: start, status, reload, flush, stop, abort, with mail on the way."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.live import LiveServer, free_port, wait_for


class Sink:
    """A next hop that keeps what it gets; `gate` holds back the answer to a message."""

    def __init__(self, port: int = 0) -> None:
        self.messages: list[Envelope] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.controller = Controller(self, hostname="127.0.0.1", port=port or free_port())
        self.controller.start()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.entered.set()
        await server.loop.run_in_executor(None, self.gate.wait)
        self.messages.append(envelope)
        return "250 2.0.0 kept"

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *error: object) -> None:
        self.gate.set()
        self.controller.stop()

    @property
    def relayhost(self) -> str:
        return f"[127.0.0.1]:{self.controller.port}"

    def subjects(self) -> list[str]:
        """The Subject: of every message, sorted."""
        texts = [bytes(envelope.original_content or b"").decode() for envelope in self.messages]
        return sorted(line[9:] for text in texts for line in text.splitlines() if line.startswith("Subject: "))


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as made:
        yield made


def send(port: int, subject: str) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        client.sendmail("a@sender.test", ["b@receiver.test"], f"Subject: {subject}\r\n\r\nhello\r\n")


def alive(pid: int) -> bool:
    """Whether it runs; what has ended and is not waited for by its new parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_start_status_stop(tmp_path: Path) -> None:
    server = LiveServer(tmp_path, workers=2)
    server.start()
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as client:
        assert client.noop()[0] == 250
    master, workers = server.master_pid(), server.worker_pids()
    assert len(workers) == 2
    status = server.run("fastmta", "status")
    assert status.returncode == 0
    assert f"the FastMTA mail system is running: PID: {master}" in status.stderr
    assert f"listening at 127.0.0.1:{server.port}" in status.stderr
    again = server.run("fastmta", "start")
    assert again.returncode == 1
    assert "the FastMTA mail system is already running" in again.stderr
    assert server.run("fastmta", "stop").returncode == 0
    assert not [pid for pid in (master, *workers) if alive(pid)]
    assert server.run("fastmta", "status").returncode == 1
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP("127.0.0.1", server.port, timeout=5)


def test_start_tells_why_not(tmp_path: Path) -> None:
    server = LiveServer(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)):
        done = server.run("fastmta", "start")
    assert done.returncode == 1
    assert f"line 1: bind 127.0.0.1 port {server.port}: Address already in use" in done.stderr
    assert server.run("fastmta", "status").returncode == 1


def test_stop_waits_for_a_delivery_under_way(tmp_path: Path, sink: Sink) -> None:
    server = LiveServer(tmp_path, {"relayhost": sink.relayhost, "fastmta_stop_timeout": "20s"})
    server.start()
    sink.gate.clear()
    send(server.port, "slow")
    assert sink.entered.wait(10)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    server.wait_log("terminating on signal 15")
    assert stopping.is_alive()
    sink.gate.set()
    stopping.join(20)
    assert not stopping.is_alive()
    assert "status=sent (250 2.0.0 kept)" in server.log()
    assert "killing it" not in server.log()


def test_stop_ends_when_its_time_is_up_and_the_message_stays(tmp_path: Path, sink: Sink) -> None:
    server = LiveServer(tmp_path, {"relayhost": sink.relayhost, "fastmta_stop_timeout": "1s"})
    server.start()
    sink.gate.clear()
    send(server.port, "later")
    assert sink.entered.wait(10)
    server.stop()
    assert "status=sent" not in server.log()
    sink.gate.set()
    sink.messages.clear()
    with server:
        server.wait_log("status=sent (250 2.0.0 kept)")
    assert "later" in sink.subjects()


def test_abort_waits_for_nothing(tmp_path: Path, sink: Sink) -> None:
    server = LiveServer(tmp_path, {"relayhost": sink.relayhost, "fastmta_stop_timeout": "600s"})
    server.start()
    sink.gate.clear()
    send(server.port, "kept")
    assert sink.entered.wait(10)
    done = server.run("fastmta", "abort", timeout=20)
    assert done.returncode == 0
    assert "aborting the FastMTA mail system" in done.stderr
    assert not server.worker_pids()
    sink.gate.set()
    with server:
        server.wait_log("status=sent (250 2.0.0 kept)")
    assert "kept" in sink.subjects()


def test_reload_under_load_loses_and_refuses_nothing(tmp_path: Path, sink: Sink) -> None:
    server = LiveServer(tmp_path, {"relayhost": sink.relayhost}, workers=2)
    with server:
        sent: list[str] = []
        failed: list[BaseException] = []
        enough = threading.Event()

        def load(name: str) -> None:
            try:
                while not enough.is_set():
                    subject = f"{name}-{len(sent)}"
                    send(server.port, subject)
                    sent.append(subject)
            except BaseException as error:
                failed.append(error)

        senders = [threading.Thread(target=load, args=(name,)) for name in "abc"]
        for sender in senders:
            sender.start()
        for _ in range(4):
            done = server.run("fastmta", "reload")
            assert (done.returncode, failed) == (0, [])
        enough.set()
        for sender in senders:
            sender.join()
        assert not failed
        assert sent
        wait_for(lambda: len(sink.messages) >= len(sent), 20, "all is delivered")
        assert sink.subjects() == sorted(sent)


def test_mail_deferred_by_an_old_worker_is_delivered_by_a_new_one(tmp_path: Path) -> None:
    port = free_port()
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{port}"}, workers=2)
    with server:
        for number in range(6):
            send(server.port, str(number))
        server.wait_log("status=deferred", count=6)
        assert server.run("fastmta", "reload").returncode == 0
        wait_for(lambda: "draining" not in server.run("fastmta", "status").stderr, 20, "the old workers are gone")
        with Sink(port) as sink:
            assert server.run("fastmta", "flush").returncode == 0
            wait_for(lambda: len(sink.messages) >= 6, 20, server.log())
            assert sink.subjects() == [str(number) for number in range(6)]


def test_reload_with_an_error_says_so_and_changes_nothing(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        server.parameters["smtpd_timeout"] = "soon"
        server.write_main_cf()
        done = server.run("fastmta", "reload")
        assert done.returncode == 1
        assert "smtpd_timeout" in done.stderr
        assert "main.cf, line" in done.stderr
        with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as client:
            assert client.noop()[0] == 250
        del server.parameters["smtpd_timeout"]
        server.write_main_cf()


def test_reload_takes_up_what_changed(tmp_path: Path) -> None:
    with LiveServer(tmp_path) as server:
        server.parameters["smtpd_banner"] = "$myhostname ESMTP changed"
        server.write_main_cf()
        assert server.run("fastmta", "reload").returncode == 0
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            assert b"ESMTP changed" in sock.recv(200)


def test_a_killed_worker_is_replaced_and_its_mail_is_delivered(tmp_path: Path, sink: Sink) -> None:
    with LiveServer(tmp_path, {"relayhost": sink.relayhost}) as server:
        sink.gate.clear()
        send(server.port, "survivor")
        assert sink.entered.wait(10)
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        sink.gate.set()
        server.wait_log("status=sent (250 2.0.0 kept)")
        assert set(sink.subjects()) == {"survivor"}
        assert f"pid {worker} killed by signal 9" in server.log()


def test_start_fg_logs_to_standard_output_and_ends_with_ctrl_c(tmp_path: Path, sink: Sink) -> None:
    server = LiveServer(tmp_path, {"relayhost": sink.relayhost, "maillog_file": "/dev/stdout"})
    server.parameters.pop("maillog_file_prefixes", None)
    server.write_main_cf()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastmta", "-c", str(server.config), "start-fg"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: "ready" in server.run("fastmta", "status").stderr, 20, "it is up")
    send(server.port, "seen")
    wait_for(lambda: len(sink.messages) == 1, 20, "delivered")
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "daemon started -- version" in output
    assert "status=sent (250 2.0.0 kept)" in output
    assert "terminating on signal 2" in output
    assert "killed by signal" not in output
    assert "Traceback" not in errors


def test_quickstart_is_a_relay_to_look_at(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents):
        if os.geteuid() == 0 and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastmta", "quickstart", str(tmp_path / "run"), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    told = ""
    while "Ctrl-C stops it." not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    assert f"127.0.0.1:{port}" in told
    code = next(line.split('"')[1] for line in told.splitlines() if "smtplib" in line)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
    while "status=sent" not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 0


def test_workers_import_nothing_once_they_gave_up_root(tmp_path: Path, sink: Sink) -> None:
    """Their program may lie where only root may read."""
    closed = free_port()
    bounces = {"mydestination": "bounces.test", "local_transport": "error:no", "smtpd_reject_unlisted_recipient": "no"}
    server = LiveServer(tmp_path, {"relayhost": sink.relayhost, **bounces})
    book = tmp_path / "imports"
    for number in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.locked_master", str(book), str(server.config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: "ready" in server.run("fastmta", "status").stderr, 20, "it is up")
        send(server.port, f"delivered {number}")
        server.wait_log("status=sent (250 2.0.0 kept)", count=1 + 3 * number)
        with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
            client.sendmail("a@sender.test", ["x@bounces.test"], "Subject: back\r\n\r\nhello\r\n")
            client.sendmail("a@sender.test", ["x@b\u00fccher.test"], "Subject: idn\r\n\r\nhello\r\n", ["SMTPUTF8"])
        server.wait_log("status=bounced", count=1 + number)
        server.wait_log("sender non-delivery notification", count=1 + number)
        assert server.run("postqueue", "-p").returncode == 0
        server.parameters["relayhost"] = f"[127.0.0.1]:{closed}"
        server.write_main_cf()
        assert server.run("fastmta", "reload").returncode == 0
        send(server.port, f"deferred {number}")
        server.wait_log("status=deferred", count=1 + number)
        server.parameters["relayhost"] = sink.relayhost
        server.write_main_cf()
        assert server.run("fastmta", "stop").returncode == 0
        process.communicate(timeout=20)
    assert book.read_text() == ""
