"""mongodb tables with a stand-in for the client: the filter that is made, and the values that are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastmta.tables.lookup import TableError, TempFail
from fastmta.tables.remote import run_fetch
from tests.tables_kit import Opened, free_port

pymongo = pytest.importorskip("pymongo")

BASICS = 'uri = mongodb://127.0.0.1:1\ndbname = mail\ncollection = c\nfilter = {"name": "%s"}\n'
DOCUMENT = {"_id": 1, "a": {"b": ["one", "two"]}, "n": 7, "none": None, "flag": True}


class Collection:
    def __init__(self, asked: list[Any]) -> None:
        self._asked = asked

    async def find(self, wanted: Any, projection: Any) -> AsyncIterator[dict[str, Any]]:
        self._asked.append((wanted, projection))
        yield DOCUMENT


class Client:
    asked: list[Any] = []  # noqa: RUF012

    def __init__(self, uri: str, **settings: Any) -> None:
        assert settings["maxPoolSize"] > 0

    def __getitem__(self, name: str) -> dict[str, Collection]:
        return {"c": Collection(self.asked)}

    async def close(self) -> None:
        self.asked.append("closed")


def opened(folder: Path, text: str) -> Opened:
    (folder / "m.cf").write_text(BASICS + text)
    return Opened(f"mongodb:{folder}/m.cf")


def test_filter_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pymongo, "AsyncMongoClient", Client)
    table = opened(tmp_path, "result_attribute = a.b n none flag\nresult_format = <%s>\n")
    Client.asked.clear()
    assert run_fetch(table.table, 'x", "$ne": "') == "<one>,<two>,<7>"
    wanted = ({"name": 'x", "$ne": "'}, {"a.b": 1, "n": 1, "none": 1, "flag": 1})
    assert Client.asked == [wanted, "closed"]
    assert "type bool" in table.warnings[0]
    projected = opened(tmp_path, 'projection = {"n": 1}\n')
    assert run_fetch(projected.table, "x") == "7"


def test_options(tmp_path: Path) -> None:
    for text in ("", 'projection = {"n": 1}\nresult_attribute = n\n', "projection = {\n"):
        with pytest.raises(TableError):
            opened(tmp_path, text)


def test_no_server(tmp_path: Path) -> None:
    (tmp_path / "m.cf").write_text(
        BASICS.replace("127.0.0.1:1", f"127.0.0.1:{free_port()}/?serverSelectionTimeoutMS=200") + "result_attribute=n\n"
    )
    with pytest.raises(TempFail):
        run_fetch(Opened(f"mongodb:{tmp_path}/m.cf").table, "x")
