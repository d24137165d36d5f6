"""mongodb: a filter on a collection, with pymongo's asyncio client (extra `mongodb`).

Called through tables.lookup. Every string and number, and every element of a list of them, in the result attributes (or
in what the projection leaves, but for _id) of each document found is a value. Keys are quoted for the inside of a JSON
string, so that they cannot become operators. The client keeps its own connections, in each event loop its own.

Tested against a stand-in for the client only: Debian has no MongoDB. Postfix manual: mongodb_table(5).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

from fastmta.config.values import to_list
from fastmta.tables.database import QueryTable
from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail
from fastmta.tables.remote import CONNECTIONS, client_library

_TIMEOUT: Final = 30


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open mongodb:name. Raises TableError."""
    return MongodbTable(name, flags, context)


def quote(text: str) -> str:
    """Text for the inside of a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


class MongodbTable(QueryTable):
    """One filter and the collection that it is for."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__("mongodb", name, flags, context)
        options = self.options
        self._pymongo = client_library("pymongo", "mongodb")
        self._errors = client_library("pymongo.errors", "mongodb")
        self._json = client_library("bson.json_util", "mongodb")
        self._uri = options.required("uri")
        self._place = options.required("dbname"), options.required("collection")
        self._filter = self.templates.query(options.required("filter"))
        self._attributes = to_list(options.text("result_attribute"))
        projection = options.text("projection")
        if bool(projection) == bool(self._attributes):
            raise TableError(f"{self.name}: specify one of projection and result_attribute")
        self._projection: Any = None
        if projection:
            self._projection = self._parse(projection, "projection")
        options.finish()
        self._client: Any = None
        self._closing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _parse(self, text: str, what: str) -> Any:
        try:
            return self._json.loads(text)
        except (ValueError, TypeError) as error:
            raise TableError(f"{self.name}: {what} is no JSON: {error}") from None

    async def ask(self, key: str) -> Iterable[str | None]:
        """The values of all documents found. Raises TempFail."""
        text = self.templates.expand_key(self._filter, key, quote)
        if text is None:
            return ()
        projection = self._projection or dict.fromkeys(self._attributes, 1)
        try:
            wanted = self._parse(text, "filter")
            async with asyncio.timeout(_TIMEOUT):
                collection = self._here()[self._place[0]][self._place[1]]
                documents = [document async for document in collection.find(wanted, projection)]
        except (self._errors.PyMongoError, TableError) as error:
            raise TempFail(f"{self.name}: {error}") from None
        except TimeoutError:
            raise TempFail(f"{self.name}: timeout") from None
        return [value for document in documents for value in self._values(document, key)]

    def _here(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            milliseconds = _TIMEOUT * 1000
            settings = {"serverSelectionTimeoutMS": milliseconds, "socketTimeoutMS": milliseconds}
            # What the URI says is stronger.
            settings = {name: value for name, value in settings.items() if name.lower() not in self._uri.lower()}
            if "maxpoolsize" not in self._uri.lower():
                settings["maxPoolSize"] = CONNECTIONS
            self._client = self._pymongo.AsyncMongoClient(self._uri, **settings)
        return self._client

    def _values(self, document: dict[str, Any], key: str) -> Iterator[str]:
        if self._projection is not None:
            found = [value for name, value in document.items() if name != "_id"]
        else:
            found = [_descend(document, name) for name in self._attributes]
        for value in found:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str):
                    yield item
                elif isinstance(item, int) and not isinstance(item, bool):
                    yield str(item)
                elif item is not None:
                    self._context.warn(f"{self.name}: key '{key}': a value of type {type(item).__name__} is left out")

    def close(self) -> None:
        """No more lookups."""
        super().close()
        client, loop, self._client, self._loop = self._client, self._loop, None, None
        if client is not None and loop is not None and loop.is_running():
            loop.create_task(client.close())


def _descend(document: Any, name: str) -> Any:
    """The value of a.b.c, None where there is none."""
    for part in name.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(part)
    return document
