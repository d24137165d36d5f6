"""ldap tables: OpenLDAP on loopback, beside Postfix's own answers; killed and started again."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmta.tables.lookup import TempFail
from fastmta.tables.remote import Fetcher, run_fetch
from fastmta.tables.types.ldap import quote_dn
from tests.peers.table_databases import folder
from tests.tables_kit import Opened, Server, accepts, free_port, postmap, program

pytestmark = pytest.mark.peer

SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {home}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
directory {home}/data
suffix dc=example,dc=com
rootdn cn=admin,dc=example,dc=com
rootpw secret
"""

LDIF = """
dn: dc=example,dc=com
objectClass: domain
dc: example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: cn=joe,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: joe
sn: joe
mail: joe@example.com
uid: joe
description: leaf of joe
title: first
title: second

dn: cn=jim (x) *,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: jim (x) *
sn: jim
mail: jim(x)*@example.com
uid: jim
description: leaf of jim

dn: cn=group,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: group
sn: group
mail: group@example.com
uid: group
description: leaf of group
seeAlso: cn=joe,ou=people,dc=example,dc=com
seeAlso: cn=jim (x) *,ou=people,dc=example,dc=com
labeledURI: ldap:///ou=people,dc=example,dc=com?uid?one?(uid=ji*)

dn: cn=end,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: end
sn: end
mail: end@example.com
uid: end
employeeType: terminal
seeAlso: cn=joe,ou=people,dc=example,dc=com

dn: cn=loop,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: loop
sn: loop
mail: loop@example.com
uid: loop
seeAlso: cn=loop,ou=people,dc=example,dc=com
"""

KEYS = (
    "joe@example.com",
    "JOE@example.com",
    "jim(x)*@example.com",
    "*@example.com",
    "j*",
    "*)(uid=*",
    "joe\\2a@example.com",
    "group@example.com",
    "end@example.com",
    "none@example.com",
    "joe",
)

FILTER = "query_filter = (mail=%s)"
CASES = {
    "plain": [FILTER, "result_attribute = uid"],
    "several": [FILTER, "result_attribute = title, uid", "result_format = <%s> %U"],
    "special": [FILTER, "result_attribute = uid", "special_result_attribute = seeAlso"],
    "url": [FILTER, "result_attribute = uid", "special_result_attribute = labeledURI"],
    "leaf": [
        FILTER,
        "result_attribute =",
        "leaf_result_attribute = description",
        "special_result_attribute = seeAlso",
        "terminal_result_attribute = employeeType",
    ],
    "base": ["query_filter = (objectClass=*)", "search_base = cn=%u,ou=people,dc=example,dc=com", "scope = base"],
    "one": [FILTER, "scope = one", "result_attribute = uid"],
    "bind": [FILTER, "bind = yes", "bind_dn = cn=admin,dc=example,dc=com", "bind_pw = secret", "result_attribute=uid"],
}


@pytest.fixture(scope="module")
def slapd() -> Iterator[tuple[Server, int]]:
    with folder() as home:
        (home / "data").mkdir()
        (home / "slapd.conf").write_text(SLAPD.format(home=home))
        subprocess.run(
            [program("slapadd"), "-q", "-f", home / "slapd.conf"],
            input=LDIF,
            text=True,
            check=True,
            capture_output=True,
        )
        port = free_port()
        command = [program("slapd"), "-f", str(home / "slapd.conf"), "-h", f"ldap://127.0.0.1:{port}", "-d", "0"]
        server = Server(command, lambda: accepts(("127.0.0.1", port)), home / "log")
        try:
            server.start()
            yield server, port
        finally:
            server.kill()


def name(folder: Path, port: int, *lines: str) -> str:
    basics = [f"server_host = ldap://127.0.0.1:{port}", "version = 3", "timeout = 5"]
    if not any(line.startswith("search_base") for line in lines):
        basics.append("search_base = dc=example,dc=com")
    if not any("result_attribute" in line for line in lines):
        basics.append("result_attribute = uid")
    if not any(line.startswith("bind") for line in lines):
        basics.append("bind = no")
    (folder / "t.cf").write_text("\n".join([*basics, *lines, ""]))
    return f"ldap:{folder}/t.cf"


@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_postfix(slapd: tuple[Server, int], tmp_path: Path, case: str) -> None:
    table = name(tmp_path, slapd[1], *CASES[case])
    opened = Opened(table)
    with Fetcher() as fetch:
        ours = {key: value for key in KEYS if (value := fetch(opened.table, key)) is not None}
    assert ours == postmap(tmp_path, table, KEYS)
    assert opened.warnings == []


def test_limits(slapd: tuple[Server, int], tmp_path: Path) -> None:
    limited = name(tmp_path, slapd[1], FILTER, "special_result_attribute = seeAlso", "recursion_limit = 5")
    opened = Opened(limited)
    with pytest.raises(TempFail, match="recursion"):
        run_fetch(opened.table, "loop@example.com")
    opened = Opened(name(tmp_path, slapd[1], FILTER, "search_base = dc=nowhere,dc=example,dc=com"))
    with pytest.raises(TempFail, match="not found"):  # as in Postfix: an error of the configuration
        run_fetch(opened.table, "joe@example.com")
    opened = Opened(name(tmp_path, slapd[1], "query_filter = (mail=*)", "size_limit = 2"))
    with pytest.raises(TempFail, match="size_limit"):
        run_fetch(opened.table, "any")
    opened = Opened(name(tmp_path, slapd[1], FILTER, "result_attribute = title", "expansion_limit = 1"))
    with pytest.raises(TempFail, match="limit"):
        run_fetch(opened.table, "joe@example.com")
    opened = Opened(name(tmp_path, slapd[1], FILTER, "bind = yes", "bind_dn = cn=admin,dc=example,dc=com"))
    with pytest.raises(TempFail):
        run_fetch(opened.table, "joe@example.com")


def test_killed_and_started_again(slapd: tuple[Server, int], tmp_path: Path) -> None:
    server, port = slapd
    opened = Opened(name(tmp_path, port, FILTER, f"server_host = 127.0.0.1:{port + 50} ldap://127.0.0.1:{port}"))
    table = opened.table

    async def scenario() -> None:
        assert await table.fetch("joe@example.com") == "joe"
        answers = await asyncio.gather(*(table.fetch("joe@example.com") for _ in range(30)))
        assert answers == ["joe"] * 30
        server.kill()
        with pytest.raises(TempFail):
            await table.fetch("joe@example.com")
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await table.fetch("joe@example.com") == "joe"
                    break
                except TempFail:
                    await asyncio.sleep(0.1)
        table.close()

    asyncio.run(scenario())


def test_options_without_effect_are_said(slapd: tuple[Server, int], tmp_path: Path) -> None:
    opened = Opened(name(tmp_path, slapd[1], FILTER, "tls_random_file = /dev/random", "serch_base = x"))
    assert [line for line in opened.warnings if "tls_random_file" in line]
    assert [line for line in opened.warnings if "serch_base" in line]


def test_quoting_in_a_name() -> None:
    assert quote_dn(' a,b+c="x" ') == '\\ a\\,b\\+c\\=\\"x\\"\\ '
