"""How tables are asked: the keys and their order, maps of local and remote tables, what a table that is down does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fastmta.config import Config, load
from fastmta.tables.keys import (
    ACCESS,
    TRANSPORT,
    VIRTUAL,
    KeyRules,
    Parts,
    address_keys,
    client_keys,
    network_keys,
    split_extension,
)
from fastmta.tables.lookup import Table, TempFail
from fastmta.tables.maps import Pending, Tables
from fastmta.tables.matchlist import MatchList
from fastmta.tables.routes import make_resolver, split_entry

PLUS = KeyRules("+", {"example.com"}.__contains__)


@pytest.mark.parametrize(
    ("parts", "address", "keys"),
    [
        (VIRTUAL, "joe+x@example.com", "joe+x@example.com joe@example.com joe+x joe @example.com"),
        (VIRTUAL, "joe@far.test", "joe@far.test @far.test"),
        (VIRTUAL, "owner-joe+x", "owner-joe+x owner-joe"),
        (VIRTUAL, "postmaster@far.test", "postmaster@far.test @far.test"),
        (ACCESS | Parts.PARENTS, "joe+x@a.b.test", "joe+x@a.b.test joe@a.b.test a.b.test b.test test joe+x@ joe@"),
        (TRANSPORT | Parts.DOT_PARENTS, "joe@a.b.test", "joe@a.b.test a.b.test .b.test .test"),
        (VIRTUAL, "a\x01b@far.test", '"a\x01b"@far.test a\x01b@far.test @far.test'),
    ],
)
def test_address_keys(parts: Parts, address: str, keys: str) -> None:
    found = list(address_keys(address, parts, PLUS))
    assert [key.text for key in found] == keys.split(" ")
    assert [key.partial for key in found if key.text == address] == [False]


def test_client_keys() -> None:
    assert [key.text for key in client_keys("a.b", "192.0.2.7", True)] == [
        "a.b",
        "b",
        "192.0.2.7",
        "192.0.2",
        "192.0",
        "192",
    ]
    assert [key.text for key in network_keys("2001:db8::1")] == ["2001:db8::1", "2001:db8:", "2001:db8", "2001"]


@pytest.mark.parametrize(
    ("local", "delimiters", "parts"),
    [
        ("joe+x+y", "+", ("joe", "+x+y")),
        ("joe-x+y", "+-", ("joe", "-x+y")),
        ("owner-list", "-", ("owner-list", "")),
        ("list-Request", "-", ("list-Request", "")),
        ("+x", "+", ("+x", "")),
        ("mailer-daemon", "-", ("mailer-daemon", "")),
        ("joe", "", ("joe", "")),
    ],
)
def test_split_extension(local: str, delimiters: str, parts: tuple[str, str]) -> None:
    assert split_extension(local, delimiters) == parts


@pytest.mark.parametrize(
    ("entry", "way"),
    [
        ("smtp:[h]:26", ("smtp", "[h]:26")),
        ("smtp:", ("smtp", "d.test")),
        ("smtp", ("smtp", "d.test")),
        (":[h]", ("relay", "[h]")),
        (":", ("relay", "before")),
        ("error:", ("error", "Address is undeliverable")),
    ],
)
def test_transport_entries(entry: str, way: tuple[str, str]) -> None:
    assert split_entry(entry, "d.test", "relay", "before") == way


class Remote(Table):
    """A table that has to be awaited."""

    name = "remote:x"
    is_local = False
    down = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def get(self, key: str) -> str | None:
        raise RuntimeError

    async def fetch(self, key: str) -> str | None:
        self.asked.append(key)
        await asyncio.sleep(0)
        if self.down:
            raise TempFail("down")
        return {"joe": "one", "one": "two"}.get(key)

    def close(self) -> None:
        pass


def config(folder: Path, text: str) -> Config:
    (folder / "main.cf").write_text(f"myhostname = mx.test\nmydestination = here.test\n{text}")
    return load(folder, services=False)


def test_a_question_over_remote_tables(tmp_path: Path) -> None:
    """Each key is fetched once, however often the question begins anew; a failure is the question's failure."""
    warnings: list[str] = []
    tables = Tables(config(tmp_path, ""), warnings.append)
    remote = Remote()
    maps = tables.maps("x_maps", "inline:{local=yes}")
    maps.tables = (*maps.tables, remote)
    assert maps.find("local") == "yes"
    with pytest.raises(Pending):
        maps.find("joe")

    def question() -> str | None:
        return maps.find(maps.find("joe") or "")

    assert asyncio.run(tables.ask(question)) == "two"
    assert remote.asked == ["joe", "one"]
    remote.down = True
    with pytest.raises(TempFail):
        asyncio.run(tables.ask(question))
    assert warnings == ['remote:x lookup error for "joe"']
    remote.down = False
    assert asyncio.run(tables.ask(question)) == "two"


def test_a_table_that_cannot_be_opened(tmp_path: Path) -> None:
    warnings: list[str] = []
    maps = Tables(config(tmp_path, ""), warnings.append).maps("x_maps", "texthash:/no/such")
    with pytest.raises(TempFail):
        maps.find("x")
    assert warnings[-1] == 'texthash:/no/such lookup error for "x"'
    assert warnings[-2].startswith("texthash:/no/such is unavailable. ")


def test_routes(tmp_path: Path) -> None:
    cfg = config(
        tmp_path,
        "relayhost = [relay]\nrecipient_delimiter = +\n"
        "transport_maps = inline:{{u@a.test = lmtp:u}, {a.test = :[a]}, {.b.test = smtp:}, {* = retry:}}\n"
        "relocated_maps = inline:{moved=there@far.test}\n"
        "sender_dependent_relayhost_maps = inline:{{@s.test = [s]}, {d@s.test = dunno}}\n",
    )
    resolver = make_resolver(cfg, Tables(cfg, print), MatchList("127.0.0.1"))

    def way(address: str, sender: str = "") -> tuple[str, str]:
        found = resolver.resolve(address, sender)
        return found.transport, found.nexthop  # type: ignore[union-attr]

    assert way("u+x@a.test") == ("lmtp", "u")
    assert way("v@a.test") == ("smtp", "[a]")
    assert way("v@c.b.test") == ("smtp", "c.b.test")
    assert way("v@b.test") == ("retry", "Address is undeliverable")
    assert way("moved+x@here.test") == ("error", "5.1.6 User has moved to there@far.test")
    cfg = cfg.with_values({"transport_maps": ""})
    resolver = make_resolver(cfg, Tables(cfg, print), MatchList("127.0.0.1"))
    assert [way("v@z.test", sender)[1] for sender in ("x@s.test", "d@s.test", "")] == ["[s]", "[relay]", "[relay]"]
