"""Parameters that name tables: opened once and shared, asked in order, without await where all of them are local.

    tables = Tables(config, warn)
    maps = tables.maps("transport_maps", config.get_str("transport_maps"))
    maps.find("user@example.com")           # the value of the first table that has one, or None
    await tables.ask(lambda: maps.find("user@example.com"))       # the same, where a table may be remote

A question (what find() and everything above it is: the resolving of an address, a list of restrictions) is plain code
that never waits. Where it comes to a remote table it raises Pending; ask() fetches what that table says, and puts the
question again from its start, with what is known already at hand. So questions must have no effect but their answer.
Who has local tables only pays nothing for this: Pending is never raised.

A table that cannot be opened is one that answers TempFail, with Postfix's warning, until the next load. Used by smtpd/,
access/, qmgr/ through the worker, which also calls refresh() about once a second. Raises TableError for what is no
"type:name", TempFail and Pending. Postfix: maps(3), dict_surrogate(3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from fastmta.config.values import to_list
from fastmta.tables.keys import Key, KeyRules, Parts, address_keys
from fastmta.tables.lookup import DEFAULTS, Context, Flags, Parameters, Table, TableError, TempFail, open_table
from fastmta.tables.source import printable

T = TypeVar("T")

NO_SUBSTITUTION: Final = Flags(substitution=False)
_Answer = str | TempFail | None
_KEY_SHOWN: Final = 100


class Pending(Exception):
    """A question came to a remote table: put it through Tables.ask."""

    def __init__(self, table: Table, key: str) -> None:
        """What is to be fetched."""
        super().__init__(table.name, key)
        self.table = table
        self.key = key


class UnavailableTable(Table):
    """Stands for a table that could not be opened: TempFail, with a warning each time, as in Postfix."""

    def __init__(self, name: str, reason: str, warn: Callable[[str], None]) -> None:
        """reason: what open_table said."""
        self.name = name
        self._text = f"{name} is unavailable. {reason}"
        self._warn = warn

    def get(self, key: str) -> str | None:
        """Raises TempFail."""
        self._warn(self._text)
        raise TempFail(self._text)

    def close(self) -> None:
        """Nothing is held open."""


class Tables:
    """All open tables of a worker."""

    def __init__(self, parameters: Parameters, warn: Callable[[str], None]) -> None:
        """warn: takes a line for the log."""
        self.warn = warn
        self._context = Context(parameters, warn)
        self._open: dict[tuple[str, Flags], Table] = {}
        self._answers: dict[tuple[int, str], _Answer] | None = None

    def open(self, name: str, flags: Flags = DEFAULTS) -> Table:
        """The table of that name. Raises TableError for what is no "type:name" at all."""
        table = self._open.get((name, flags))
        if table is None:
            kind, colon, rest = name.partition(":")
            try:
                table = open_table(name, self._context, flags)
            except TableError as error:
                if not (kind and colon and rest):
                    raise
                self.warn(f"error: {error}")
                table = UnavailableTable(name, str(error), self.warn)
            self._open[name, flags] = table
        return table

    def maps(self, title: str, names: str | Iterable[str], flags: Flags = DEFAULTS) -> Maps:
        """The tables in a parameter's value. title: the parameter, for the log. Raises TableError."""
        items = to_list(names) if isinstance(names, str) else tuple(names)
        return Maps(self, title, [self.open(item, flags) for item in items])

    @property
    def are_local(self) -> bool:
        """No table is remote: no question ever waits."""
        return all(table.is_local for table in self._open.values())

    def get(self, table: Table, key: str) -> str | None:
        """What one table says. Raises TempFail, and Pending where that has to be awaited first."""
        answers = self._answers
        if answers is None:
            if table.is_local:
                return table.get(key)
            raise Pending(table, key)
        place = id(table), key
        if place not in answers:
            if not table.is_local:
                raise Pending(table, key)
            try:
                answers[place] = table.get(key)
            except TempFail as failure:
                answers[place] = failure
        answer = answers[place]
        if isinstance(answer, TempFail):
            raise answer
        return answer

    async def ask(self, question: Callable[[], T]) -> T:
        """The answer to a question, with what remote tables say. Raises what it raises, but never Pending."""
        answers: dict[tuple[int, str], _Answer] = {}
        while True:
            self._answers = answers  # nobody else runs until the question returns
            try:
                return question()
            except Pending as pending:
                table, key = pending.table, pending.key
            finally:
                self._answers = None
            try:
                answers[id(table), key] = await table.fetch(key)
            except TempFail as failure:
                answers[id(table), key] = failure

    def refresh(self) -> bool:
        """Take up sources that changed on disk. True when there was something new."""
        news = [table.refresh() for table in self._open.values()]
        return True in news

    def close(self) -> None:
        """No more lookups."""
        for table in self._open.values():
            table.close()
        self._open.clear()


class Maps:
    """The tables that one parameter names."""

    __slots__ = ("_tables", "tables", "title")

    def __init__(self, owner: Tables, title: str, tables: list[Table]) -> None:
        """owner: who has opened them."""
        self._tables = owner
        self.title = title
        self.tables = tuple(tables)

    def __bool__(self) -> bool:
        """Is there any table?"""
        return bool(self.tables)

    def find(self, key: str, partial: bool = False) -> str | None:
        """What the first table that knows the key says. partial: a part of what is looked for, no key for patterns.

        Raises TempFail where a table before that one cannot say, and where the value is empty, which is a mistake in
        the table; Pending.
        """
        if not key:
            return None
        get, warn = self._tables.get, self._tables.warn
        for table in self.tables:
            if partial and table.is_pattern:
                continue
            try:
                value = get(table, key)
            except TempFail:
                warn(f'{table.name} lookup error for "{printable(key[:_KEY_SHOWN])}"')
                raise
            if value is None:
                continue
            if not value:
                warn(f"{self.title} lookup of {printable(key)} returns an empty string result")
                warn(f"{self.title} should return NO RESULT in case of NOT FOUND")
                raise TempFail(f"{table.name}: empty value")
            return value
        return None

    def find_first(self, keys: Iterable[Key]) -> tuple[str, Key] | None:
        """The first of some keys (tables.keys) that is known, with its value: a key for all tables, then the next."""
        for key in keys:
            value = self.find(key.text, key.partial)
            if value is not None:
                return value, key
        return None


class AddressMaps:
    """A parameter whose tables know addresses."""

    __slots__ = ("_parts", "_rules", "maps")

    def __init__(self, maps: Maps, parts: Parts, rules: KeyRules) -> None:
        """parts: which parts of an address are keys (keys.VIRTUAL, keys.TRANSPORT, ...)."""
        self.maps = maps
        self._parts = parts
        self._rules = rules

    def __bool__(self) -> bool:
        """Is there any table?"""
        return bool(self.maps)

    def find(self, address: str) -> str | None:
        """The value for an address in internal form. Raises TempFail, Pending."""
        found = self.maps.find_first(address_keys(address, self._parts, self._rules))
        return None if found is None else found[0]

    def find_with_extension(self, address: str) -> tuple[str, str] | None:
        """The same, with the extension that the key was found without (propagate_unmatched_extensions)."""
        found = self.maps.find_first(address_keys(address, self._parts, self._rules))
        return None if found is None else (found[0], found[1].extension)
