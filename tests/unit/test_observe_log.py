"""The log: one write per turn, rotation, syslog, and what happens when nobody takes the lines."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmta.observe import sinks
from fastmta.observe.log import Log, LogConfigError, LogSettings, check, ident

NOW = 1788825904.5


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def file_log(path: Path, **more: object) -> Log:
    settings = LogSettings(maillog_file=str(path), myhostname="mx.example.org")
    return Log(settings, **more)  # type: ignore[arg-type]


def test_a_line_looks_as_in_postfix_maillog_file(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log")
    log.write("smtpd", "connect from x[192.0.2.1]")
    log.warning("master", "hot")
    log.fatal("postfix/submission/smtpd", "cold")
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    stamp = r"[A-Z][a-z][a-z] \d\d \d\d:\d\d:\d\d mx "
    pid = os.getpid()
    assert re.fullmatch(rf"{stamp}postfix/smtpd\[{pid}\]: connect from x\[192.0.2.1\]", lines[0])
    assert re.fullmatch(rf"{stamp}postfix/master\[{pid}\]: warning: hot", lines[1])
    assert re.fullmatch(rf"{stamp}postfix/submission/smtpd\[{pid}\]: fatal: cold", lines[2])
    assert ident("postfix", "smtp") == "postfix/smtp"


def test_lines_of_a_turn_go_out_together(tmp_path: Path) -> None:
    turns: list[Callable[[], None]] = []
    log = file_log(tmp_path / "log", defer=turns.append)
    for number in range(3):
        log.write("smtp", f"line {number}")
    assert (tmp_path / "log").read_bytes() == b""
    assert len(turns) == 1
    turns.pop()()
    assert (tmp_path / "log").read_bytes().count(b"\n") == 3
    log.write("smtp", "next turn")
    assert len(turns) == 1
    log.close()
    assert (tmp_path / "log").read_bytes().count(b"\n") == 4, "closing writes what is left"
    turns.pop()()
    assert (tmp_path / "log").read_bytes().count(b"\n") == 4


def test_the_time_goes_on(tmp_path: Path) -> None:
    clock = Clock()
    log = file_log(tmp_path / "log", clock=clock)
    log.write("smtp", "a")
    clock.now += 1
    log.write("smtp", "b")
    log.close()
    first, second = (tmp_path / "log").read_text().splitlines()
    assert int(second[13:15]) == (int(first[13:15]) + 1) % 60


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a\nb\r\tc\x00\x1b\x7f", b"a?b??c???"),
        ("caf\u00e9 \u4f60", "caf\u00e9 \u4f60".encode()),
        ("bad \udce9\udcff byte", b"bad ?? byte"),
        ("\n\u00e9\n", "?\u00e9?".encode()),
        ("x" * 3000, b"x" * 2000),
    ],
)
def test_what_cannot_be_printed(tmp_path: Path, text: str, written: bytes) -> None:
    log = file_log(tmp_path / "log")
    log.write("smtpd", text)
    log.close()
    assert (tmp_path / "log").read_bytes().endswith(b"]: " + written + b"\n")


def test_a_bug_is_logged_with_its_traceback(tmp_path: Path) -> None:
    log = file_log(tmp_path / "log")
    try:
        raise ZeroDivisionError("of all things")
    except ZeroDivisionError as error:
        log.panic("qmgr", "scheduler", error)
    log.close()
    lines = [line.partition("]: ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[:2] == ["panic: scheduler", "panic: Traceback (most recent call last):"]
    assert lines[-1] == "panic: ZeroDivisionError: of all things"
    assert any("test_a_bug_is_logged_with_its_traceback" in line for line in lines)


def test_a_renamed_file_is_left_within_a_second(tmp_path: Path) -> None:
    path, clock = tmp_path / "log", Clock()
    log = file_log(path, clock=clock)
    log.write("smtp", "one")
    path.rename(tmp_path / "old")
    clock.now += 1
    log.write("smtp", "two")
    path.unlink()
    clock.now += 1
    log.write("smtp", "three")
    log.close()
    assert b"one" in (tmp_path / "old").read_bytes()
    assert b"two" not in (tmp_path / "old").read_bytes()
    assert b"three" in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_reopen_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = file_log(path, clock=Clock())
    log.write("smtp", "one")
    path.rename(tmp_path / "old")
    log.reopen()
    log.write("smtp", "two")
    log.close()
    assert b"two" in path.read_bytes()


def test_a_full_disk_loses_only_the_oldest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sinks, "_KEPT_BYTES", 1000)
    write = os.write
    clock = Clock()
    log = file_log(tmp_path / "log", clock=clock)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for number in range(100):
        log.write("smtp", f"line {number}")
    monkeypatch.setattr(os, "write", write)
    clock.now += 1
    log.poll()
    log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    dropped = re.search(r"warning: (\d+) log lines were dropped", lines[-1])
    assert dropped
    assert lines[-2].endswith("line 99")
    assert len(lines) - 1 + int(dropped[1]) == 100


def test_a_file_that_cannot_be_opened_yet(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "not-there" / "log"
    log = file_log(path, clock=clock)
    log.write("smtp", "kept")
    path.parent.mkdir()
    clock.now += 1
    log.poll()
    log.close()
    assert b"kept" in path.read_bytes()


def test_a_pipe_that_nobody_reads_does_not_block(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = file_log(path)
    for _ in range(200):
        log.write("smtp", "x" * 1500)
    os.set_blocking(reader, False)
    received = b""
    while b"last" not in received:
        try:
            received += os.read(reader, 1 << 16)
        except BlockingIOError:
            log.write("smtp", "last")
    assert received.count(b"x" * 1500) == 200
    os.close(reader)
    log.close()


def test_syslog(tmp_path: Path) -> None:
    path = str(tmp_path / "dev-log")
    settings = LogSettings(syslog_path=path, syslog_facility="local0", syslog_name="mta")
    clock = Clock()
    log = Log(settings, clock=clock)
    log.write("smtp", "before syslogd")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(path)
        clock.now += 1
        log.warning("smtp", "hot")
        first, second = server.recv(9000).decode(), server.recv(9000).decode()
    stamp = r"[A-Z][a-z][a-z] [ \d]\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"<134>{stamp} mta/smtp\[\d+\]: before syslogd", first)
    assert re.fullmatch(rf"<132>{stamp} mta/smtp\[\d+\]: warning: hot", second)
    Path(path).unlink()
    log.write("smtp", "restarted")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(path)
        clock.now += 1
        log.poll()
        assert server.recv(9000).endswith(b"restarted")
    log.close()


def test_syslog_that_is_down_costs_a_bounded_number_of_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sinks, "_KEPT_LINES", 10)
    clock = Clock()
    log = Log(LogSettings(syslog_path=str(tmp_path / "none")), clock=clock)
    for number in range(25):
        log.write("smtp", f"line {number}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.settimeout(5)
        server.bind(str(tmp_path / "none"))
        clock.now += 1
        log.poll()
        received = [server.recv(9000) for _ in range(11)]
    assert received[0].endswith(b"line 15")
    assert received[-1].endswith(b"warning: 15 log lines were dropped: the log did not take them")
    log.close()


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        (LogSettings(maillog_file="/tmp/log"), "maillog_file"),
        (LogSettings(maillog_file="/variable/log"), "maillog_file"),
        (LogSettings(syslog_facility="nonsense"), "syslog_facility"),
        (LogSettings(maillog_file="/var/log/x", maillog_file_permissions=0), "maillog_file_permissions"),
    ],
)
def test_settings_that_cannot_work(settings: LogSettings, parameter: str) -> None:
    with pytest.raises(LogConfigError) as caught:
        check(settings)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("name", ["", "/var/log/maillog", "/dev/stdout"])
def test_settings_that_work(name: str) -> None:
    check(LogSettings(maillog_file=name))
