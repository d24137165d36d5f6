"""Postfix's own regression data for tables, where it lies beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmta._ext.patterns import pcre_available
from fastmta.tables.lookup import Context, Flags, open_table

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "postfix" / "tables"
pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason="the vectors are not there")


class Nothing:
    def get_str(self, name: str) -> str:
        raise KeyError(name)


@pytest.mark.parametrize(
    ("kind", "name", "table"),
    [
        ("regexp", "dict_regexp", "dict_regexp"),
        ("cidr", "dict_cidr_file", "dict_cidr_file"),
        ("pcre", "dict_pcre_file", "dict_pcre_file"),
        ("cidr", "miss_endif_cidr", "miss_endif_cidr"),
        ("pcre", "miss_endif_pcre", "miss_endif_re"),
    ],
)
def test_like_postfix(kind: str, name: str, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same warnings, in order, and the same answers."""
    if kind == "pcre" and not pcre_available():
        pytest.skip("no PCRE2")
    monkeypatch.chdir(tmp_path)
    Path(f"{table}.map").write_bytes((VECTORS / f"{table}.map").read_bytes())
    for number in (1, 2):
        Path(f"dict_{kind}_file{number}").write_text(f"this-is-file{number}\n")
    questions = VECTORS / f"{name}.in"
    keys = [line.split()[1] for line in questions.read_text().splitlines()] if questions.exists() else ["1.2.3.5"]
    said: list[str] = []
    opened = open_table(f"{kind}:{table}.map", Context(Nothing(), said.append), Flags(from_file=name.endswith("_file")))
    lines = [f"./dict_open: warning: {warning}" for warning in said]
    for key in keys:
        value = opened.get(key)
        lines += [f"> get {key}", f"{key}: not found" if value is None else f"{key}={value}"]
    wanted = (VECTORS / f"{name}.ref").read_text().splitlines()
    assert lines == [line for line in wanted if not line.startswith("owner=")]
