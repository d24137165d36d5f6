"""Lookup tables: one protocol for all types, and how a table is opened by its name "type:name".

    from fastmta.tables.lookup import Context, open_table
    table = open_table("hash:/etc/postfix/virtual", context)
    table.get("user@example.com")           # local: the value, or None
    await table.fetch("user@example.com")   # any: the same

Outcomes: the value (Found), None (NotFound), TempFail raised (the table cannot say now: 4xx to a client, deferral of
mail). A value that is the empty string is Found. Keys and values are str; bytes that are no UTF-8 travel as surrogates.

A type is a module of fastmta/tables/types, named in TYPES, with a function `open_(name, flags, context)` that returns a
Table. It is imported when a table of its type is opened first, so that what it needs (a client library) is needed then
only. Called by address/, access/, smtpd/, deliver/ and cli/. Raises TableError while opening, TempFail after that.

Postfix manual: DATABASE_README, postmap(1), dict_open(3).
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

TYPES: Final[dict[str, str]] = {
    "btree": "btree",
    "cdb": "cdb",
    "cidr": "cidr",
    "debug": "debug",
    "environ": "environ",
    "fail": "fail",
    "hash": "hash",
    "inline": "inline",
    "internal": "internal",
    "ldap": "ldap",
    "lmdb": "lmdb",
    "memcache": "memcache",
    "mongodb": "mongodb",
    "mysql": "mysql",
    "pcre": "pcre",
    "pgsql": "pgsql",
    "pipemap": "pipemap",
    "proxy": "proxy",
    "randmap": "randmap",
    "redis": "redis",
    "regexp": "regexp",
    "socketmap": "socketmap",
    "sqlite": "sqlite",
    "static": "static",
    "tcp": "tcp",
    "texthash": "texthash",
    "unionmap": "unionmap",
    "unix": "unix",
}
"""Type -> module of fastmta.tables.types that has open_()."""


class TempFail(Exception):
    """The table cannot answer now; the text says which and why, for the log."""


class TableError(ValueError):
    """A table that cannot be opened at all: unknown type, bad name, bad contents; the text says which and why."""


class Unsupported(Exception):
    """This type does not do that (a sequence over regular expressions)."""


class Flags(msgspec.Struct, frozen=True):
    """How keys are treated and what values are; the defaults are those of postmap(1) and of most callers.

    fold_fixed: keys are lowercased in tables of fixed strings; fold_pattern: in tables of patterns, too. utf8: keys and
    values must be UTF-8 (smtputf8_enable). substitution: $1 is allowed in the values of pattern tables (it is not where
    a table names files or commands, such as alias_maps). from_file: a value is the name of a file, and what is in that
    file is the value (postmap -F).
    """

    fold_fixed: bool = True
    fold_pattern: bool = False
    utf8: bool = True
    substitution: bool = True
    from_file: bool = False


class Parameters(Protocol):
    """What tables need of the configuration (fastmta.config.Config has it)."""

    def get_str(self, name: str) -> str:
        """A value with $name expanded. Raises KeyError where there is no such parameter."""


class Context(msgspec.Struct, frozen=True):
    """Where a table is opened. parameters: main.cf (also NAME_option of ldap:NAME); warn: takes a line for the log."""

    parameters: Parameters
    warn: Callable[[str], None]


class Table(ABC):
    """One open table. `name` is "type:name" as it was written; `is_local`: get() works and never waits for a network;
    `is_pattern`: it decides itself how a key matches, so that it is asked once, with the whole key, and never with
    parts of it (domain, parent domains, address without extension).
    """

    name: str
    is_local: bool = True
    is_pattern: bool = False

    @abstractmethod
    def get(self, key: str) -> str | None:
        """The value of a key, None where it has none. Raises TempFail; RuntimeError for a table that is not local."""

    async def fetch(self, key: str) -> str | None:
        """The same for every table; waits where it must, and never blocks the event loop. Raises TempFail."""
        return self.get(key)

    def sequence(self) -> Iterator[tuple[str, str]]:
        """All entries, in the table's own order (postmap -s). Raises Unsupported, TempFail."""
        raise Unsupported(f"{self.name}: this type has no sequence")

    def refresh(self) -> bool:
        """Take up a source that changed on disk; called about once a second. True when there was something new.

        Never raises: a source that is not readable now leaves the table as it is, and warns once.
        """
        return False

    @abstractmethod
    def close(self) -> None:
        """No more lookups."""


DEFAULTS: Final = Flags()


def open_table(name: str, context: Context, flags: Flags = DEFAULTS) -> Table:
    """Open "type:name". Raises TableError with Postfix's words: "unsupported dictionary type: xyz"."""
    kind, colon, rest = name.partition(":")
    if not colon or not kind or not rest:
        raise TableError(f'open dictionary: expecting "type:name" form instead of "{name}"')
    module = TYPES.get(kind)
    if module is None:
        raise TableError(f"unsupported dictionary type: {kind}")
    table: Table = importlib.import_module(f"fastmta.tables.types.{module}").open_(rest, flags, context)
    return table
