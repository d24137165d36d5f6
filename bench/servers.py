"""The servers under test, each in a folder of its own: FastMTA, and the Postfix of the yardstick beside the project.

Both relay everything to one sink on loopback, keep mail durably, and have no limits in the way; FastMTA writes its full
log to a file (Postfix's goes to syslog: where there is none it logs nothing, which favours Postfix). `start` returns
when the server answers. Raises BenchError with what the server said.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from bench.processes import children, cpu_seconds, tree

PROJECT = Path(__file__).resolve().parents[1]
YARDSTICK = PROJECT.parent / "shared" / "yardstick" / "postfix"

# The meaning of the yardstick's main.cf. Whatever is not here has the same default in both.
PARAMETERS = {
    "compatibility_level": "3.6",
    "myhostname": "yardstick.example",
    "mydestination": "",
    "inet_interfaces": "127.0.0.1",
    "inet_protocols": "ipv4",
    "mynetworks": "127.0.0.0/8",
    "disable_dns_lookups": "yes",
    "smtp_dns_support_level": "disabled",
    "smtpd_tls_security_level": "none",
    "smtp_tls_security_level": "none",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "default_process_limit": "200",
    "default_destination_concurrency_limit": "100",
    "smtp_destination_concurrency_limit": "100",
    "initial_destination_concurrency": "100",
    "qmgr_message_active_limit": "20000",
}

MASTER_CF = """\
127.0.0.1:{port} inet n - n - 200 smtpd
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
"""


class BenchError(Exception):
    """A measurement that cannot be trusted, or could not be made; the text says why."""


class Server(Protocol):
    """What a row asks of a server."""

    name: str
    port: int
    sink: int
    folder: Path

    def start(self) -> None:
        """Start; back when it answers."""

    def stop(self) -> None:
        """Stop in order."""

    def kill(self) -> None:
        """End all its processes at once, whatever their state."""

    def master(self) -> int:
        """The process id of its master."""

    def left(self) -> int:
        """How many messages are in its queue."""

    def flush(self) -> None:
        """Try everything in the queue now."""


def command(arguments: list[str], what: str, seconds: float = 60) -> str:
    """Run it; its output. Raises BenchError with it when it fails."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{what} did not come back within {seconds:.0f} s") from None
    if done.returncode:
        raise BenchError(f"{what}: exit status {done.returncode}\n{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def read_pid(path: Path) -> int:
    """The process id in a pid file, 0 when there is no such process."""
    try:
        pid = int(path.read_text() or 0)
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError, ProcessLookupError):
        return 0
    return pid


def kill_tree(root: int) -> None:
    """SIGKILL to a master first, which would start its children again, and to all under it."""
    for pid in tree(root) if root else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def settle(root: int, seconds: float = 10) -> float:
    """Wait until a server has no work left; the CPU seconds that it has used since it was started."""
    deadline = time.monotonic() + seconds
    before = cpu_seconds(root)
    while True:
        time.sleep(0.3)
        now = cpu_seconds(root)
        if now - before < 0.025 or time.monotonic() > deadline:
            return now
        before = now


class FastMTA:
    """This project's server."""

    def __init__(
        self,
        folder: Path,
        port: int,
        sink: int,
        *,
        workers: str = "auto",
        name: str = "FastMTA",
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        """Write its configuration; parameters are added to it."""
        self.name = name
        self.folder = folder
        self.port = port
        self.sink = sink
        self.config = folder / "conf"
        self.queue = folder / "queue"
        self.log = folder / "maillog"
        self.config.mkdir(parents=True)
        folder.chmod(0o755)
        owner = pwd.getpwuid(os.getuid()).pw_name if os.getuid() else "nobody"
        values = {
            **PARAMETERS,
            "relayhost": f"[127.0.0.1]:{sink}",
            "queue_directory": str(self.queue),
            "data_directory": str(folder / "data"),
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(folder),
            "mail_owner": owner,
            "fastmta_workers": workers,
            **(parameters or {}),
        }
        (self.config / "main.cf").write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
        (self.config / "master.cf").write_text(MASTER_CF.format(port=port))

    def run(self, *arguments: str, seconds: float = 60) -> str:
        """A command of the server's."""
        program = [sys.executable, "-m", "fastmta", "-c", str(self.config), *arguments]
        return command(program, f"fastmta {' '.join(arguments)}", seconds)

    def start(self) -> None:
        """Start; back when it answers."""
        self.run("start")

    def stop(self) -> None:
        """Stop in order."""
        if self.master():
            self.run("stop")

    def kill(self) -> None:
        """End all its processes at once."""
        kill_tree(self.master())

    def master(self) -> int:
        """The process id of its master, 0 when it does not run."""
        return read_pid(self.queue / "pid" / "master.pid")

    def workers(self) -> list[int]:
        """The process ids of its workers, without what they may have forked."""
        return children(self.master())

    def left(self) -> int:
        """How many messages are in its queue."""
        text = self.run_tool("postqueue", "-j")
        return text.count("\n")

    def flush(self) -> None:
        """Try everything in the queue now."""
        self.run_tool("postqueue", "-f")

    def run_tool(self, program: str, *arguments: str) -> str:
        """A tool with a name of its own: postqueue, qshape."""
        line = [sys.executable, "-m", "fastmta", program, "-c", str(self.config), *arguments]
        return command(line, f"{program} {' '.join(arguments)}")


class Postfix:
    """The yardstick: Debian's Postfix, started by the yardstick's own scripts."""

    def __init__(self, folder: Path, port: int, sink: int) -> None:
        """The yardstick's script writes the configuration."""
        self.name = "Postfix"
        self.folder = folder
        self.port = port
        self.sink = sink

    @staticmethod
    def missing() -> str:
        """Why there can be no yardstick here; "" when there can."""
        if not (YARDSTICK / "up").exists():
            return "no ../shared/yardstick/postfix beside the project"
        if os.getuid():
            return "Postfix can only be started by root"
        if not Path("/usr/lib/postfix/sbin/master").exists():
            return "Postfix is not installed"
        return ""

    def start(self) -> None:
        """Start; back when it answers."""
        command([str(YARDSTICK / "up"), str(self.folder), str(self.port), str(self.sink)], "yardstick up")

    def stop(self) -> None:
        """Stop in order."""
        if self.master():
            command([str(YARDSTICK / "down"), str(self.folder)], "yardstick down")

    def kill(self) -> None:
        """End all its processes at once."""
        kill_tree(self.master())

    def master(self) -> int:
        """The process id of its master, 0 when it does not run."""
        return read_pid(self.folder / "queue" / "pid" / "master.pid")

    def left(self) -> int:
        """How many messages are in its queue."""
        queue = self.folder / "queue"
        names = ("incoming", "active", "deferred", "maildrop")
        return sum(len(files) for name in names for _, _, files in os.walk(queue / name))

    def flush(self) -> None:
        """Try everything in the queue now."""
        command(["postqueue", "-c", str(self.folder / "conf"), "-f"], "postqueue -f")
