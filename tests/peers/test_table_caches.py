"""memcache and redis tables: real servers, that are killed and started again; memcache beside Postfix's own answers."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
from pathlib import Path

import pytest

from fastmta.tables.lookup import TempFail
from fastmta.tables.remote import Fetcher
from tests.peers.table_databases import memcached, redis
from tests.tables_kit import Opened, Server, postmap

pytestmark = pytest.mark.peer


def tell(port: int, text: bytes) -> bytes:
    """Say something to a server, and its last words."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(text)
        with connection.makefile("rb") as replies:
            return b"".join(replies)


def options(folder: Path, kind: str, *lines: str) -> str:
    (folder / "t.cf").write_text("\n".join([*lines, ""]))
    return f"{kind}:{folder}/t.cf"


def survives(opened: Opened, server: Server, key: str, value: str | None) -> None:
    async def scenario() -> None:
        before = await opened.table.fetch(key)
        assert before is not None
        server.kill()
        with pytest.raises(TempFail):
            await opened.table.fetch(key)
        server.start()
        async with asyncio.timeout(15):
            while True:
                try:
                    assert await opened.table.fetch(key) == value
                    break
                except TempFail:
                    await asyncio.sleep(0.1)
        opened.table.close()

    asyncio.run(scenario())


def test_memcache(tmp_path: Path) -> None:
    keys = ("joe@example.com", "JOE@example.com", "none", "two words", "big", "@example.com", "jürgen", "x" * 300)
    with memcached() as (server, port):
        stored = {"t:joe@example.com": "joe", "t:big": "x" * 200, "t:jürgen": "grün"}
        for key, value in stored.items():
            data = value.encode()
            tell(port, b"set %s 0 0 %d\r\n%s\r\nquit\r\n" % (key.encode(), len(data), data))
        where = f"memcache = inet:127.0.0.1:{port}"
        name = options(tmp_path, "memcache", where, "key_format = t:%s")
        with Fetcher() as fetch:
            table = Opened(name).table
            ours = {key: value for key in keys if (value := fetch(table, key)) is not None}
            # memcached of the test has no answer for such a key, Postfix's client does not ask for it
            assert ours == postmap(tmp_path, name, keys[:-1])
            small = Opened(options(tmp_path, "memcache", where, "key_format = t:%s", "data_size_limit = 100")).table
            with pytest.raises(TempFail):
                fetch(small, "big")
        opened = Opened(options(tmp_path, "memcache", where, "key_format = t:%s", "max_try = 1", "typo = 1"))
        assert "typo" in opened.warnings[0]
        survives(opened, server, "joe@example.com", None)


def test_memcache_with_backup(tmp_path: Path) -> None:
    """What the server lacks comes from the backup, and is in the server then; without the server, it still comes."""
    with sqlite3.connect(tmp_path / "db") as database:
        database.execute("CREATE TABLE t (k, v)")
        database.execute("INSERT INTO t VALUES ('joe', 'from backup')")
    database.close()
    (tmp_path / "backup.cf").write_text(f"dbpath = {tmp_path}/db\nquery = SELECT v FROM t WHERE k='%s'\n")
    with memcached() as (server, port):
        lines = [f"memcache = inet:127.0.0.1:{port}", f"backup = sqlite:{tmp_path}/backup.cf", "max_try = 1"]
        with Fetcher() as fetch:
            table = Opened(options(tmp_path, "memcache", *lines, "ttl = 100", "flags = 7")).table
            assert fetch(table, "none") is None
            assert fetch(table, "joe") == "from backup"
            assert b"VALUE joe 7 11\r\nfrom backup\r\n" in tell(port, b"get joe\r\nquit\r\n")
            tell(port, b"set joe 0 0 5\r\ncache\r\nquit\r\n")
            assert fetch(table, "joe") == "cache"
            server.kill()
            assert fetch(table, "joe") == "from backup"


def test_redis(tmp_path: Path) -> None:
    auth = b"AUTH secret\r\n"
    with redis() as (server, port):
        tell(port, auth + b"SET u:joe@example.com joe\r\nHSET h:example.com joe field\r\nLPUSH list x\r\nQUIT\r\n")
        tell(port, auth + b'SELECT 3\r\nSET "a key" "two words"\r\nSET empty ""\r\nSET bad "\\xff"\r\nQUIT\r\n')
        where = [f"hosts = 127.0.0.1:{port}", "password = secret", "retry_interval = 1"]
        with Fetcher() as fetch:
            table = Opened(options(tmp_path, "redis", *where, "key_format = u:%s", "result_format = [%s]")).table
            assert fetch(table, "Joe@example.com") == "[joe]"
            assert fetch(table, "none") is None
            table = Opened(options(tmp_path, "redis", *where, "key_format = %u", "hash = h:%d")).table
            assert fetch(table, "joe@example.com") == "field"
            assert fetch(table, "joe@other.example") is None
            assert fetch(table, "joe") is None
            table = Opened(options(tmp_path, "redis", *where, "database = 3")).table
            assert fetch(table, "a key") == "two words"
            with pytest.raises(TempFail):
                fetch(table, "bad")
            table = Opened(options(tmp_path, "redis", *where)).table
            with pytest.raises(TempFail, match="WRONGTYPE"):
                fetch(table, "list")
            wrong = Opened(options(tmp_path, "redis", *where[:1], "password = wrong"))
            with pytest.raises(TempFail):
                fetch(wrong.table, "x")
            assert "WRONGPASS" in wrong.warnings[0]
        opened = Opened(options(tmp_path, "redis", *where, "key_format = u:%s"))
        survives(opened, server, "joe@example.com", None)
