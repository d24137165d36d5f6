"""Table files that are made: one protocol for the types that postmap(1) and postalias(1) write.

    maker = open_maker("lmdb:/etc/postfix/virtual", incremental=False, duplicates=Duplicates.REFUSE,
                       context=context, mode=0o644, flags=Flags())
    maker.put("user@example.com", "user")
    maker.commit()

A file that is made anew is written beside the old one and takes its place in commit(), durable and at once: who has the
old one open reads on in it. With `incremental` an existing file is changed: all of it in commit(), or nothing. Called
by cli/ and by tables/berkeley.py.

A type is a module of fastmta/tables/makers with a function `open_maker(path, request)`. Raises MakerError with words of
Postfix. Postfix manual: mkmap_open(3), postmap(1).
"""

from __future__ import annotations

import enum
import importlib
from abc import ABC, abstractmethod
from typing import Final

import msgspec

from fastmta.tables.lookup import TYPES, Context, Flags
from fastmta.tables.source import fold_key, to_bytes

MAKERS: Final[dict[str, str]] = {
    "btree": "berkeley",
    "cdb": "cdb",
    "fail": "fail",
    "hash": "berkeley",
    "lmdb": "lmdb",
}
"""Type -> module of fastmta.tables.makers that has open_maker()."""


class MakerError(Exception):
    """The table cannot be made; the text is Postfix's, without the name of a program before it."""


class Duplicates(enum.Enum):
    """What becomes of a key that is there already. The caller warns with REFUSE; the maker never does."""

    REFUSE = "refuse"
    REPLACE = "replace"
    IGNORE = "ignore"


class Request(msgspec.Struct, frozen=True):
    """How a table is to be made. mode: permission bits of a file that is made anew."""

    kind: str
    incremental: bool
    duplicates: Duplicates
    context: Context
    mode: int
    flags: Flags


class Maker(ABC):
    """A table that is being made; `name` is "type:path". Keys are folded here, as the flags say."""

    def __init__(self, path: str, request: Request) -> None:
        """Nothing is opened yet."""
        self.name = f"{request.kind}:{path}"
        self._request = request

    def put(self, key: str, value: str) -> bool:
        """Add an entry. False where the key is there already and its value was left. Raises MakerError."""
        folded = key.lower().encode() if self._request.flags.fold_fixed and key.isascii() else self._fold(key)
        return folded is not None and self._put(folded, value.encode("utf-8", "surrogateescape"))

    def delete(self, key: str) -> bool:
        """Take an entry away; False where there is none. Raises MakerError."""
        folded = self._fold(key)
        return folded is not None and self._delete(folded)

    def _fold(self, key: str) -> bytes | None:
        flags = self._request.flags
        folded = fold_key(self.name, key, flags.fold_fixed, flags, self._request.context)
        return None if folded is None else to_bytes(folded)

    @abstractmethod
    def _put(self, key: bytes, value: bytes) -> bool: ...

    @abstractmethod
    def _delete(self, key: bytes) -> bool: ...

    @abstractmethod
    def commit(self) -> None:
        """Durable, and what readers find from now on. Raises MakerError. Nothing may follow."""

    @abstractmethod
    def abort(self) -> None:
        """Leave all as it was. Nothing may follow."""


def open_maker(
    name: str, *, incremental: bool, duplicates: Duplicates, context: Context, mode: int, flags: Flags
) -> Maker:
    """Begin to make "type:path". Raises MakerError."""
    kind, colon, path = name.partition(":")
    if not colon or not kind or not path:
        raise MakerError(f'open dictionary: expecting "type:name" form instead of "{name}"')
    module = MAKERS.get(kind)
    if module is None:
        if kind == "proxy":
            raise MakerError("can't create maps via the proxy service")
        reason = "does not support bulk-mode creation." if kind in TYPES else ""
        missing = f". Is the postfix-{kind} package installed?"
        raise MakerError(f"unsupported dictionary type: {kind}{' ' + reason if reason else missing}")
    request = Request(kind, incremental, duplicates, context, mode, flags)
    maker: Maker = importlib.import_module(f"fastmta.tables.makers.{module}").open_maker(path, request)
    return maker


def number(context: Context, parameter: str, default: int) -> int:
    """A number of main.cf."""
    try:
        return int(context.parameters.get_str(parameter))
    except (KeyError, ValueError):
        return default
