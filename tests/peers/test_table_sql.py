"""mysql and pgsql tables: real servers, beside Postfix's own answers; and servers that are killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmta.tables.lookup import TableError, TempFail
from fastmta.tables.remote import Fetcher, run_fetch
from tests.peers.table_databases import KEYS, mariadb, postgresql
from tests.tables_kit import Opened, Server, free_port, postmap

pytestmark = pytest.mark.peer

QUERIES = {
    "plain": ["query = SELECT v FROM t WHERE k = '%s'"],
    "parts": ["query = SELECT '%d', v, 7 FROM t WHERE k = '%u@%d'", "result_format = <%s> %U"],
    "like": ["query = SELECT v FROM t WHERE k LIKE '%s%%'"],
    "domain": ["query = SELECT v FROM t WHERE k = '%s'", "domain = example.com"],
    "legacy": ["select_field = v", "table = t", "where_field = k", "additional_conditions = AND k <> 'many'"],
}


class Database:
    def __init__(self, kind: str, server: Server, options: list[str]) -> None:
        self.kind = kind
        self.server = server
        self.options = options

    def name(self, folder: Path, *lines: str) -> str:
        (folder / "t.cf").write_text("\n".join([*self.options, *lines, ""]))
        return f"{self.kind}:{folder}/t.cf"


@pytest.fixture(scope="module", params=["pgsql", "mysql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with (postgresql if request.param == "pgsql" else mariadb)() as (server, options):
        yield Database(request.param, server, options)


@pytest.mark.parametrize("case", QUERIES)
def test_answers_are_those_of_postfix(database: Database, tmp_path: Path, case: str) -> None:
    name = database.name(tmp_path, *QUERIES[case])
    opened = Opened(name)
    with Fetcher() as fetch:
        ours = {key: value for key in KEYS if (value := fetch(opened.table, key)) is not None}
    theirs = postmap(tmp_path, name, KEYS)
    if database.kind == "pgsql" and case != "parts":
        # Before 3.8, Postfix told PostgreSQL that what it says is Latin 1.
        assert ours["jürgen@example.com"] == "grün"
        theirs["jürgen@example.com"] = "grün"
    elif database.kind == "pgsql":
        theirs["jürgen@example.com"] = "<example.com> jürgen,<grün> jürgen,<7> jürgen"
    assert ours == theirs and theirs
    assert not [line for line in opened.warnings if "empty lookup result" not in line]


def test_what_an_attacker_writes_stays_text(database: Database, tmp_path: Path) -> None:
    """Whatever the key is, the database gets it back whole."""
    table = Opened(database.name(tmp_path, "query = SELECT '%s'")).table
    with Fetcher() as fetch:
        for key in ("'", "\\", "\\'", "''", "';--", "\n\r\x1a%", '"\'"', "ß' UNION SELECT 'x", "日本'"):
            assert fetch(table, key) == key.casefold()
        assert fetch(table, "null\0byte") is None
        assert fetch(table, "no utf-8 \udcff") is None


def test_a_wrong_query_is_temporary_and_the_server_stays_in_use(database: Database, tmp_path: Path) -> None:
    opened = Opened(database.name(tmp_path, "query = SELECT nothing FROM nowhere WHERE k = '%s'"))
    with Fetcher() as fetch:
        for _ in range(2):
            with pytest.raises(TempFail, match="nowhere"):
                fetch(opened.table, "joe")
    assert opened.warnings == []


def test_killed_and_started_again(database: Database, tmp_path: Path) -> None:
    """With a server first in the list that never was there; other work goes on meanwhile."""
    hosts = next(line for line in database.options if line.startswith("hosts"))
    options = [line for line in database.options if line != hosts]
    lines = [hosts.replace("= ", f"= 127.0.0.1:{free_port() + 50} "), "retry_interval = 1", *QUERIES["plain"]]
    opened = Opened(Database(database.kind, database.server, options).name(tmp_path, *lines))
    table = opened.table

    async def scenario() -> None:
        assert await table.fetch("joe@example.com") == "joe"
        answers = await asyncio.gather(*(table.fetch("joe@example.com") for _ in range(50)))
        assert answers == ["joe"] * 50
        database.server.kill()
        with pytest.raises(TempFail):
            await table.fetch("joe@example.com")
        await asyncio.to_thread(database.server.start)
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await table.fetch("joe@example.com") == "joe"
                    break
                except TempFail:
                    await asyncio.sleep(0.1)
        table.close()
        await asyncio.sleep(0)

    asyncio.run(scenario())


def test_expansion_limit_and_unknown_options(database: Database, tmp_path: Path) -> None:
    opened = Opened(database.name(tmp_path, *QUERIES["plain"], "expansion_limit = 1", "pasword = x"))
    assert [line for line in opened.warnings if "pasword" in line]
    with pytest.raises(TempFail):
        run_fetch(opened.table, "many")
    assert run_fetch(opened.table, "joe@example.com") == "joe"


def test_what_only_one_of_them_has(database: Database, tmp_path: Path) -> None:
    if database.kind == "pgsql":
        table = Opened(database.name(tmp_path, "select_function = upper")).table
        assert run_fetch(table, "joe") == "JOE"
        return
    table = Opened(database.name(tmp_path, "query = CALL here('%s')")).table
    assert run_fetch(table, "joe@example.com") == "joe"
    table = Opened(database.name(tmp_path, "query = DO '%s'", "require_result_set = no")).table
    assert run_fetch(table, "joe@example.com") is None
    with pytest.raises(TempFail):
        run_fetch(Opened(database.name(tmp_path, "query = DO '%s'")).table, "joe@example.com")


def test_a_missing_library_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for kind, module in (("pgsql", "psycopg"), ("mysql", "aiomysql")):
        monkeypatch.setitem(sys.modules, module, None)
        (tmp_path / "t.cf").write_text("dbname = x\nquery = SELECT 1\n")
        with pytest.raises(TableError, match=rf"pip install 'fastmta\[{kind}\]'"):
            Opened(f"{kind}:{tmp_path}/t.cf")
