"""postconf where there is no other to compare with: JSON, -PP, bounce texts, and how files are replaced."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fastmta.cli import postconf
from fastmta.cli.postconf.edit import Change as Edit
from fastmta.cli.postconf.edit import What, edit_master, master_orders
from fastmta.config.replace import replace_text

POSTCONF = shutil.which("postconf") or "/usr/sbin/postconf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "main.cf").write_text("# ours\nmyhostname = a.example\nrelayhost =\n  [b.example]\n")
    (tmp_path / "master.cf").write_text("smtp inet n - n - - smtpd\n  -o smtpd_banner=$myhostname -v\n")
    return tmp_path


def run(folder: Path, *arguments: str) -> int:
    return postconf.main(["-c", str(folder), *arguments])


def test_json_is_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "main.cf").write_text('relayhost = "\\ \té\n')
    for way in (["-nj"], ["-j"], ["-Mj"], ["-Fj"], ["-Pjx"]):
        assert run(folder, *way) == 0
        records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert records
        assert all(len(record) == 1 for record in records)
        if way == ["-nj"]:
            assert {"relayhost": '"\\ é'} in records


def test_twice_p_shows_what_the_service_sees(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "-P", "smtp/inet/relayhost")
    assert capsys.readouterr() == ("", 'postconf: warning: unmatched request: "smtp/inet/relayhost"\n')
    run(folder, "-PP", "smtp/inet/relayhost", "smtp/inet/smtpd_banner", "smtp/inet/soft_bounce")
    assert capsys.readouterr().out.splitlines() == [
        "smtp/inet/relayhost = [b.example]",
        "smtp/inet/smtpd_banner = $myhostname",
        "smtp/inet/soft_bounce = no",
    ]


def test_what_is_said_of_parameters_that_go_away(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "main.cf").write_text("smtp_use_tls = yes\ntls_legacy_public_key_fingerprints = no\n")
    run(folder, "-n")
    complaints = capsys.readouterr().err
    assert '"smtp_use_tls" will be removed; instead, specify "smtp_tls_security_level"' in complaints
    assert '"tls_legacy_public_key_fingerprints" has been removed; instead, do not specify' in complaints
    run(folder, "-nq")
    assert capsys.readouterr().err == ""


@pytest.mark.peer
@pytest.mark.skipif(not Path(POSTCONF).exists(), reason="Postfix is not installed")
@pytest.mark.parametrize("option", ["-t", "-b"])
def test_bounce_texts_are_postfix_s(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "main.cf").write_text("myhostname = a.example\ndelay_warning_time = 4h\n")
    (tmp_path / "own").write_text(
        "# a comment\ndelay_template = <<END\nCharset: utf-8\nFrom: Us <us>\nSubject: Late\n"
        "Postmaster-Subject: Late, too\n\n$delay_warning_time_minutes minutes at $mydomain\nEND\n"
    )
    for file in ("", str(tmp_path / "own")):
        command = [POSTCONF, "-c", str(tmp_path), option, file]
        theirs = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert theirs.stdout
        assert run(tmp_path, option, file) == 0
        assert capsys.readouterr().out == theirs.stdout


# -- files are replaced


def test_an_edit_keeps_comments_layout_mode_and_nothing_else_in_the_folder(folder: Path) -> None:
    (folder / "main.cf").chmod(0o640)
    inode = (folder / "main.cf").stat().st_ino
    assert run(folder, "myhostname=c.example", "mydomain = example") == 0
    assert (folder / "main.cf").read_text() == (
        "# ours\nmyhostname = c.example\nrelayhost =\n  [b.example]\nmydomain = example\n"
    )
    found = (folder / "main.cf").stat()
    assert stat.S_IMODE(found.st_mode) == 0o640
    assert found.st_ino != inode
    assert sorted(path.name for path in folder.iterdir()) == ["main.cf", "master.cf"]


def test_an_edit_that_fails_leaves_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "master.cf").read_text()
    assert run(folder, "-F", "smtp/inet/wakeup=soon") == 1
    assert "invalid wakeup field" in capsys.readouterr().err
    assert (folder / "master.cf").read_text() == before
    assert not list(folder.glob("*.tmp"))


def test_a_file_without_its_last_newline(folder: Path) -> None:
    (folder / "main.cf").write_text("a = b")
    assert run(folder, "c=d") == 0
    assert (folder / "main.cf").read_text() == "a = b\nc = d\n"


def test_no_file_is_an_error_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "a=b") == 1
    assert capsys.readouterr().err == (
        f"postconf: fatal: open {tmp_path}/main.cf for reading: No such file or directory\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_changed_entry_keeps_the_comments_behind_it_and_its_braces() -> None:
    text = "# of a\na unix - - - - - pipe\n  -o x=y\n# inside\n  { two words }\n# of b\n\nb unix - - - - - lmtp\n"
    orders = master_orders(What.SETTING, Edit.SET, ["a/unix/x=z"], print)
    assert edit_master(text, "master.cf", What.SETTING, Edit.SET, orders, print) == (
        "# of a\n# inside\na          unix  -       -       -       -       -       pipe\n"
        "    -o x=z\n    {two words}\n# of b\n\nb unix - - - - - lmtp\n"
    )


def _add(path: str, number: int) -> None:
    for step in range(20):
        replace_text(path, lambda text, step=step: text + f"{number} {step}\n")  # type: ignore[misc]


def test_edits_at_the_same_time_all_come_through(tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    path.write_text("")
    processes = [multiprocessing.get_context("spawn").Process(target=_add, args=(str(path), n)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert sorted(path.read_text().splitlines()) == sorted(f"{n} {step}" for n in range(4) for step in range(20))


def test_edits_at_the_same_time_are_all_there(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("# first\n")
    (tmp_path / "master.cf").touch()
    programs = [
        subprocess.Popen(
            [sys.executable, "-m", "fastmta", "postconf", "-c", str(tmp_path), "-e", f"name{number}={number}"],
            stderr=subprocess.PIPE,
        )
        for number in range(8)
    ]
    assert [program.communicate(timeout=60)[1] for program in programs] == [b""] * 8
    lines = (tmp_path / "main.cf").read_text().splitlines()
    assert lines[0] == "# first"
    assert sorted(lines[1:]) == [f"name{number} = {number}" for number in range(8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["main.cf", "master.cf"]


def test_an_edit_waits_for_whoever_has_the_lock(tmp_path: Path) -> None:
    """Of main.cf.tmp, as Postfix's postconf does it."""
    (tmp_path / "main.cf").write_text("a = b\n")
    with (tmp_path / "main.cf.tmp").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        program = subprocess.Popen(
            [sys.executable, "-m", "fastmta", "postconf", "-c", str(tmp_path), "-e", "c=d"], stderr=subprocess.PIPE
        )
        with pytest.raises(subprocess.TimeoutExpired):
            program.communicate(timeout=1.0)
        assert (tmp_path / "main.cf").read_text() == "a = b\n"
    assert program.communicate(timeout=30)[1] == b""
    assert (tmp_path / "main.cf").read_text() == "a = b\nc = d\n"


def test_an_edit_puts_a_file_in_the_place_of_a_link(tmp_path: Path) -> None:
    """As Postfix's does."""
    (tmp_path / "real").write_text("a = b\n")
    (tmp_path / "main.cf").symlink_to("real")
    done = subprocess.run(
        [sys.executable, "-m", "fastmta", "postconf", "-c", str(tmp_path), "-e", "c=d"], timeout=60, check=False
    )
    assert done.returncode == 0
    assert not (tmp_path / "main.cf").is_symlink()
    assert (tmp_path / "main.cf").read_text() == "a = b\nc = d\n"
    assert (tmp_path / "real").read_text() == "a = b\n"
