"""Tables whose entries are in memory, and the { } syntax of the types that are written out in their name.

MappingTable serves inline, internal and texthash; Members is the list of inline:{..}, randmap:{..}, unionmap:{..} and
pipemap:{..}. Used by tables/types. Raises TableError while opening.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fastmta.config.lines import WHITESPACE
from fastmta.config.values import inside_braces, to_list
from fastmta.tables.lookup import Context, Flags, Table, TableError
from fastmta.tables.source import fold_key


class MappingTable(Table):
    """A table of fixed strings in a dictionary; its keys are folded already."""

    def __init__(self, name: str, entries: Mapping[str, str], flags: Flags, context: Context) -> None:
        """name with its type."""
        self.name = name
        self.entries = entries
        self.flags = flags
        self.context = context

    def get(self, key: str) -> str | None:
        """The value of a key."""
        folded = fold_key(self.name, key, self.flags.fold_fixed, self.flags, self.context)
        return None if folded is None else self.entries.get(folded)

    def sequence(self) -> Iterator[tuple[str, str]]:
        """In the order in which they were written."""
        return iter(self.entries.items())

    def close(self) -> None:
        """Nothing is held open."""


def members(kind: str, name: str, need: str) -> tuple[str, ...]:
    """What is in the { } of a table's name, each without braces of its own. Raises TableError with what it needs."""
    title = f"{kind}:{name}"
    inner = name[1:-1].strip(WHITESPACE + ",") if len(name) > 1 and name[0] == "{" and name[-1] == "}" else ""
    if not inner:
        raise TableError(f'bad syntax: "{title}"; need "{title.partition(":")[0]}:{{{need}...}}"')
    return to_list(inner)


def unbraced(item: str, title: str, need: str) -> str:
    """An item without { } around it and the blanks within. Raises TableError."""
    if not item.startswith("{"):
        return item
    try:
        return inside_braces(item)
    except ValueError as error:
        raise TableError(f'{error}: "{title}"; need "{need}"') from None
