"""PostgreSQL, MariaDB, memcached and Redis on loopback, for tests of the tables that ask them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.tables_kit import Server, accepts, free_port, program

ROWS = (
    ("joe@example.com", "joe"),
    ("jürgen@example.com", "grün"),
    ("o'brien@example.com", "o'\"\\brien"),
    ("back\\slash@example.com", "back\\slash"),
    ('quo"te@example.com', "quote"),
    ("many", "one@example.org"),
    ("many", "two@example.org"),
    ("many", None),
    ("empty", ""),
)
KEYS = (
    *(dict.fromkeys(row[0] for row in ROWS)),
    "JOE@Example.COM",
    "none",
    "x' OR '1'='1",
    "\\' OR 1=1 -- ",
    "@example.com",
    "user@other.example",
    "100%",
)


def literal(text: object) -> str:
    return "NULL" if text is None else "'" + str(text).replace("'", "''") + "'"


INSERT = "".join(f"INSERT INTO t VALUES ({literal(k)}, {literal(v)});\n" for k, v in ROWS)


@contextmanager
def folder(user: str = "") -> Iterator[Path]:
    """A folder that a server's user can get to."""
    path = Path(mkdtemp(prefix="fastmta-", dir="/tmp"))
    path.chmod(0o755)
    if user:
        shutil.chown(path, user)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def postgresql() -> Iterator[tuple[Server, list[str]]]:
    """PostgreSQL with the rows in a table t: the server, and its option lines."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if not found:
        pytest.skip("no PostgreSQL")
    bin_ = found[-1].parent
    user = "postgres" if os.geteuid() == 0 else ""
    with folder(user) as home:
        data, port = home / "data", free_port()
        subprocess.run(
            [bin_ / "initdb", "-D", data, "-N", "-A", "trust", "-U", "postfix", "-E", "UTF8", "--locale=C.UTF-8"],
            user=user or None,
            check=True,
            capture_output=True,
            cwd="/",
        )
        command = [str(bin_ / "postgres"), "-D", str(data), "-p", str(port), "-k", str(home), "-h", "127.0.0.1", "-F"]
        ready = [bin_ / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        server = Server(command, lambda: subprocess.run(ready).returncode == 0, Path(f"{home}.log"), user)
        try:
            server.start()
            sql = f"CREATE TABLE t (k text, v text); SET standard_conforming_strings = on; {INSERT}"
            client = [bin_ / "psql", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "postfix", "postgres"]
            subprocess.run(client, input=sql, text=True, check=True, capture_output=True)
            yield server, ["user = postfix", "dbname = postgres", f"hosts = inet:127.0.0.1:{port}"]
        finally:
            server.kill()
            Path(f"{home}.log").unlink(missing_ok=True)


@contextmanager
def mariadb() -> Iterator[tuple[Server, list[str]]]:
    """MariaDB with the rows in a table t."""
    install, daemon, client = program("mariadb-install-db"), program("mariadbd"), program("mariadb")
    user = pwd.getpwuid(os.geteuid()).pw_name
    with folder() as home:
        data, port, path = home / "data", free_port(), home / "s"
        basics = ["--no-defaults", f"--datadir={data}", f"--user={user}"]
        subprocess.run(
            [install, *basics, "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=True,
            capture_output=True,
        )
        command = [daemon, *basics, f"--port={port}", "--bind-address=127.0.0.1", f"--socket={path}"]
        command += ["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=2", f"--pid-file={home}/pid"]
        server = Server(command, lambda: accepts(("127.0.0.1", port)), Path(f"{home}.log"))
        try:
            server.start()
            sql = (
                "SET NAMES utf8mb4; SET SESSION sql_mode='NO_BACKSLASH_ESCAPES'; CREATE DATABASE mail; USE mail;"
                f"CREATE TABLE t (k varchar(99), v varchar(99)) CHARACTER SET utf8mb4; {INSERT}"
                "CREATE USER postfix@'127.0.0.1' IDENTIFIED BY 'secret'; GRANT ALL ON mail.* TO postfix@'127.0.0.1';"
                "GRANT ALL ON *.* TO postfix@'127.0.0.1';"
                "CREATE PROCEDURE here(IN p VARCHAR(99)) SELECT v FROM t WHERE k = p;"
            )
            subprocess.run(
                [client, "--no-defaults", f"--socket={path}", "-u", "root"],
                input=sql,
                text=True,
                check=True,
                capture_output=True,
            )
            options = ["user = postfix", "password = secret", "dbname = mail", f"hosts = inet:127.0.0.1:{port}"]
            yield server, options
        finally:
            server.kill()
            Path(f"{home}.log").unlink(missing_ok=True)


@contextmanager
def memcached() -> Iterator[tuple[Server, int]]:
    """memcached, empty, and its port."""
    port = free_port()
    user = pwd.getpwuid(os.geteuid()).pw_name
    command = [program("memcached"), "-u", user, "-l", "127.0.0.1", "-p", str(port), "-U", "0"]
    with folder() as home:
        server = Server(command, lambda: accepts(("127.0.0.1", port)), home / "log")
        try:
            server.start()
            yield server, port
        finally:
            server.kill()


@contextmanager
def redis() -> Iterator[tuple[Server, int]]:
    """Redis, empty, and its port; its password is "secret"."""
    port = free_port()
    with folder() as home:
        command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
        command += ["--save", "", "--requirepass", "secret", "--unixsocket", str(home / "s")]
        server = Server(command, lambda: accepts(("127.0.0.1", port)), home / "log")
        try:
            server.start()
            yield server, port
        finally:
            server.kill()
