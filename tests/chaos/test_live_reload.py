"""Reload with everything going on: nobody is refused or cut, mail changes hands, a bad configuration is refused."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import LiveServer, free_port, wait_for
from tests.live_sink import Sink

OLD_ARE_GONE = "the old workers are gone"


def reload(server: LiveServer, **changes: str) -> None:
    """With changed parameters; it must work."""
    server.parameters |= changes
    server.write_main_cf()
    done = server.run("fastmta", "reload")
    assert done.returncode == 0, done.stderr


def draining(server: LiveServer) -> bool:
    return "draining" in server.run("fastmta", "status").stderr


def send(port: int, subject: str, recipient: str = "b@there.test") -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("a@here.test", [recipient], f"Subject: {subject}\r\n\r\nhello\r\n")


def subjects(sink: Sink) -> list[str]:
    return sorted(re.findall(r"^Subject: (\S+)", "\n".join(mail.content for mail in sink.mails), re.MULTILINE))


class Stream:
    """New connections without a pause, in some threads: what each was greeted with, and what went wrong."""

    def __init__(self, port: int, threads: int = 3, *, is_there: bool = True) -> None:
        """is_there: that nobody listens is wrong."""
        self.port = port
        self.is_there = is_there
        self.greetings: list[bytes] = []
        self.wrong: list[str] = []
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def _run(self) -> None:
        while not self._enough.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=30) as sock:
                    with sock.makefile("rb") as stream:
                        greeting = stream.readline()
                        sock.sendall(b"EHLO c.test\r\n")
                        while stream.readline()[3:4] == b"-":
                            pass
                        sock.sendall(b"QUIT\r\n")
                        goodbye = stream.readline()
                if not greeting.startswith(b"220 ") or goodbye != b"221 2.0.0 Bye\r\n":
                    self.wrong.append(f"{greeting!r} ... {goodbye!r}")
                self.greetings.append(greeting)
            except OSError as error:
                if self.is_there or not isinstance(error, ConnectionRefusedError):
                    self.wrong.append(repr(error))

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()


def test_ten_reloads_under_a_stream_of_connections(tmp_path: Path) -> None:
    with Sink() as sink:
        server = LiveServer(tmp_path, {"relayhost": sink.relayhost}, workers=2)
        with server, contextlib.ExitStack() as stack:
            old = stack.enter_context(smtplib.SMTP("127.0.0.1", server.port, timeout=30))
            old.ehlo()
            old.mail("a@here.test")
            old.rcpt("b@there.test")
            with Stream(server.port) as stream:
                for number in range(10):
                    before = len(stream.greetings)
                    wait_for(lambda before=before: len(stream.greetings) > before + 3, 30, "connections")  # type: ignore[misc]
                    reload(server, smtpd_banner=f"$myhostname ESMTP number {number}")
                    # from here on everybody new sees it
                    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
                        assert b"ESMTP number" in sock.recv(200)
            assert stream.wrong == []
            # a session that has been open all the while still has its say
            code, text = old.data("Subject: patience\r\n\r\nx\r\n")
            assert code == 250, text
            assert old.quit()[0] == 221
            wait_for(lambda: not draining(server), 30, OLD_ARE_GONE)
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
                assert b"number 9" in sock.recv(200)
            sink.wait(1)
            assert len(server.worker_pids()) == 2
        assert "panic" not in server.log()
        assert "bad startup" not in server.log()


def test_twenty_reloads_to_other_addresses(tmp_path: Path) -> None:
    """The port changes between an address and the wildcard, a second one comes and goes: nobody is refused or cut."""
    second = free_port()
    server = LiveServer(tmp_path, workers=2)
    master_cf = server.config / "master.cf"
    first_line, _, rest = master_cf.read_text().partition("\n")
    with server, Stream(server.port, 2) as stream, Stream(second, 2, is_there=False) as on_second:
        for number in range(20):
            before = len(stream.greetings)
            here = first_line if number % 2 else first_line.replace("127.0.0.1", "0.0.0.0")
            also = f"127.0.0.1:{second} inet n - n - - smtpd\n" if number % 4 < 2 else ""
            master_cf.write_text(f"{here}\n{also}{rest}")
            reload(server, smtpd_banner=f"$myhostname ESMTP number {number}")
            wait_for(lambda before=before: len(stream.greetings) > before + 3, 30, "connections")  # type: ignore[misc]
            status = server.run("fastmta", "status").stderr
            assert (f"127.0.0.1:{second}" in status, here.split()[0] in status) == (bool(also), True)
    assert stream.wrong == on_second.wrong == []
    assert len(on_second.greetings) > 20
    assert "panic" not in server.log()


def test_open_sessions_keep_what_they_began_with(tmp_path: Path) -> None:
    with LiveServer(tmp_path, {"default_transport": "discard", "message_size_limit": "100000"}) as server:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as old:
            old.ehlo()
            reload(server, message_size_limit="200000")
            with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as new:
                new.ehlo()
                assert new.esmtp_features["size"] == "200000"
                assert new.mail("a@here.test", ["SIZE=150000"])[0] == 250
            assert old.mail("a@here.test", ["SIZE=150000"])[0] == 552
            assert old.mail("a@here.test")[0] == 250
            assert old.rcpt("b@there.test")[0] == 250
            assert old.data("x\r\n" * 20)[0] == 250
        wait_for(lambda: not draining(server), 30, OLD_ARE_GONE)
        server.wait_log(": removed")


@pytest.mark.parametrize(
    ("main_cf", "master_cf", "said"),
    [
        ("smtpd_timeout = soon\n", "", r"main\.cf, line \d+: .*smtpd_timeout.*soon"),
        ("inet_protocols = ipv9\n", "", r"inet_protocols"),
        ("", "127.0.0.1:nosuchport inet n - n - - smtpd\n", r"master\.cf.*, line 9: .*nosuchport"),
        ("", "smtp inet n\n", r"master\.cf.*, line 9: "),
        ("smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /nowhere/cert.pem\n", "", r"/nowhere/cert\.pem"),
        ("queue_directory = /nowhere/else\n", "", r"queue_directory|not running"),
        ("fastmta_workers = 500\n", "", r"fastmta_workers"),
        ("mynetworks = 127.0.0.0/40\n", "", r"mynetworks.*127\.0\.0\.0/40|127\.0\.0\.0/40.*mynetworks"),
    ],
)
def test_a_bad_configuration_changes_nothing(kept: LiveServer, main_cf: str, master_cf: str, said: str) -> None:
    good = {name: (kept.config / name).read_text() for name in ("main.cf", "master.cf")}
    workers = kept.worker_pids()
    try:
        (kept.config / "main.cf").write_text(good["main.cf"] + main_cf)
        (kept.config / "master.cf").write_text(good["master.cf"] + master_cf)
        done = kept.run("fastmta", "reload")
    finally:
        for name, text in good.items():
            (kept.config / name).write_text(text)
    assert done.returncode == 1
    assert re.search(said, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    with smtplib.SMTP("127.0.0.1", kept.port, timeout=30) as client:
        assert client.noop()[0] == 250
    wait_for(lambda: kept.worker_pids() == workers, 20, "the same workers")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with LiveServer(tmp_path_factory.mktemp("kept"), workers=2) as server:
        yield server


def test_services_come_and_go(tmp_path: Path) -> None:
    second, third = free_port(), free_port()
    server = LiveServer(tmp_path, extra_master_cf=f"127.0.0.1:{second} inet n - n - - smtpd\n")
    file = server.config / "master.cf"
    with server, smtplib.SMTP("127.0.0.1", second, timeout=30) as on_second:
        file.write_text(file.read_text().replace(f":{second} ", f":{third} "))
        with Stream(server.port, 2) as stream:
            reload(server)
        assert stream.wrong == []
        with smtplib.SMTP("127.0.0.1", third, timeout=30) as client:
            assert client.noop()[0] == 250
        refused: list[bool] = []

        def is_closed() -> bool:
            try:
                socket.create_connection(("127.0.0.1", second), timeout=30).close()
            except ConnectionRefusedError:
                refused.append(True)
            return bool(refused)

        wait_for(is_closed, 20, "nobody listens at the port that was taken out")
        assert on_second.noop()[0] == 250
        status = server.run("fastmta", "status").stderr
        assert f"127.0.0.1:{third}" in status
        assert f"127.0.0.1:{second}" not in status


def test_deferred_mail_changes_hands(tmp_path: Path) -> None:
    """Mail of shards that the old generation owned, more than there are new workers, goes out by the new ones alone."""
    port = free_port()
    parameters = {
        "relayhost": f"[127.0.0.1]:{port}",
        "minimal_backoff_time": "2s",
        "maximal_backoff_time": "2s",
        "queue_run_delay": "1s",
        "smtp_destination_concurrency_failed_cohort_limit": "0",
    }
    with LiveServer(tmp_path, parameters, workers=3) as server:
        for number in range(12):
            send(server.port, f"s{number:02d}")
        server.wait_log("status=deferred", count=12)
        reload(server, fastmta_workers="1")
        wait_for(lambda: not draining(server), 30, OLD_ARE_GONE)
        assert len(server.worker_pids()) == 1
        with Sink(port=port) as sink:
            sink.wait(12, 60)
            assert subjects(sink) == [f"s{number:02d}" for number in range(12)]
            wait_for(lambda: "Mail queue is empty" in server.run("mailq").stdout, 20, "all are done")


def test_mail_in_flight_at_a_reload_is_sent_once(tmp_path: Path) -> None:
    with Sink() as sink:
        sink.gate.clear()
        with LiveServer(tmp_path, {"relayhost": sink.relayhost}, workers=2) as server:
            for number in range(4):
                send(server.port, f"f{number}")
            assert all(sink.entered.acquire(timeout=30) for _ in range(4))
            reload(server)
            send(server.port, "new")
            assert sink.entered.acquire(timeout=30), "new mail does not wait for the old workers"
            sink.gate.set()
            sink.wait(5)
            wait_for(lambda: not draining(server), 30, OLD_ARE_GONE)
            wait_for(lambda: "Mail queue is empty" in server.run("mailq").stdout, 20, "all are done")
            assert subjects(sink) == ["f0", "f1", "f2", "f3", "new"]


def test_a_renamed_log_file(tmp_path: Path) -> None:
    """Followed by itself within seconds, and at once by a reload; not a line is lost."""
    server = LiveServer(tmp_path, {"default_transport": "discard"}, workers=2)
    lines = 0

    def talk(times: int) -> None:
        nonlocal lines
        for _ in range(times):
            with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                client.noop()
            lines += 1

    def rotate(number: int, then: Callable[[], None] = lambda: None) -> Path:
        old = server.folder / f"maillog.{number}"
        server.log_file.rename(old)
        then()
        return old

    with server:
        talk(5)
        server.wait_log("disconnect from", count=5)
        first = rotate(1)
        started = time.monotonic()
        wait_for(lambda: talk(1) or "disconnect" in server.log(), 20, "the file is there again")  # type: ignore[func-returns-value]
        assert time.monotonic() - started < 10
        talk(3)
        second = rotate(2, lambda: reload(server))
        talk(4)
        wait_for(lambda: server.log().count("disconnect from") >= 4, 20, "the new workers log to the new file")
        wait_for(lambda: not draining(server), 30, OLD_ARE_GONE)
        assert first.exists()
    texts = [path.read_text() for path in (first, second, server.log_file)]
    assert sum(text.count("disconnect from") for text in texts) == lines
    assert "reload -- version" in texts[2]
