"""Tables for tests: a context of a dictionary, Postfix's own answers, and servers that are killed and started again."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from fastmta.tables.lookup import Context, Flags, Table, open_table

SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Parameters:
    """main.cf as a dictionary."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values

    def get_str(self, name: str) -> str:
        return self._values[name]


class Opened:
    """A table and what it warned about."""

    def __init__(self, name: str, parameters: Mapping[str, str] | None = None, flags: Flags | None = None) -> None:
        self.warnings: list[str] = []
        context = Context(Parameters(parameters or {}), self.warnings.append)
        self.table: Table = open_table(name, context, flags or Flags())


def program(name: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    found = shutil.which(name, path=SBIN)
    if found is None:
        pytest.skip(f"no {name}")
    return found


@functools.cache
def _types(conf: Path) -> list[str]:
    return subprocess.run([program("postconf"), "-c", conf, "-m"], capture_output=True, text=True).stdout.split()


def postmap(folder: Path, table: str, keys: Iterable[str], main_cf: str = "") -> dict[str, str]:
    """What Postfix's postmap answers, by key; a key without a line has no value. Skips where the type is not there."""
    conf = folder / "postfix"
    conf.mkdir(exist_ok=True)
    (conf / "main.cf").write_text(f"compatibility_level = 3.6\nmyhostname = mail.example.com\n{main_cf}")
    # Postfix waits until a file that has just been written has been left alone for a second or two.
    for file in (conf / "main.cf", *folder.glob("*.cf")):
        os.utime(file, (1, 1))
    kind = table.partition(":")[0]
    if kind not in _types(conf):
        pytest.skip(f"this Postfix has no {kind} tables")
    result = subprocess.run(
        [program("postmap"), "-c", conf, "-q", "-", table],
        input="".join(f"{key}\n" for key in keys),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode in (0, 1) and "fatal" not in result.stderr, result.stderr
    return dict(line.split("\t", 1) for line in result.stdout.splitlines())


class Server:
    """A program that a test runs on loopback, and may kill and start again."""

    def __init__(self, command: list[str], is_ready: Callable[[], bool], log: Path, user: str = "") -> None:
        self._command = command
        self._is_ready = is_ready
        self._log = log
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, user=self._user or None
            )
        deadline = time.monotonic() + 30
        while not self._is_ready():
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-2000:]
            time.sleep(0.05)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


def free_port() -> int:
    """A port of loopback that nobody has now, in the range of tests."""
    for port in range(29000 + os.getpid() % 2000, 31900):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def accepts(address: tuple[str, int] | str) -> bool:
    """Whether something listens there."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0
