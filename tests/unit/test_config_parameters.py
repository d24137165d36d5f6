"""The table of parameters tells the truth: what it says works is read, and what is read is in it with that type."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastmta
from fastmta.config import parameters
from fastmta.config.expand import Expansion, names_in
from fastmta.config.parameters import FAMILIES, Kind, State
from fastmta.config.values import to_bool, to_int, to_list, to_seconds

PACKAGE = Path(fastmta.__file__).parent
FOR_VALUES = {"mail_version", "mail_release_date", "stress"}  # there to be named in other values
GETTERS = {
    "get_int": {Kind.INT, Kind.SIZE},
    "get_size": {Kind.SIZE},
    "get_bool": {Kind.BOOL},
    "get_time": {Kind.TIME},
    "get_list": {Kind.LIST},
    "get_str": {Kind.STR, Kind.RAW, Kind.LIST},
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in PACKAGE.rglob("*.py"):
        # what postconf(1) says of names is no use of them
        if not path.name.startswith("rows_") and path.parent.name != "postconf":
            yield path, ast.parse(path.read_text("utf-8"))


def pattern(node: ast.JoinedStr) -> str:
    """f"{p}_tls_{kind}cert_file" as a regular expression of the names that it can make; "" where it says too little."""
    parts = [re.escape(str(part.value)) if isinstance(part, ast.Constant) else "[a-zA-Z0-9]*" for part in node.values]
    text = "".join(parts)
    return text if len(re.sub(r"\[.*?\]\*|_", "", text)) >= 4 else ""


def names_read() -> tuple[set[str], list[str]]:
    """Every text of the program that might be a name, and patterns of those that are put together."""
    texts: set[str] = set()
    patterns: set[str] = set()
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                patterns.add(pattern(node))
    return texts, sorted(patterns - {""})


def test_what_works_is_read_somewhere() -> None:
    texts, patterns = names_read()
    made = re.compile("|".join(patterns))
    in_values = {
        name for row in parameters.rows().values() if row.state is State.WORKS for name in names_in(row.default)
    }
    of_families = set(FAMILIES.values())
    unread = [
        name
        for name, row in parameters.rows().items()
        if row.state is State.WORKS
        and name not in texts | in_values | of_families | FOR_VALUES
        and not (made.fullmatch(name) and not name.startswith("fastmta_"))
        and not any(name.endswith(f"_{suffix}") for suffix in FAMILIES)
    ]
    assert unread == []


def test_what_is_read_works_and_has_that_type() -> None:
    wrong: list[str] = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            kinds, name = GETTERS.get(node.func.attr), node.args[0]
            if kinds is None or not isinstance(name, ast.Constant) or not isinstance(name.value, str):
                continue
            row = parameters.rows().get(name.value)
            # The report looks at restriction classes only to know which names they use.
            if name.value == "smtpd_restriction_classes":
                continue
            if row is None or row.state is not State.WORKS or row.kind not in kinds:
                state = row and f"{row.kind.value}, {row.state.value}"
                wrong.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {node.func.attr}({name.value}): {state}")
    assert wrong == []


@pytest.mark.parametrize("row", parameters.rows().values(), ids=lambda row: row.name)
def test_a_default_is_a_good_value(row: parameters.Parameter) -> None:
    for stress in ("", "yes"):
        given = {"stress": stress, "myhostname": "a.b", "mydomain": "b", "mynetworks": "::1"}

        def lookup(name: str, given: dict[str, str] = given) -> str | None:
            found = parameters.find(name)
            return given.get(name, found.default if found else None)

        value = row.default
        if row.kind is not Kind.RAW:
            result = Expansion(given.get(row.name, row.default), lookup)
            assert result.error == ""
            value = result.text
        if row.kind is Kind.INT or row.kind is Kind.SIZE:
            to_int(row.name, value, row.low, row.high, 2**63 - 1)
        elif row.kind is Kind.BOOL:
            to_bool(row.name, value)
        elif row.kind is Kind.TIME:
            to_seconds(row.name, value, "s", row.low, row.high)
        elif row.kind is Kind.LIST:
            to_list(value)
    assert row.doc or row.state is State.NOT_YET, "say what it does"


def test_no_parameter_is_in_both_tables() -> None:
    assert parameters.rows().keys() & parameters.unread().keys() == set()


def test_families() -> None:
    assert parameters.find("slow_destination_rate_delay") == parameters.Parameter(
        "slow_destination_rate_delay",
        Kind.TIME,
        "$default_destination_rate_delay",
        doc="pause between deliveries to a destination",
    )
    own = parameters.find("local_destination_concurrency_limit")
    assert own is not None
    assert own.default == "2"
    assert parameters.find("_destination_rate_delay") is None
    assert parameters.find("destination_rate_delay") is None
    base = parameters.find("default_destination_rate_delay")
    assert base is not None
    assert base.default == "0s"
