"""Workers that die, masters that died, and mistakes at start: what the administrator and the clients notice."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import MASTER_CF, LiveServer, free_port, wait_for
from tests.live_sink import Sink

FAST = {"minimal_backoff_time": "1s", "maximal_backoff_time": "1s", "queue_run_delay": "1s"}


def send(port: int, subject: str) -> str:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.ehlo()
        client.mail("a@here.test")
        client.rcpt("b@there.test")
        code, text = client.data(f"Subject: {subject}\r\n\r\nhello\r\n")
        assert code == 250
        return text.decode().rpartition(" ")[2]


def subjects(sink: Sink) -> list[str]:
    return sorted(re.findall(r"^Subject: (\S+)", "\n".join(mail.content for mail in sink.mails), re.MULTILINE))


def worker_of(server: LiveServer, client_port: int) -> int:
    """The worker that logged a connection from that port."""
    server.wait_log(f":{client_port}\n")
    (line,) = [line for line in server.log().splitlines() if line.endswith(f"]:{client_port}") and " connect " in line]
    return int(re.findall(r"\[(\d+)\]: connect", line)[0])


def open_session(server: LiveServer) -> tuple[smtplib.SMTP, int]:
    """A session, and the worker that has it."""
    client = smtplib.SMTP("127.0.0.1", server.port, timeout=30)
    assert client.sock is not None
    return client, worker_of(server, client.sock.getsockname()[1])


def test_a_killed_worker_is_replaced_and_the_others_do_not_notice(tmp_path: Path) -> None:
    hop = free_port()
    parameters = {"relayhost": f"[127.0.0.1]:{hop}", "smtpd_client_port_logging": "yes", **FAST}
    with LiveServer(tmp_path, parameters, workers=3) as server, contextlib.ExitStack() as stack:
        ids = [send(server.port, f"k{number:02d}") for number in range(15)]
        server.wait_log("status=deferred", count=15)
        sessions: dict[int, smtplib.SMTP] = {}
        while len(sessions) < 2:
            client, worker = open_session(server)
            stack.callback(client.close)
            sessions.setdefault(worker, client)
        (victim, cut), (_, untouched) = sessions.items()
        for client in (cut, untouched):
            client.ehlo()
            client.mail("a@here.test")
            client.rcpt("b@there.test")
        os.kill(victim, signal.SIGKILL)
        with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
            cut.noop()
        # nobody has to wait for the new one
        assert send(server.port, "k15")
        assert untouched.data("Subject: k16\r\n\r\nx\r\n")[0] == 250
        server.wait_log(f"pid {victim} killed by signal 9")
        wait_for(lambda: len(server.worker_pids()) == 3, 30, "a new worker")
        assert victim not in server.worker_pids()
        with Sink(port=hop) as sink:
            server.run("fastmta", "flush")
            sink.wait(17, 60)
            # what it had deferred goes out as well, and once
            wait_for(lambda: "Mail queue is empty" in server.run("mailq").stdout, 30, "all are done")
            assert subjects(sink) == [f"k{number:02d}" for number in range(17)]
        log = server.log()
        assert all(log.count(f"{queue_id}: removed") == 1 for queue_id in ids)
        assert "panic" not in log


def test_its_places_at_a_destination_are_free_again(tmp_path: Path) -> None:
    """A worker is killed while it has the only place that the destination has: another one goes on."""
    with Sink() as sink:
        sink.gate.clear()
        parameters = {
            "relayhost": sink.relayhost,
            "initial_destination_concurrency": "1",
            "smtp_destination_concurrency_limit": "1",
            "smtpd_client_connection_count_limit": "3",
            "smtpd_client_event_limit_exceptions": "",
            **FAST,
        }
        with LiveServer(tmp_path, parameters, workers=2) as server:
            first = send(server.port, "first")
            assert sink.entered.acquire(timeout=30)
            for number in range(8):
                send(server.port, f"more{number}")
            server.wait_log("(queue active)", count=9)
            (line,) = [line for line in server.log().splitlines() if f"{first}: client=" in line]
            os.kill(int(re.findall(r"smtpd\[(\d+)\]", line)[0]), signal.SIGKILL)
            server.wait_log("killed by signal 9")
            sink.gate.set()
            wait_for(lambda: "Mail queue is empty" in server.run("mailq").stdout, 60, "all are done")
            assert set(subjects(sink)) == {"first", *(f"more{number}" for number in range(8))}
            # nor do its sessions count any longer
            with contextlib.ExitStack() as stack:
                for _ in range(3):
                    client = stack.enter_context(smtplib.SMTP("127.0.0.1", server.port, timeout=30))
                    assert client.noop()[0] == 250


def test_a_dead_master_takes_its_workers_along_and_the_next_start_goes_on(tmp_path: Path) -> None:
    port = free_port()
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{port}", **FAST}, workers=2)
    server.start()
    for number in range(4):
        send(server.port, f"m{number}")
    server.wait_log("status=deferred", count=4)
    os.kill(server.master_pid(), signal.SIGKILL)
    # at once: the workers may not be gone yet
    with server, Sink(port=port) as sink:
        assert server.log().count("the master process is gone: stopping") == 2
        sink.wait(4, 60)
        assert subjects(sink) == ["m0", "m1", "m2", "m3"]


@pytest.mark.parametrize("content", ["", "nonsense\n", "999999999\n", f"{os.getpid()}\n", "1\n"])
def test_a_stale_pid_file_is_no_obstacle(tmp_path: Path, content: str) -> None:
    """Whatever is in it, even the process id of somebody else: only a lock says that a master lives."""
    server = LiveServer(tmp_path)
    (server.queue / "pid").mkdir(parents=True)
    (server.queue / "pid" / "master.pid").write_text(content)
    status = server.run("fastmta", "status")
    assert (status.returncode, "is not running" in status.stderr) == (1, True)
    assert server.run("fastmta", "stop").returncode == 1
    with server, smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        assert client.noop()[0] == 250
    assert server.master_pid() == 0


def test_stop_says_goodbye(tmp_path: Path) -> None:
    """Idle sessions get a 421; one whose message is on its way into the queue gets its answer first."""
    server = LiveServer(tmp_path, {"default_transport": "discard"}, workers=2)
    server.start()
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=30) for _ in range(6)]
    streams = [client.makefile("rb") for client in clients]
    assert all(stream.readline().startswith(b"220 ") for stream in streams)
    assert server.run("fastmta", "stop").returncode == 0
    assert [stream.read() for stream in streams] == [b"421 4.3.2 mail.fastmta.test Service shutting down\r\n"] * 6
    for each in (*streams, *clients):
        each.close()


def test_what_is_acknowledged_during_a_stop_is_kept(tmp_path: Path) -> None:
    """Senders that do not let up while the server stops: each message that got its 250 arrives after the next start."""
    port = free_port()
    server = LiveServer(tmp_path, {"relayhost": f"[127.0.0.1]:{port}", **FAST}, workers=2)
    server.start()
    acknowledged: list[str] = []

    def load(name: str) -> None:
        for number in range(1000000):
            try:
                send(server.port, f"{name}{number}")
            except (OSError, smtplib.SMTPException, AssertionError):
                return
            acknowledged.append(f"{name}{number}")

    senders = [threading.Thread(target=load, args=(name,)) for name in "abcd"]
    for sender in senders:
        sender.start()
    wait_for(lambda: len(acknowledged) > 40, 30, "mail")
    server.stop()
    for sender in senders:
        sender.join()
    with server, Sink(port=port) as sink:
        wait_for(lambda: set(acknowledged) <= set(subjects(sink)), 60, "all that was acknowledged")


# -- mistakes at start


class Mistake:
    """What is added to the configuration, and what is said about it."""

    def __init__(self, said: str, main_cf: str = "", master_cf: str = "") -> None:
        self.said = said
        self.main_cf = main_cf
        self.master_cf = master_cf


MISTAKES = {
    "a line without =": Mistake(r"main\.cf, line LAST: .*missing '='", "this is no assignment\n"),
    "a bad time": Mistake(r"main\.cf, line LAST: .*smtpd_timeout.*soon", "smtpd_timeout = soon\n"),
    "a bad number": Mistake(r"main\.cf, line LAST: .*message_size_limit.*big", "message_size_limit = big\n"),
    "a bad yes or no": Mistake(r"main\.cf, line LAST: .*smtpd_helo_required.*maybe", "smtpd_helo_required = maybe\n"),
    "a number out of range": Mistake(r"main\.cf, line LAST: .*smtpd_recipient_limit", "smtpd_recipient_limit = 0\n"),
    "a bad pattern": Mistake(r"mynetworks", "mynetworks = 10.0.0.1/8\n"),
    "an open relay": Mistake(r"smtpd_relay_restrictions", "smtpd_relay_restrictions =\n"),
    "an unknown user": Mistake(r"mail_owner: unknown user name value: nobody_at_all", "mail_owner = nobody_at_all\n"),
    "a missing certificate": Mistake(
        r"smtpd_tls_cert_file.*/nowhere/c\.pem|/nowhere/c\.pem.*smtpd_tls_cert_file",
        "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /nowhere/c.pem\n",
    ),
    "a bad port": Mistake(r"master\.cf, line 9: .*port_of_call", master_cf="port_of_call inet n - n - - smtpd\n"),
    "a port too high": Mistake(r"master\.cf, line 9: .*70000", master_cf="70000 inet n - n - - smtpd\n"),
    "too few fields": Mistake(r"master\.cf, line 9: ", master_cf="smtp inet n\n"),
    "a foreign address": Mistake(
        r"master\.cf, line 9: bind 192\.0\.2\.1 port 2525: Cannot assign",
        master_cf="192.0.2.1:2525 inet n - n - - smtpd\n",
    ),
    "a bad option": Mistake(
        r"master\.cf, line 9: .*smtpd_timeout.*never",
        master_cf=f"127.0.0.1:{free_port()} inet n - n - - smtpd -o smtpd_timeout=never\n",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    server = LiveServer(tmp_path, extra_master_cf=mistake.master_cf)
    if "unknown user" in name and os.geteuid() != 0:
        pytest.skip("only root changes to mail_owner")
    said = mistake.said.replace("LAST", str(len((server.config / "main.cf").read_text().splitlines()) + 1))
    with (server.config / "main.cf").open("a") as file:
        file.write(mistake.main_cf)
    done = server.run("fastmta", "start")
    try:
        assert done.returncode == 1
        assert re.search(said, done.stderr), done.stderr
        assert "Traceback" not in done.stderr + server.log()
        assert server.run("fastmta", "status").returncode == 1
    finally:
        server.kill()
    # the address is free again
    with contextlib.closing(socket.create_server(("127.0.0.1", server.port))):
        pass


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    server = LiveServer(tmp_path)
    with socket.create_server(("127.0.0.1", server.port)):
        done = server.run("fastmta", "start")
        assert done.returncode == 1
        assert f"master.cf, line 1: bind 127.0.0.1 port {server.port}: Address already in use" in done.stderr


def test_a_queue_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = LiveServer(tmp_path, {"queue_directory": str(tmp_path / "file" / "queue")})
    done = server.run("fastmta", "start")
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def closed_folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700 if os.geteuid() == 0 else 0o500)
    yield folder
    folder.chmod(0o700)


def test_a_queue_directory_out_of_reach(tmp_path: Path, closed_folder: Path) -> None:
    """Without root: no permission to make it; as root: its owner could not enter."""
    server = LiveServer(tmp_path, {"queue_directory": str(closed_folder / "queue")})
    for command in ("check", "start"):
        done = server.run("fastmta", command)
        assert done.returncode == 1, command
        assert str(closed_folder) in done.stderr
        assert "Traceback" not in done.stderr


def test_no_service_to_listen(tmp_path: Path) -> None:
    master_cf = "".join(line + "\n" for line in MASTER_CF.splitlines() if "smtpd" not in line)
    done = LiveServer(tmp_path, master_cf=master_cf).run("fastmta", "start")
    assert done.returncode == 1
    assert "master.cf: no inet service runs smtpd" in done.stderr


def test_check_and_start_list_what_does_nothing(tmp_path: Path) -> None:
    parameters = {
        "no_such_parameter": "1",
        "virtual_alias_domains": "example.test",
        "smtpd_sasl_auth_enable": "yes",
        "content_filter": "",
    }
    server = LiveServer(tmp_path, parameters, extra_master_cf="submission inet n - n - - smtpd -o milter_macro_v=x\n")
    server.config.joinpath("master.cf").write_text(
        server.config.joinpath("master.cf").read_text().replace("submission", f"127.0.0.1:{free_port()}")
    )
    check = server.run("fastmta", "check")
    assert check.returncode == 0, check.stderr
    expected = (
        r"main\.cf, line \d+: unused parameter: no_such_parameter=1",
        r"main\.cf, line \d+: not supported yet: virtual_alias_domains=example\.test",
        r"main\.cf, line \d+: not supported yet: smtpd_sasl_auth_enable=yes",
        r"master\.cf, line 9: .*not supported yet: milter_macro_v=x",
    )
    for line in expected:
        assert len(re.findall(line, check.stderr)) == 1, (line, check.stderr)
    assert "content_filter" not in check.stderr
    with server:
        for line in expected:
            assert len(re.findall(line, server.log())) == 1, (line, server.log())
    assert server.log().count("no_such_parameter") == 1, "once at start"


def test_without_a_configuration(tmp_path: Path) -> None:
    server = LiveServer(tmp_path)
    (server.config / "main.cf").unlink()
    done: subprocess.CompletedProcess[str] = server.run("fastmta", "start")
    assert done.returncode == 1
    assert str(server.config / "main.cf") in done.stderr
    assert "Traceback" not in done.stderr
