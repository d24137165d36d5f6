"""The life of a mail system as far as the master goes: start, death, reload, stop; with workers that only greet."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastmta.master import spool
from tests.live import free_port, wait_for

ROOT = os.geteuid() == 0


class Master:
    """A dummy master in a folder."""

    def __init__(self, folder: Path, workers: int, **parameters: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.parameters = {
            "queue_directory": str(folder / "queue"),
            "maillog_file": str(folder / "log"),
            "maillog_file_prefixes": str(folder),
            "mail_owner": "nobody",
            "myhostname": "mail.example",
            "inet_protocols": "ipv4",
            "fastmta_workers": str(workers),
            "fastmta_stop_timeout": "1s",
            "import_environment": "DUMMY_FAULT",
            **parameters,
        }
        self.listen(f"127.0.0.1:{self.port}")
        self.configure()
        for parent in (folder, *folder.parents):
            if ROOT and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o055)
        self.process: subprocess.Popen[str]
        self.fault = folder / "fault"
        self.sockets: list[socket.socket] = []

    def listen(self, *services: str) -> None:
        lines = [f"{service} inet n - n - - smtpd\n" for service in services]
        (self.folder / "master.cf").write_text("".join(lines))

    def configure(self, **parameters: str) -> None:
        self.parameters.update(parameters)
        lines = [f"{name} = {value}\n" for name, value in self.parameters.items()]
        (self.folder / "main.cf").write_text("".join(lines))

    def spawn(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.dummy_master", str(self.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "DUMMY_FAULT": str(self.fault)},
        )

    def start(self) -> None:
        self.spawn()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "UP\n", self.end()

    def end(self) -> str:
        """Its stderr and log, after it ended."""
        _, errors = self.process.communicate(timeout=20)
        return errors + self.log()

    def log(self) -> str:
        return (self.folder / "log").read_text() if (self.folder / "log").exists() else ""

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        self.end()
        return self.process.returncode

    def state(self) -> spool.State:
        found = spool.read_state(self.folder / "queue")
        assert found is not None
        return found

    def reload(self) -> spool.State:
        before = self.state().reloads
        self.signal(signal.SIGHUP)
        self.until(lambda: self.state().reloads > before, "the reload is answered")
        return self.state()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(condition, 20, f"{what}\n{self.log()}")

    def phases(self) -> list[str]:
        return sorted(phase for *_, phase in self.state().workers)

    def connect(self, port: int = 0) -> tuple[socket.socket, list[int]]:
        """A session, and the numbers of its greeting: generation, number, process id, shard."""
        sock = socket.create_connection(("127.0.0.1", port or self.port), timeout=10)
        self.sockets.append(sock)
        with sock.makefile("rb") as lines:
            greeting = lines.readline().split()
        assert greeting[:1] == [b"220"]
        return sock, [int(word) for word in greeting[1:]]


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Callable[..., Master]]:
    made: list[Master] = []

    def make(workers: int = 2, **parameters: str) -> Master:
        made.append(Master(tmp_path, workers, **parameters))
        return made[-1]

    yield make
    for each in made:
        for sock in each.sockets:
            sock.close()
        if hasattr(each, "process") and each.process.poll() is None:
            each.process.send_signal(signal.SIGQUIT)
            each.process.communicate(timeout=20)


def test_workers_have_numbers_and_shards_of_their_own(master: Callable[..., Master]) -> None:
    m = master(4)
    m.start()
    assert m.phases() == ["ready"] * 4
    assert {number for number, *_ in m.state().workers} == {0, 1, 2, 3}
    assert {path.name for path in (m.folder / "queue").glob("shard-*")} == {f"shard-{n:02d}" for n in range(4)}
    assert spool.running(m.folder / "queue") == m.process.pid
    assert m.state().listening == [f"127.0.0.1:{m.port}"]
    assert m.stop() == 0
    assert spool.running(m.folder / "queue") is None


def test_a_dead_worker_is_replaced_in_its_place(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    sock, (_, number, pid, shard) = m.connect()
    os.kill(pid, signal.SIGKILL)
    assert sock.recv(1) == b""
    _, (_, new_number, new_pid, new_shard) = m.connect()
    assert (new_number, new_shard) == (number, shard)
    assert new_pid != pid
    assert f"warning: process fastmta-{number} pid {pid} killed by signal 9" in m.log()
    assert m.stop() == 0


def test_workers_that_die_at_once_are_throttled(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    m.fault.write_text("exit")
    _, (_, _, pid, _) = m.connect()
    os.kill(pid, signal.SIGKILL)
    m.until(lambda: "bad startup -- throttling" in m.log(), "throttled")
    assert "exit status 3" in m.log()
    m.fault.unlink()
    m.connect()
    assert m.stop() == 0


def test_the_start_fails_with_the_reason_of_its_worker(master: Callable[..., Master]) -> None:
    m = master(2)
    m.fault.write_text("raise")
    m.spawn()
    told = m.end()
    assert m.process.returncode == 1
    assert "No space left on device: '/some/where'" in told
    assert spool.running(m.folder / "queue") is None


def test_a_second_master_is_refused(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    first = m.process
    m.spawn()
    second, m.process = m.process, first
    told = second.communicate(timeout=20)[1]
    assert "the FastMTA mail system is already running" in told
    assert second.returncode == 1
    m.connect()


def test_an_address_in_use_is_named(master: Callable[..., Master]) -> None:
    m = master(1)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", m.port))
        other.listen()
        m.spawn()
        told = m.end()
    assert f"master.cf, line 1: bind 127.0.0.1 port {m.port}: Address already in use" in told


def test_reload_refuses_no_connection_and_cuts_no_session(master: Callable[..., Master]) -> None:
    m = master(2)
    m.start()
    old, (generation, *_) = m.connect()
    assert generation == 1
    for expected in (2, 3, 4):
        before = m.state().reloads
        m.signal(signal.SIGHUP)
        while m.state().reloads == before:
            sock, _ = m.connect()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            sock.close()
        sock, (generation, *_) = m.connect()
        sock.close()
        assert generation == expected
        old.sendall(b"still here")
        assert old.recv(100) == b"still here"
    assert "draining" in m.phases()
    old.close()
    m.until(lambda: m.phases() == ["ready"] * 2, "the old ones are gone")
    assert m.stop() == 0


def test_reload_with_a_broken_configuration_changes_nothing(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    m.configure(smtpd_timeout="soon")
    state = m.reload()
    assert "smtpd_timeout" in state.error
    assert "main.cf" in state.error
    assert state.generation == 1
    assert m.connect()[1][0] == 1
    assert "error: reload:" in m.log()


def test_reload_whose_workers_fail_keeps_the_old_ones(master: Callable[..., Master]) -> None:
    m = master(2)
    m.start()
    m.fault.write_text("raise")
    port = free_port()
    m.listen(f"127.0.0.1:{m.port}", f"127.0.0.1:{port}")
    state = m.reload()
    assert "No space left" in state.error
    assert state.generation == 1
    assert m.connect()[1][0] == 1
    with pytest.raises(ConnectionRefusedError):
        m.connect(port)
    m.fault.unlink()
    state = m.reload()
    assert state.error == ""
    assert m.connect(port)[1][0] == 3


def test_reload_moves_listeners(master: Callable[..., Master]) -> None:
    m = master(2)
    m.start()
    port = free_port()
    m.listen(f"127.0.0.1:{port}")
    m.reload()
    m.connect(port)
    m.until(lambda: m.phases() == ["ready"] * 2, "the old ones are gone")
    with pytest.raises(ConnectionRefusedError):
        m.connect()


def test_reload_changes_the_number_of_workers(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    m.configure(fastmta_workers="3")
    m.reload()
    m.until(lambda: m.phases() == ["ready"] * 3, "three new workers")
    m.configure(fastmta_workers="1")
    m.reload()
    m.until(lambda: m.phases() == ["ready"], "one new worker")


def test_reload_with_no_shard_to_spare_goes_worker_by_worker(master: Callable[..., Master]) -> None:
    m = master(2, fastmta_queue_shards="2")
    m.start()
    for generation in (2, 3):
        m.reload()
        assert {g for _, _, g, _ in m.state().workers} == {generation}
        assert m.phases() == ["ready", "ready"]


def test_more_workers_than_shards_is_an_error(master: Callable[..., Master]) -> None:
    m = master(3, fastmta_queue_shards="2")
    m.spawn()
    assert "fastmta_workers" in m.end()


def test_a_worker_that_does_not_stop_is_killed(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    m.fault.write_text("stuck")
    assert m.stop() == 0
    assert "does not stop: killing it" in m.log()


def test_sigquit_ends_all_at_once(master: Callable[..., Master]) -> None:
    m = master(2)
    m.start()
    sock, (_, _, pid, _) = m.connect()
    m.fault.write_text("stuck")
    m.signal(signal.SIGQUIT)
    m.end()
    assert m.process.returncode == 0
    assert sock.recv(1) == b""
    assert not Path(f"/proc/{pid}").exists()


def test_workers_end_when_the_master_is_killed_and_a_new_master_starts(master: Callable[..., Master]) -> None:
    m = master(2)
    m.start()
    pids = [pid for _, pid, _, _ in m.state().workers]
    m.process.kill()
    m.process.communicate(timeout=20)
    m.start()
    m.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the orphans are gone")
    m.connect()
    assert m.stop() == 0


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_workers_of_root_run_as_mail_owner(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    _, (_, _, pid, _) = m.connect()
    status = Path(f"/proc/{pid}/status").read_text()
    uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert set(uids) == {"65534"}
    assert "Groups:\t65534 \n" in status


@pytest.mark.skipif(not ROOT, reason="only root changes to mail_owner")
@pytest.mark.parametrize(
    ("owner", "text"), [("nosuchuser", "unknown user name value"), ("root", "privileged user ID: 0")]
)
def test_a_bad_mail_owner_is_named(master: Callable[..., Master], owner: str, text: str) -> None:
    m = master(1, mail_owner=owner)
    m.spawn()
    assert text in m.end()


def test_the_log_file_is_made_again_after_rotation(master: Callable[..., Master]) -> None:
    m = master(1)
    m.start()
    (m.folder / "log").rename(m.folder / "log.1")
    m.reload()
    assert "reload -- version" in m.log()


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_a_bad_number_of_workers_is_named(master: Callable[..., Master], workers: str) -> None:
    m = master(1, fastmta_workers=workers)
    m.spawn()
    assert "fastmta_workers" in m.end()
