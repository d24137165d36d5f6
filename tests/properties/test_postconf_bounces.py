"""Templates of bounces (bounce_template_file) as postconf -b and -t print them, beside Debian's postconf."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fastmta.cli import postconf

POSTCONF = shutil.which("postconf") or "/usr/sbin/postconf"
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not Path(POSTCONF).exists(), reason="Postfix is not installed"),
]
Answer = tuple[int, str, list[str]]  # status, output, complaints

FILES = {
    "badexp": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: A\n\n$foo ${bar $myhostname\nEOF\n",
    "badexp2": (
        b"failure_template = <<EOF\nCharset: us-ascii\nSubject: A\n\n"
        b"$foo ${delay_warning_time_hours?{x}} ${maximal_queue_lifetime_seconds} $$ $mydomain\n"
        b"EOF\n"
    ),
    "badname": b"foo_template = <<EOF\nCharset: us-ascii\nSubject: A\n\nbody\nEOF\n",
    "blankend": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: A\n\nbody\nEOF  \n",
    "blankline": b"failure_template = <<EOF\nCharset: us-ascii\n  \nbody\nEOF\n",
    "blanks": b"failure_template = <<EOF\nCharset: us-ascii\nSubject:   S  s  \n\n\n  \nbody\nEOF\n",
    "colon": b"failure_template = <<EOF\nhello: world\n\nbody\nEOF\n",
    "colon2": b"failure_template = <<EOF\nhello there: world\n\nbody\nEOF\n",
    "colon3": b"failure_template = <<EOF\n: world\n\nbody\nEOF\n",
    "comment": b"# c\n\n  # d\nfailure_template = <<EOF\n# in\nCharset: us-ascii\nSubject: A\n\n# y\nEOF\n# e\n",
    "cont": b"failure_template =\n hello\n  # c\n world\n",
    "contin": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: S\n  more\n\nbody\nEOF\n",
    "crlf": b"failure_template = <<EOF\r\nSubject: x\r\n\r\nfoo\r\nEOF\r\n",
    "delaypm": (
        b"delay_template = <<EOF\nCharset: us-ascii\nSubject: S\nPostmaster-Subject: X\n\nbody\n"
        b"EOF\nsuccess_template = <<EOF\nCharset: us-ascii\nSubject: S\nPostmaster-Subject: X\n"
        b"\nbody\nEOF\n"
    ),
    "dup": b"failure_template = <<EOF\nSubject: A\nSubject: B\n\nx\nEOF\n",
    "eight": b"failure_template = <<EOF\nCharset: iso-8859-1\nFrom: x\xc3\xbc\n\nb\xfcr\nEOF\n",
    "eightbit": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: S\n\nb\xc3\xbcr\nEOF\n",
    "eightbit2": b"failure_template = <<EOF\nCharset: utf-8\nSubject: S\xc3\xbc\n\nb\xc3\xbcr\nEOF\n",
    "empty": b"",
    "emptyv": b"failure_template = \n",
    "emptyval": b"failure_template = <<EOF\nSubject:\nFrom:\nCharset:\n\nx\nEOF\n",
    "exp1": b"failure_template = <<EOF\n$mydomain\n${maximal_queue_lifetime_seconds}\nEOF\n",
    "exp2": b"failure_template = <<EOF\n$foo_bar\nEOF\n",
    "exp3": b"failure_template = <<EOF\n${foo_bar?x}${foo_bar:y} $myhostname\nEOF\n",
    "exp4": b"failure_template = <<EOF\n${myhostname\nmore}\nEOF\n",
    "exp5": b"failure_template = <<EOF\n$delay_warning_time ${delay_warning_time_fortnights}\nEOF\n",
    "exp7": (
        b"failure_template = <<EOF\n"
        b"$inet_interfaces $delay_warning_time_minutes $maximal_queue_lifetime_weeks "
        b"$bounce_queue_lifetime_minutes $maximal_queue_lifetime_hours "
        b"$minimal_backoff_time_minutes $maximal_backoff_time_seconds\nEOF\n"
    ),
    "indentend": b"failure_template = <<EOF\nx\n EOF\nEOF\n",
    "marker": b"failure_template = <<E-F\nx\nE-F\n",
    "marker2": b"failure_template = <<E_F2 junk\nx\nE_F2\n",
    "marker3": b"failure_template = <<\nx\n",
    "name2": b"failure_template x = <<EOF\nx\nEOF\n",
    "name3": b"= <<EOF\nx\nEOF\n",
    "nobody": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: S\nEOF\n",
    "nobody2": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: S\n\nEOF\n",
    "nocharset": b"failure_template = <<EOF\nFrom: F\nSubject: S\n\nbody\nEOF\n",
    "noend": b"failure_template = <<EOF\nCharset: us-ascii\nSubject: A\n\nx\n",
    "nofrom": b"failure_template = <<EOF\nCharset: utf-8\nSubject: S\n\nbody\nEOF\n",
    "noheader": b"failure_template = <<EOF\nbody starts here\nmore\nEOF\n",
    "noheader2": b"failure_template = <<EOF\n\nbody starts here\nmore\nEOF\n",
    "noline": b"hello\nfailure_template = <<EOF\nX\nEOF\n",
    "noline2": b"hello world\n",
    "nosubject": b"failure_template = <<EOF\nCharset: us-ascii\nFrom: F\n\nbody\nEOF\n",
    "novalue": b"failure_template = hello\n",
    "nul": b"failure_template = <<EOF\na\x00b\nEOF\n",
    "order": b"failure_template = <<EOF\nsubject:    S  s  \npostmaster-subject: P\nFROM:F\ncharset:x\n\nbody\nEOF\n",
    "quoted": b'failure_template=<<"EOF"\nCharset: us-ascii\nSubject: A\n\nbody\n"EOF"\n',
    "spaced": b"failure_template = << EOF\nCharset: us-ascii\nSubject: A\n\n   body  \n\n x\nEOF\n",
    "spacelabel": b"failure_template = <<EOF\nCharset : us-ascii\nSubject: S\n\nbody\nEOF\n",
    "twice": (
        b"failure_template = <<EOF\nCharset: us-ascii\nSubject: A\n\nbody\nEOF\n"
        b"failure_template = <<EOF\nSubject: B\n\nbody2\nEOF\n"
    ),
    "two": b"foo = <<EOF\nx\nEOF\ndelay_template = <<EOF\ndelayed\nEOF\n",
    "unknown": b"failure_template = <<EOF\nCharset: us-ascii\nX-Foo: F\nSubject: S\n\nbody\nEOF\n",
}


def answer(status: int, out: str, err: str) -> Answer:
    return status, out, re.sub(r"^\S*(postconf|bounce): ", "", err, flags=re.M).splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bounces")
    (folder / "main.cf").write_text("myhostname = mail.example.com\nrelayhost = [$my_host]\nmy_host = a\n")
    (folder / "master.cf").touch()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def of_postfix(folder: Path) -> dict[tuple[str, str], Answer]:
    """All at once: Postfix waits a second before it ends with a fatal error."""

    def run(job: tuple[str, str]) -> Answer:
        done = subprocess.run(
            [POSTCONF, "-c", str(folder), job[0], str(folder / job[1])], capture_output=True, timeout=60, check=False
        )
        return answer(
            done.returncode, *(text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
        )

    jobs = [(way, name) for name in FILES for way in ("-t", "-b")]
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(jobs, pool.map(run, jobs), strict=True))


@pytest.mark.parametrize("way", ["-t", "-b"])
@pytest.mark.parametrize("name", FILES)
def test_like_postfix(
    name: str,
    way: str,
    folder: Path,
    of_postfix: dict[tuple[str, str], Answer],
    capfd: pytest.CaptureFixture[str],
) -> None:
    capfd.readouterr()
    status = postconf.main(["-c", str(folder), way, str(folder / name)])
    assert answer(status, *capfd.readouterr()) == of_postfix[way, name]
