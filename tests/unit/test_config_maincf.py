"""main.cf: logical lines, definitions, what is wrong and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmta.config import ConfigError, load
from fastmta.config.maincf import parse_main_cf


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
