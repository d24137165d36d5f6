"""Postfix's own regression tests of $name expansion, time values and host lists, run against ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmta.config.expand import Expansion
from fastmta.config.values import time_unit, to_seconds
from fastmta.tables.matchlist import MatchList, PatternError

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "postfix"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="no vectors beside the project")

UNDEFINED, ERROR = 2, 1


def read(name: str) -> str:
    path = VECTORS / name
    return path.read_text("utf-8") if path.exists() else ""


def expansions(name: str) -> Iterator[tuple[dict[str, str], str, list[str], str]]:
    """(values, expression, expected warnings, expected "stat=N result=TEXT") of a .ref file."""
    values: dict[str, str] = {}
    expression, defining = "", True
    warnings: list[str] = []
    for line in read(name).splitlines():
        if line.startswith("<< "):
            text = line[3:]
            if not text:
                if not defining:
                    values = {}
                defining = not defining
            elif defining:
                key, _, value = text.partition(" = ")
                values[key] = value
            else:
                expression, warnings = text, []
        elif line.startswith("unknown: warning: "):
            warnings.append(line.removeprefix("unknown: warning: "))
        elif line.startswith("stat="):
            yield dict(values), expression, warnings, line


CASES = [*expansions("config/mac_expand.ref"), *expansions("config/compat_level_expand.ref")]


def test_all_cases_of_the_files_are_run() -> None:
    assert len(CASES) > 110


@pytest.mark.parametrize(("values", "expression", "warnings", "expected"), CASES, ids=[case[1] for case in CASES])
def test_expansion(values: dict[str, str], expression: str, warnings: list[str], expected: str) -> None:
    result = Expansion(expression, values.get, functions={"test_named_fn": lambda text: f"-=oO{text}Oo=-"})
    status = (UNDEFINED if result.undefined else 0) | (ERROR if result.error else 0)
    assert f"stat={status} result={result.text}" == expected
    # The only case whose wording is about a named function.
    if not expression.startswith("${x{"):
        assert ([result.error] if result.error else []) == warnings


def test_times() -> None:
    lines = [line.partition(" = ") for line in read("config/mail_conf_time.ref").splitlines()]
    assert [name for name, _, _ in lines] == ["10 seconds", "10 minutes", "10 hours", "10 days", "10 weeks"]
    for name, _, seconds in lines:
        number, unit = name.split()
        assert to_seconds("x", number + unit[0]) == float(seconds)
        assert to_seconds("x", number, time_unit("1" + unit[0])) == float(seconds)


def host_lists() -> list[dict[str, object]]:
    cases = json.loads(read("network/namadr_list.json") or "[]")
    # What these files held is not in the vectors; fail: is a table of Postfix's own tests.
    return [case for case in cases if not case["patterns"].lstrip("!").startswith(("/tmp/junk", "./", "fail:"))]


@pytest.mark.parametrize("case", host_lists(), ids=lambda case: f"{case['patterns']} {case['name']} {case['address']}")
def test_host_list(case: dict[str, object]) -> None:
    try:
        hosts = MatchList(str(case["patterns"]))
    except PatternError as error:
        if case["patterns"] == "[be:be]" and case["expect"] == "NO":
            # Postfix looks at a pattern when it gets to it; here a bad one is an error at load.
            assert str(error) == 'bad address pattern: "be:be"'
            return
        assert case["expect"] == "ERROR"
        assert str(error).partition(";")[0] in str(case["warnings"]).replace("\\", "")
        return
    assert ("YES" if hosts.match_host(str(case["name"]), str(case["address"])) else "NO") == case["expect"]
