"""sqlite tables and the option language of all query tables, beside Postfix's own answers."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fastmta.tables.lookup import TableError, TempFail
from tests.tables_kit import Opened, postmap

KEYS = (
    "joe",
    "JOE",
    "joe@example.com",
    "Joe@Example.COM",
    "@example.com",
    "joe@",
    "joe@a.b.example.com",
    "joe@.example.com",
    "joe@example..com",
    "joe@com",
    "o'brien@example.com",
    "x' OR '1'='1",
    "a\\'b@example.com",
    "100%@example.com",
    "jürgen@example.com",
    "many",
    "null",
    "empty",
    "number",
    "float",
    "big",
    "none",
    "a@b@example.com",
    "example.com",
)

ROWS: tuple[tuple[str, object], ...] = (
    *((key.lower(), f"found {key}") for key in KEYS if key.lower() == key and "@" in key),
    ("joe", "joe@elsewhere.example"),
    ("many", "one@example.org"),
    ("many", "two@example.org"),
    ("many", "plain"),
    ("many", "@nolocal"),
    ("null", None),
    ("empty", ""),
    ("number", 42),
    ("float", 2.5),
    ("big", 1e100),
    ("example.com", "domain"),
    ("example", "label"),
    ("", "nothing"),
)

FILES = {
    "plain": "query = SELECT v FROM t WHERE k='%s'",
    "user": "query = SELECT v FROM t WHERE k='%u'",
    "domain": "query = SELECT v FROM t WHERE k='%d'",
    "upper": "query = SELECT v FROM t WHERE k='%S' AND '%U' = '%u' AND '%D' = '%d'",
    "labels": "query = SELECT '%1/%2' || v FROM t WHERE k='%2'",
    "percent": "query = SELECT v || '%%' FROM t WHERE k LIKE '%s%%'",
    "result": "query = SELECT v FROM t WHERE k='%s'\nresult_format = smtp:[%s] %S %%",
    "result parts": "query = SELECT v FROM t WHERE k='%s'\nresult_format = %u at %d",
    "result of key": "query = SELECT v FROM t WHERE k='%s'\nresult_format = %U+%D=%1",
    "columns": "query = SELECT v, k, NULL, 7 FROM t WHERE k='%s'",
    "listed": "query = SELECT v FROM t WHERE k='%s'\ndomain = example.com, !com, b.example.com",
    "unlisted": "query = SELECT v FROM t WHERE k='%s'\ndomain = !example.com, com",
    "legacy": "select_field = v\ntable = t\nwhere_field = k\nadditional_conditions = AND v LIKE 'found%%'",
    "constant": "query = SELECT 'always'",
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "t.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (k, v)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", ROWS)
    connection.close()
    return path


def options(folder: Path, database: Path, text: str) -> str:
    (folder / "t.cf").write_text(f"dbpath = {database}\n{text}\n")
    return f"sqlite:{folder}/t.cf"


@pytest.mark.peer
@pytest.mark.parametrize("case", FILES)
def test_answers_are_those_of_postfix(tmp_path: Path, database: Path, case: str) -> None:
    name = options(tmp_path, database, FILES[case])
    table = Opened(name).table
    ours = {key: value for key in KEYS if (value := table.get(key)) is not None}
    table.close()
    assert ours == postmap(tmp_path, name, KEYS)


@pytest.mark.peer
def test_options_in_main_cf(tmp_path: Path, database: Path) -> None:
    main_cf = {"here_dbpath": str(database), "here_query": "SELECT v FROM t WHERE k='%s'", "here_result_format": "<%s>"}
    table = Opened("sqlite:here", main_cf).table
    text = "".join(f"{name} = {value}\n" for name, value in main_cf.items())
    assert table.get("joe") == "<joe@elsewhere.example>"
    assert postmap(tmp_path, "sqlite:here", ["joe"], text) == {"joe": "<joe@elsewhere.example>"}
    table.close()


def test_more_results_than_the_limit_are_a_temporary_failure(tmp_path: Path, database: Path) -> None:
    opened = Opened(options(tmp_path, database, "query = SELECT v FROM t WHERE k='%s'\nexpansion_limit = 1"))
    assert opened.table.get("joe") == "joe@elsewhere.example"
    with pytest.raises(TempFail):
        opened.table.get("many")
    assert "limit exceeded for key: 'many'" in opened.warnings[0]
    opened.table.close()


def test_an_unknown_option_is_said(tmp_path: Path, database: Path) -> None:
    opened = Opened(options(tmp_path, database, "query = SELECT 1\nqurey = x"))
    assert [line for line in opened.warnings if "qurey" in line]
    opened.table.close()


@pytest.mark.parametrize(
    "text",
    [
        "query = %x",
        "query = SELECT 1\nexpansion_limit = many",
        "query = SELECT 1\nresult_format = %",
        "query = SELECT 1\nresult_format =",
        "",
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, database: Path, text: str) -> None:
    with pytest.raises(TableError):
        Opened(options(tmp_path, database, text))


def test_a_locked_database_fails_for_now_and_a_replaced_one_is_taken_up(tmp_path: Path, database: Path) -> None:
    table = Opened(options(tmp_path, database, "query = SELECT v FROM t WHERE k='%s'")).table
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TempFail):
        table.get("joe")
    writer.execute("ROLLBACK")
    writer.close()
    assert table.get("joe") and not table.refresh()

    with sqlite3.connect(tmp_path / "new.db") as other:
        other.execute("CREATE TABLE t (k, v)")
        other.execute("INSERT INTO t VALUES ('joe', 'new')")
    other.close()
    (tmp_path / "new.db").rename(database)
    assert table.refresh() and table.get("joe") == "new"
    table.close()


def test_no_database_is_an_error_at_open(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="open database"):
        Opened(options(tmp_path, tmp_path / "none.db", "query = SELECT 1"))
