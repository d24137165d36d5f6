"""What entries of master.cf say in vain, which of them are off, and the environment of the mail system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmta.config import Config, ConfigError, environment, load
from fastmta.config.served import lines as lines_of_services
from fastmta.master.sockets import smtpd_services
from tests.live import LiveServer

Read = Callable[[str, str], Config]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Load a configuration from the text of its two files."""

    def read(main_cf: str, master_cf: str) -> Config:
        (tmp_path / "main.cf").write_text(main_cf)
        (tmp_path / "master.cf").write_text(master_cf)
        return load(tmp_path)

    return read


def test_settings_that_no_process_reads_are_reported_where_they_differ(read: Read) -> None:
    config = read(
        "header_checks = regexp:/x\nmyorigin = here\n",
        "cleanup unix n - n - 0 cleanup -o header_checks=regexp:/x -o myorigin=there -o max_use=3 -o typo=1\n"
        "gone unix n - n - - pipe -o myorigin=there\n"
        "off inet n - n - - smtpd -o smtpd_sasl_auth_enable=yes\n",
    )
    lines = config.with_values({"master_service_disable": "off/inet"}).report()
    assert [line.partition(": ")[2] for line in lines] == [
        "not supported yet: header_checks=regexp:/x",
        "cleanup/unix: no effect: myorigin=there (cleanup has no process of its own: main.cf alone counts)",
        "cleanup/unix: unused parameter: typo=1",
    ]


def test_fields_and_arguments_in_vain(read: Read) -> None:
    config = read(
        "",
        "1 inet n - n - 20 smtpd -v\n2 inet n - y - 0 smtpd -Dvo myhostname=x.test word\n"
        "smtp unix - - y - 30 smtp -D\nx unix - - n - - pipe flags=D\n",
    )
    assert config.for_service(config.services[1]).myhostname == "x.test"
    assert [line.partition("master.cf")[2] for line in config.report()] == [
        ", line 1: 1/inet: no effect: process limit 20: more than 20 clients may be connected at a time, where Postfix "
        "lets the others wait",
        ", line 2: 2/inet: unexpected command-line argument: word: Postfix would not run this service",
    ]
    assert [line.partition("master.cf")[2] for line in config.notes()] == [
        ": no effect: chroot = y: workers run as mail_owner, but not in a chroot jail (2/inet, smtp/unix)",
        ": no effect: -v: there is no verbose log (1/inet, 2/inet)",
        ": no effect: -D: no debugger is started (2/inet, smtp/unix)",
    ]


@pytest.mark.parametrize("entry", ["x inet n - n - - smtp", "x fifo n - n - - lmtp", "x pass - - n - - smtpd"])
def test_programs_at_services_where_nothing_serves_them(read: Read, entry: str) -> None:
    (line,) = lines_of_services(read("", entry + "\n").services)
    assert "not supported yet: nothing answers there" in line


@pytest.mark.parametrize(
    ("patterns", "off"),
    [
        ("", ""),
        ("inet", "a b"),
        ("a/inet", "a"),
        ("a.inet", "a"),
        ("!a/inet inet", "b"),
        ("!a/inet, !!b/inet", "b"),
        ("inet, !a/inet", "a b"),
        ("unix, fifo", "c"),
        ("A/inet, d", ""),
    ],
)
def test_master_service_disable(read: Read, patterns: str, off: str) -> None:
    config = read(
        f"master_service_disable = {patterns}\n",
        "a inet n - n - - smtpd\nb inet n - n - - smtpd\nc unix - - n - - smtp\n",
    )
    lines = lines_of_services(config.services, config.get_list("master_service_disable"))
    assert [line[0] for line in lines if line.endswith("off: master_service_disable")] == off.split()
    assert [s.name for s in smtpd_services(config)] == [name for name in "ab" if name not in off.split()]


# -- the environment


def test_environment(read: Read) -> None:
    config = read(
        "import_environment = TZ {LANG=C x}, A=b=c, { PATH = }, NOWHERE {}\nexport_environment = A,{B=1, 2}\n", ""
    )
    given = {"TZ": "UTC", "LANG": "de", "SECRET": "x", "MAIL_CONFIG": "/other", "A": "1"}
    assert environment.imported(config, given) == {
        "TZ": "UTC",
        "LANG": "C x",
        "A": "b=c",
        "PATH": "",
        "MAIL_CONFIG": str(config.directory),
    }
    assert environment.exported(config, given) == {"A": "1", "B": "1, 2"}
    assert environment.overrides(config) == {"LANG": "C x", "A": "b=c", "PATH": ""}


@pytest.mark.parametrize("value", ["=x", "{a=b}c", "{a=b"])
def test_environment_that_is_none(read: Read, value: str) -> None:
    config = read(f"import_environment = TZ {value}\n", "")
    with pytest.raises(ConfigError, match=r"main\.cf, line 1: parameter import_environment: ") as error:
        environment.imported(config, {})
    assert value in str(error.value)


def test_the_environment_of_this_process() -> None:
    code = """
import os, time
from fastmta.config import environment
environment.become({"TZ": "XXX-3", "A": "1"})
print(os.environ, time.tzname[0])
import subprocess
subprocess.run("/usr/bin/env")
"""
    done = subprocess.run([sys.executable, "-uc", code], capture_output=True, text=True, check=True)
    assert done.stdout == "environ({'TZ': 'XXX-3', 'A': '1'}) XXX\nTZ=XXX-3\nA=1\n"


def test_the_environment_of_the_mail_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time zone of import_environment is that of the log, also after a reload; the caller's is where it is named."""
    monkeypatch.setenv("TZ", "ZZZ-5")

    def is_in(zone: str) -> bool:
        last = [line for line in server.log().splitlines() if " configuration /" in line][-1]
        date = subprocess.run(["date", "+%H"], env={"TZ": zone}, capture_output=True, text=True, check=True)
        return last.split()[2][:2] == date.stdout.strip()

    server = LiveServer(tmp_path, {"import_environment": "TZ"})
    with server:
        assert is_in("ZZZ-5")
        for setting, zone in (("{ TZ=XXX-3 }", "XXX-3"), ("TZ=YYY-9", "YYY-9")):
            server.parameters["import_environment"] = setting
            server.write_main_cf()
            assert server.run("fastmta", "reload").returncode == 0
            assert is_in(zone)
    server.parameters["import_environment"] = "NOTHING"
    server.write_main_cf()
    with server:
        assert is_in("")
