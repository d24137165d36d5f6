"""main.cf: logical lines, definitions, what is wrong and where."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastmta.config import ConfigError, load
from fastmta.config.maincf import parse_main_cf, read_main_cf

POSTCONF = shutil.which("postconf") or "/usr/sbin/postconf"


def values(text: str) -> dict[str, str]:
    return {name: definition.value for name, definition in parse_main_cf(text, "main.cf", []).items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = b\n", {"a": "b"}),
        ("a=b", {"a": "b"}),
        ("a\t =\t b c \t\n", {"a": "b c"}),
        ("a =\n", {"a": ""}),
        ("a = b = c\n", {"a": "b = c"}),
        ("a = b,\n    c\n\td\n", {"a": "b,    c\td"}),
        ("a = b\n# comment\n\n   \n  # another\n  c\n", {"a": "b  c"}),
        ("a = b # no comment\n", {"a": "b # no comment"}),
        ("#a = b\n  c\nd = e\n", {"d": "e"}),
        ("a = b\r\nc = d\r\n", {"a": "b", "c": "d"}),
        ("a\n = b\n", {"a": "b"}),
        ("a = \xe9\n", {"a": "\xe9"}),
        ("", {}),
    ],
)
def test_definitions(text: str, expected: dict[str, str]) -> None:
    assert values(text) == expected


def test_last_definition_wins_with_a_warning() -> None:
    warnings: list[str] = []
    definitions = parse_main_cf("a = 1\nb = 2\na = 3\nb = 2\n", "main.cf", warnings)
    assert definitions["a"] == ("3", "main.cf", 3)
    assert definitions["b"].value == "2"
    assert warnings == ["main.cf, line 3: overriding earlier entry: a=1"]


def test_a_line_that_continues_nothing_is_left_out_with_a_warning() -> None:
    warnings: list[str] = []
    assert parse_main_cf("  a = 1\nb = 2\n", "main.cf", warnings).keys() == {"b"}
    assert warnings == ['main.cf, line 1: logical line must not start with whitespace: "  a = 1"']


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a = b\nsyntax\n", 2, "missing '=' after attribute name: \"syntax\""),
        ("a = b\n\n# x\na b = c\n", 4, "missing '=' after attribute name: \"a b = c\""),
        ("= c\n", 1, 'missing attribute name: "= c"'),
        ("a = b\nwrong\n continued\n", 2, "missing '=' after attribute name: \"wrong continued\""),
    ],
)
def test_syntax_errors_name_file_and_line(text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_main_cf(text, "/etc/x/main.cf", [])
    assert (caught.value.file, caught.value.line) == ("/etc/x/main.cf", line)
    assert str(caught.value) == f"/etc/x/main.cf, line {line}: {message}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"open {tmp_path}/main.cf: No such file or directory"
    (tmp_path / "main.cf").touch()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"open {tmp_path}/master.cf: No such file or directory"
    assert load(tmp_path, services=False).services == ()


def test_bytes_that_are_not_utf8_survive(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_bytes(b"relayhost = caf\xe9\n")
    value = load(tmp_path, services=False).get_str("relayhost")
    assert value.encode("utf-8", "surrogateescape") == b"caf\xe9"


def test_a_null_byte_ends_a_logical_line() -> None:
    warnings: list[str] = []
    found = parse_main_cf("a = b\0c\n  d\ne = f\n", "main.cf", warnings)
    assert {name: definition.value for name, definition in found.items()} == {"a": "b", "e": "f"}
    assert warnings == ["main.cf, line 1: the logical line ends at a null byte"]


ODD_FILES = {
    "crlf": b"myorigin = a\r\nrelayhost = b,\r\n  c\r\n# x\r\n\r\nmydomain = d\r\n",
    "null": b"myorigin = a\0b\n  c\nrelayhost = x\n",
    "null_in_name": b"my\0origin = a\n",
    "null_alone": b"\0\nrelayhost = x\n",
    "null_in_comment": b"# \0 x\nrelayhost = x\n",
    "no_newline": b"myorigin = a",
    "no_newline_in_continuation": b"myorigin = a\n  b",
    "utf8": "myorigin = b\u00fccher.example\nrelayhost = \u65e5\u672c\n".encode(),
    "latin1": b"myorigin = b\xfccher\n",
    "nbsp": "myorigin =\u00a0a\u00a0\n".encode(),
    "form_feed": b"myorigin = a\x0cb\x0b\n\x0c  c\n",
    "other_line_ends": b"myorigin = a\x1cb\x85c\xe2\x80\xa8d\n",
    "cr_only": b"myorigin = a\rrelayhost = b\r",
    "long_line": b"myorigin = " + b"x" * 300_000 + b"\n",
    "long_list": b"relay_domains = " + b"a.b, " * 50_000 + b"\n",
    "empty": b"",
    "blank": b"\n\n   \n",
    "comments_in_between": b"myorigin = a\n   # comment\n   b\n#c\n\n  d\n",
    "more_equal_signs": b"myorigin = a = b\nrelayhost==x\n",
    "blank_in_name": b"my origin = a\n",
    "quoted_name": b'"x" = a\nmyorigin = b\n',
}


@pytest.mark.skipif(not Path(POSTCONF).exists(), reason="Postfix is not installed")
@pytest.mark.peer
@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_like_postfix(name: str, tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_bytes(ODD_FILES[name])
    (tmp_path / "master.cf").touch()
    os.utime(tmp_path / "main.cf", (1e9, 1e9))
    ours, theirs = (
        subprocess.run([*program, "-c", str(tmp_path), "-n"], capture_output=True, timeout=60, check=False)
        for program in ([sys.executable, "-m", "fastmta", "postconf"], [POSTCONF])
    )
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    complaints = [re.sub(rb"^\S+: ", b"", done.stderr, flags=re.M).splitlines() for done in (ours, theirs)]
    assert [line for line in complaints[0] if b"null byte" not in line] == complaints[1]


@pytest.mark.parametrize("make", ["folder", "loop"])
def test_files_that_cannot_be_read(make: str, tmp_path: Path) -> None:
    path = tmp_path / "main.cf"
    if make == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    with pytest.raises(ConfigError, match=rf"^open {re.escape(str(path))}: (Is a directory|Too many levels)"):
        read_main_cf(path, [])
