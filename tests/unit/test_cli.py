"""The commands without a running mail system: what they take, what they say, how they end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmta.cli import check, main, quickstart
from fastmta.cli.directory import config_directory
from fastmta.config import load
from fastmta.master.preload import preload
from tests.live import free_port

ROOT = os.geteuid() == 0
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration that would start."""
    for parent in (tmp_path, *tmp_path.parents):
        if ROOT and str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    (tmp_path / "main.cf").write_text(
        f"queue_directory = {tmp_path}/queue\n"
        "mail_owner = nobody\n"
        "myhostname = mail.example\n"
        "inet_protocols = ipv4\n"
        f"maillog_file = {tmp_path}/log\n"
        f"maillog_file_prefixes = {tmp_path}\n"
    )
    # without a compatibility_level there is no relay guard by default
    guard = "-o smtpd_relay_restrictions=reject_unauth_destination"
    (tmp_path / "master.cf").write_text(f"127.0.0.1:{free_port()} inet n - n - - smtpd {guard}\n")
    return tmp_path


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def fastmta(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastmta", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environ},
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no command given"),
        (("nosuch",), "unknown command: nosuch"),
        (("-x", "start"), "unknown option: -x"),
        (("status", "now"), "status takes no argument: now"),
    ],
)
def test_a_wrong_call_is_explained(arguments: tuple[str, ...], said: str) -> None:
    done = fastmta(*arguments)
    assert done.returncode == 1
    assert f"fastmta/postfix-script: fatal: {said}" in done.stderr
    assert "usage: fastmta [-c config_dir]" in done.stderr


def test_help_and_version() -> None:
    assert fastmta("--help").stdout.startswith("usage: fastmta")
    assert fastmta("--version").stdout.startswith("FastMTA 0.")


@pytest.mark.parametrize("command", ["status", "stop", "abort", "reload", "flush"])
def test_commands_say_that_nothing_runs(folder: Path, command: str) -> None:
    done = fastmta("-c", str(folder), command)
    assert done.returncode == 1
    assert "the FastMTA mail system is not running" in done.stderr


@pytest.mark.parametrize("form", [("-c", "{}", "status"), ("status", "-c", "{}"), ("-c{}", "status")])
def test_the_folder_may_stand_before_or_after_the_command(folder: Path, form: tuple[str, ...]) -> None:
    done = fastmta(*(word.format(folder) for word in form), MAIL_CONFIG="/nowhere")
    assert "is not running" in done.stderr


def test_the_environment_names_the_folder(folder: Path) -> None:
    assert "is not running" in fastmta("status", MAIL_CONFIG=str(folder)).stderr


def test_a_relative_folder_is_meant_from_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_directory("conf") == tmp_path / "conf"


@pytest.mark.parametrize("command", ["start", "start-fg", "status", "check", "stop", "reload"])
def test_no_main_cf_is_an_error_that_names_it(tmp_path: Path, command: str) -> None:
    done = fastmta("-c", str(tmp_path), command)
    assert done.returncode == 1
    assert f"{tmp_path}/main.cf" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_complains_of_nothing_when_all_is_well(folder: Path) -> None:
    done = fastmta("-c", str(folder), "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\nThis will behave as with Postfix.\n")


def test_check_says_what_serves_each_service(folder: Path) -> None:
    append(folder / "master.cf", "qmgr unix n - n 300 1 qmgr\nlocal unix - n n - - local\nx unix - n n - - /bin/x\n")
    done = fastmta("-c", str(folder), "check")
    lines = [line.split(None, 2) for line in done.stdout.splitlines()]
    assert ["qmgr/unix", "qmgr", "works, without a process of its own: the workers' scheduler"] in lines
    assert ["local/unix", "local", "not supported yet: mail for it waits"] in lines
    assert ["x/unix", "x", "not supported yet: no part of Postfix: such a program is not started"] in lines
    assert "(2 services)" in done.stdout


def test_check_counts_parameters_by_state(folder: Path) -> None:
    done = fastmta("-c", str(folder), "check", "--coverage")
    found = re.search(
        r"^(\d+) parameters of Postfix: (\d+) works, (\d+) accepted, no effect here, (\d+) not yet$", done.stdout, re.M
    )
    assert found
    total, *states = map(int, found.groups())
    assert total == sum(states) > 860


def test_check_takes_no_other_argument(folder: Path) -> None:
    assert fastmta("-c", str(folder), "check", "--cover").returncode == 1


def test_check_names_parameters_that_do_nothing_with_file_and_line(folder: Path) -> None:
    append(folder / "main.cf", "no_such_parameter = 1\n")
    append(folder / "master.cf", "smtp unix - - n - - smtp\n  -o other_strange_thing=1\n")
    done = fastmta("-c", str(folder), "check")
    assert done.returncode == 0
    assert f"warning: {folder}/main.cf, line 7: unused parameter: no_such_parameter=1" in done.stderr
    assert "other_strange_thing" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("smtpd_timeout = soon", "main.cf, line 7"),
        ("fastmta_workers = lots", "fastmta_workers"),
        ("fastmta_workers = 17", "fastmta_queue_shards = 16"),
        ("inet_protocols = ipv5", "inet_protocols"),
        ("maillog_file = /somewhere/else", "maillog_file_prefixes"),
        ("syslog_facility = nosuch", "main.cf, line 7: parameter syslog_facility: unknown syslog facility"),
        ("mynetworks = 10.0.0.1/8", "main.cf, line 7: parameter mynetworks: non-null host address bits"),
        ("queue_directory = here", "main.cf, line 7: parameter queue_directory: not an absolute pathname"),
        ("smtp_tls_security_level = secure", "main.cf, line 7: smtp_tls_security_level = secure is not supported yet"),
        ("smtp_tls_security_level = mya", "main.cf, line 7: bad parameter value"),
        ("smtp_address_preference = ipv5", "main.cf, line 7: bad parameter value"),
        ("smtp_host_lookup = yp", "main.cf, line 7: unknown smtp_host_lookup value"),
        ("smtp_bind_address = here", "main.cf, line 7: bad smtp_bind_address parameter"),
        ("default_destination_concurrency_negative_feedback = 2", "main.cf, line 7: "),
        ("smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /nowhere", "main.cf, line 8: smtpd_tls_cert_file"),
    ],
)
def test_check_finds_what_would_not_start(folder: Path, line: str, said: str) -> None:
    append(folder / "main.cf", line + "\n")
    append(folder / "master.cf", "smtp unix - - n - - smtp\n")
    done = fastmta("-c", str(folder), "check")
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nosuchport inet n - n - - smtpd", "line 2: unknown TCP port or service: nosuchport"),
        ("nosuchhost.invalid:25 inet n - n - - smtpd", "line 2: host not found: nosuchhost.invalid"),
        ("smtp inet n - n - -", "line 2"),
    ],
)
def test_check_finds_what_is_wrong_in_master_cf(folder: Path, line: str, said: str) -> None:
    append(folder / "master.cf", line + "\n")
    done = fastmta("-c", str(folder), "check")
    assert done.returncode == 1
    assert said in done.stderr


def test_check_names_all_errors(folder: Path) -> None:
    append(folder / "main.cf", "smtpd_timeout = soon\nrelayhost = ${x\nsoft_bounce = maybe\n")
    append(folder / "master.cf", "26 inet n - n - - smtpd -o smtpd_tls_loglevel=x\n")
    done = fastmta("-c", str(folder), "check")
    assert done.returncode == 1
    found = re.findall(r"fatal: \S+/(\w+\.cf, line \d+)", done.stderr)
    assert found == ["main.cf, line 7", "main.cf, line 8", "main.cf, line 9", "master.cf, line 2"]
    assert done.stdout == "The mail system would not start: 4 errors.\n"


def test_check_wants_a_service_that_accepts_mail(folder: Path) -> None:
    (folder / "master.cf").write_text("smtp unix - - n - - smtp\n")
    done = fastmta("-c", str(folder), "check")
    assert done.returncode == 1
    assert "no inet service runs smtpd" in done.stderr


def test_check_names_services_that_nothing_answers(folder: Path) -> None:
    append(folder / "master.cf", "2525 inet n - n - 1 postscreen\nsmtpd pass - - n - - smtpd\n")
    done = fastmta("-c", str(folder), "check")
    assert re.search(r"^2525/inet +postscreen +not supported yet: nothing answers there$", done.stdout, re.M)
    assert "(2 services)" in done.stdout
    # start prints no list
    said = check.unanswered(load(folder))
    assert said[0] == f"{folder}/master.cf, line 2: not supported yet: postscreen at 2525/inet: nothing answers there"
    assert len(said) == 2


def test_check_warns_of_files_that_others_may_write(folder: Path) -> None:
    (folder / "main.cf").chmod(0o666)
    done = fastmta("-c", str(folder), "check")
    assert f"warning: group or other writable: {folder}/main.cf" in done.stderr


@pytest.mark.skipif(not ROOT, reason="only root changes to mail_owner")
def test_check_finds_a_queue_that_its_owner_cannot_reach(folder: Path) -> None:
    (folder / "closed").mkdir(mode=0o700)
    append(folder / "main.cf", f"queue_directory = {folder}/closed/queue\n")
    done = fastmta("-c", str(folder), "check")
    assert done.returncode == 1
    assert f"user nobody (mail_owner) may not enter {folder}/closed, on the way to" in done.stderr


def test_start_refuses_to_log_to_a_terminal_that_it_leaves(folder: Path) -> None:
    append(folder / "main.cf", "maillog_file_prefixes = /dev/stdout\nmaillog_file = /dev/stdout\n")
    done = fastmta("-c", str(folder), "start")
    assert done.returncode == 1
    assert "start-fg" in done.stderr


def test_programs_get_their_arguments_and_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmta.cli import postqueue

    seen: list[tuple[list[str], str]] = []

    def record(argv: list[str]) -> int:
        seen.append((argv, os.environ["MAIL_CONFIG"]))
        return 7

    monkeypatch.setattr(postqueue, "main", record)
    monkeypatch.setenv("MAIL_CONFIG", "/elsewhere")
    assert main.run(["-c", "/some/conf", "postqueue", "-i", "ABC"]) == 7
    assert main.run(["postqueue", "-c", "/other", "-p"]) == 7
    assert seen == [(["-i", "ABC"], "/some/conf"), (["-c", "/other", "-p"], "/some/conf")]


def test_quickstart_writes_a_configuration_once(tmp_path: Path) -> None:
    quickstart.write_config(tmp_path / "run", "nobody", "2600")
    config = load(tmp_path / "run")
    assert config.queue_directory == tmp_path / "run" / "queue"
    assert [service.name for service in config.services][:1] == ["2600"]
    assert config.get_str("inet_interfaces") == "loopback-only"
    (tmp_path / "run" / "main.cf").write_text("changed = 1\n")
    quickstart.write_config(tmp_path / "run", "nobody", "2601")
    assert (tmp_path / "run" / "main.cf").read_text() == "changed = 1\n"


def test_quickstart_relays_for_this_machine_only(tmp_path: Path) -> None:
    quickstart.write_config(tmp_path, "nobody", "2600")
    networks = load(tmp_path).get_list("mynetworks")
    assert "127.0.0.1/32" in networks
    assert all(network.endswith(("/32", "/128")) for network in networks)


def test_preload_leaves_nothing_of_ours_to_import() -> None:
    before = set(sys.modules)
    preload()
    loaded = set(sys.modules)
    assert {"fastmta.master.worker", "dns.rdtypes.IN.A", "dns.rdtypes.ANY.MX", "encodings.idna"} <= loaded
    assert not {name for name in loaded - before if name.startswith("fastmta.cli")}
