"""tcp, socketmap and proxy tables: beside Postfix's own answers, and with a server that is killed and started again."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmta.tables.lookup import Context, TableError, TempFail
from fastmta.tables.remote import Fetcher, Host, Servers, connect_stream, run_fetch
from tests.tables_kit import Opened, Parameters, Server, accepts, free_port, postmap

KEYS = ("joe@example.com", "JOE@Example.com", "two words", "jürgen@example.com", "100%", "line", "none", "a+b=c/d?e")


@pytest.fixture(params=["tcp", "socketmap inet", "socketmap unix"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Server]]:
    """The name of a table, and its server."""
    kind, _, family = request.param.partition(" ")
    port = free_port()
    where = str(tmp_path / "s") if family == "unix" else str(port)
    address = where if family == "unix" else ("127.0.0.1", port)
    name = f"tcp:127.0.0.1:{port}" if kind == "tcp" else f"socketmap:inet:127.0.0.1:{port}:map"
    if family == "unix":
        name = f"socketmap:unix:{where}:map"
    command = [sys.executable, "-m", "tests.table_server", kind, where]
    server = Server(command, lambda: accepts(address), tmp_path / "log")
    server.start()
    try:
        yield name, server
    finally:
        server.kill()


@pytest.mark.peer
def test_answers_are_those_of_postfix(served: tuple[str, Server], tmp_path: Path) -> None:
    name, _ = served
    with Fetcher() as fetch:
        table = Opened(name).table
        ours = {key: value for key in KEYS if (value := fetch(table, key)) is not None}
    assert ours == postmap(tmp_path, name, KEYS)
    assert ours["joe@example.com"] == "found joe"


def test_an_empty_value_is_found_and_trouble_is_temporary(served: tuple[str, Server]) -> None:
    name, _ = served
    with Fetcher() as fetch:
        opened = Opened(name)
        assert fetch(opened.table, "empty") == ""
        troubles = ("temp", "bad") if name.startswith("tcp") else ("temp", "timeout", "perm", "bad")
        for key in troubles:
            with pytest.raises(TempFail):
                fetch(opened.table, key)
        assert "bad reply" in opened.warnings[-1]
        with pytest.raises(TempFail):  # for a second, it is left alone
            fetch(opened.table, "joe@example.com")


def test_killed_and_started_again(served: tuple[str, Server]) -> None:
    name, server = served

    async def scenario() -> None:
        table = Opened(name).table
        assert await table.fetch("joe@example.com") == "found joe"
        server.kill()
        with pytest.raises(TempFail):
            await table.fetch("joe@example.com")
        server.start()
        async with asyncio.timeout(10):
            while True:
                try:
                    assert await table.fetch("joe@example.com") == "found joe"
                    break
                except TempFail:
                    await asyncio.sleep(0.1)
        # A restart between two lookups is not noticed at all: only the idle connection is gone.
        server.kill()
        server.start()
        assert await table.fetch("joe@example.com") == "found joe"
        table.close()

    asyncio.run(scenario())


def test_many_at_a_time_and_some_that_give_up(served: tuple[str, Server]) -> None:
    name, _ = served

    async def scenario() -> None:
        table = Opened(name).table
        for _ in range(5):
            asked = [asyncio.create_task(table.fetch(KEYS[at % len(KEYS)])) for at in range(64)]
            await asyncio.sleep(0)
            for task in asked[::7]:
                task.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for at, answer in enumerate(answers):
                if KEYS[at % len(KEYS)] == "joe@example.com" and at % 7:
                    assert answer == "found joe"
                if KEYS[at % len(KEYS)] == "none" and at % 7:
                    assert answer is None
        table.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "name", ["tcp:host", "tcp:", "tcp:host:x", "socketmap:host:1:m", "socketmap:unix:", "socketmap:inet:h:m"]
)
def test_bad_names(name: str) -> None:
    with pytest.raises(TableError):
        Opened(name)


def test_a_table_that_must_be_awaited_says_so() -> None:
    with pytest.raises(RuntimeError, match="awaited"):
        Opened("tcp:127.0.0.1:1").table.get("x")


def test_proxy_passes_through_what_is_listed(served: tuple[str, Server]) -> None:
    name, _ = served
    table = Opened(f"proxy:{name}", {"proxy_read_maps": f"other, proxy:{name}"}).table
    assert not table.is_local and run_fetch(table, "joe@example.com") == "found joe"
    opened = Opened(f"proxy:{name}", {"proxy_read_maps": name})
    assert "request for unapproved table" in opened.warnings[0]
    with pytest.raises(TempFail):
        run_fetch(opened.table, "joe@example.com")


def context(warnings: list[str]) -> Context:
    return Context(Parameters({}), warnings.append)


def test_a_server_that_hangs_costs_the_timeout_once_and_the_other_one_answers() -> None:
    """Failover, and nothing else on the event loop waits meanwhile."""
    with socket.create_server(("127.0.0.1", free_port())) as hanging:
        dead = Host("dead", name="127.0.0.1", port=hanging.getsockname()[1])
        asked: list[str] = []
        warnings: list[str] = []

        class Link:
            def __init__(self, host: Host) -> None:
                self.host = host

            def close(self) -> None:
                asked.append(f"close {self.host.text}")

        async def connect(host: Host) -> Link:
            return Link(host)

        async def work(link: Link) -> str:
            asked.append(link.host.text)
            if link.host is dead:
                stream = await connect_stream(dead, 10)
                try:
                    await stream.line()
                finally:
                    stream.close()
            return link.host.text

        async def scenario() -> None:
            servers = Servers(
                "t",
                [dead, Host("good")],
                connect,
                context(warnings),
                timeout=0.2,
                retry=30,
                idle=0.3,
                in_order=True,
            )
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.01)
                    ticks += 1

            ticking = asyncio.create_task(tick())
            assert await servers.use(work) == "good"
            assert ticks > 5
            assert await servers.use(work) == "good"
            assert asked == ["dead", "close dead", "good", "good"]
            while asked[-1] != "close good":
                await asyncio.sleep(0.05)
            ticking.cancel()
            servers.close()

        asyncio.run(asyncio.wait_for(scenario(), 10))
        assert warnings == ["t: server dead: timeout"]
