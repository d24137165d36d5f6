"""A real FastMTA in a folder of its own, for tests that talk to it from outside.

    with LiveServer(tmp_path, {"relayhost": "[127.0.0.1]:2526"}) as server:
        smtplib.SMTP("127.0.0.1", server.port) ...

`fastmta start` returns once the sockets answer, `fastmta stop` once everything is down: no sleeps.
`wait_log` follows the log until a line has come.
"""

from __future__ import annotations

import os
import pwd
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
lmtp      unix  -       -       n       -       -       lmtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
local     unix  -       n       n       -       -       local
"""


PORTS = range(22000, 32000)  # below those that the kernel gives to outgoing connections
_ports: Iterator[int] = iter(())


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now, and that was not given before: a process begins anywhere in PORTS."""
    global _ports
    for _ in PORTS:
        port = next(_ports, 0)
        if not port:
            start = os.getpid() * 97 % len(PORTS)
            _ports = iter([*PORTS[start:], *PORTS[:start]])
            port = next(_ports)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of before may be in TIME_WAIT
            try:
                sock.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port of {PORTS} is free")


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a condition of another process for which there is no event; fail loudly when it does not come true."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as idle:
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"timed out after {seconds} s: {what}")
            idle.select(0.02)


class LiveServer:
    """One instance: its folder, its port, its log."""

    def __init__(
        self,
        folder: Path,
        parameters: Mapping[str, str] | None = None,
        *,
        master_cf: str = MASTER_CF,
        extra_master_cf: str = "",
        workers: int = 1,
        owner: str | None = None,
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "conf"
        self.queue = folder / "queue"
        self.log_file = folder / "maillog"
        self.config.mkdir(parents=True, exist_ok=True)
        self._let_in()
        self.parameters = {
            "compatibility_level": "3.6",
            "myhostname": "mail.fastmta.test",
            "mydomain": "fastmta.test",
            "mydestination": "",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "queue_directory": str(self.queue),
            "data_directory": str(folder / "data"),
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": f"{folder}, /var, /dev/stdout",
            "mail_owner": owner or self._owner(),
            "fastmta_workers": str(workers),
            "fastmta_stop_timeout": "5s",
            **(parameters or {}),
        }
        (self.config / "master.cf").write_text(master_cf.format(port=self.port) + extra_master_cf)
        self.write_main_cf()

    @staticmethod
    def _owner() -> str:
        name = pwd.getpwuid(os.getuid()).pw_name
        return name if os.getuid() else "nobody"

    def write_main_cf(self) -> None:
        """(Re)write main.cf from `parameters`."""
        lines = [f"{name} = {value}\n" for name, value in self.parameters.items()]
        (self.config / "main.cf").write_text("".join(lines))

    def run(self, *command: str, timeout: float = 60, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """A command of ours with this configuration: run("fastmta", "status"), run("postqueue", "-p")."""
        program, *arguments = command
        name = [] if program == "fastmta" else [program]
        return subprocess.run(
            [sys.executable, "-m", "fastmta", *name, "-c", str(self.config), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def _let_in(self) -> None:
        """A worker that dropped root must be able to reach its queue. (Each run of pytest closes its base folder.)"""
        for parent in (self.folder, *self.folder.parents):
            if parent.stat().st_uid == os.getuid() and os.getuid() == 0 and str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o055)

    def start(self) -> None:
        """Start, and raise with what it said when it could not."""
        self._let_in()
        done = self.run("fastmta", "start")
        if done.returncode:
            raise AssertionError(f"fastmta start: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}")

    def stop(self) -> None:
        """Stop in order; what does not stop is killed by its id and reported."""
        done = self.run("fastmta", "stop")
        if done.returncode and self.master_pid():
            self.kill()
            raise AssertionError(f"fastmta stop: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()[-4000:]}")

    def kill(self) -> None:
        """SIGKILL for the master and all workers."""
        for pid in [self.master_pid(), *self.worker_pids()]:
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def master_pid(self) -> int:
        """The master's process id, 0 when there is none."""
        try:
            pid = int((self.queue / "pid" / "master.pid").read_text() or 0)
            os.kill(pid, 0)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return 0
        return pid

    def worker_pids(self) -> list[int]:
        """The master's children."""
        master = self.master_pid()
        if not master:
            return []
        try:
            text = Path(f"/proc/{master}/task/{master}/children").read_text()
        except FileNotFoundError:
            return []
        return [int(word) for word in text.split()]

    def log(self) -> str:
        """All that was logged."""
        try:
            return self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_log(self, text: str, *, count: int = 1, seconds: float = 20) -> str:
        """Wait until the log has `text` that often; returns the log."""
        wait_for(
            lambda: self.log().count(text) >= count, seconds, f"{count} x {text!r} in the log:\n{self.log()[-6000:]}"
        )
        return self.log()

    def __enter__(self) -> LiveServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except AssertionError:
            if kind is None:
                raise


def need(program: str) -> str:
    """The path of a real peer; a skip where it is missing, a failure where peers are required."""
    import pytest

    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/lib/postfix/sbin:/usr/local/sbin")
    if path is None:
        if os.environ.get("FASTMTA_REQUIRE_PEERS"):
            pytest.fail(f"{program} is not installed, and FASTMTA_REQUIRE_PEERS is set")
        pytest.skip(f"{program} is not installed")
    return path
