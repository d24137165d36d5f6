"""randmap: for every key one of its values, by chance: randmap:{value, value} (DATABASE_README)."""

from __future__ import annotations

import random

from fastmta.tables.lookup import Context, Flags, Table, TableError
from fastmta.tables.memory import members
from fastmta.tables.source import fold_key, read_value


class RandomTable(Table):
    """One open table."""

    is_pattern = True

    def __init__(self, name: str, values: tuple[str, ...], flags: Flags, context: Context) -> None:
        """values: one is chosen at each lookup."""
        self.name = name
        self.values = values
        self.flags = flags
        self.context = context

    def get(self, key: str) -> str | None:
        """Any of the values, unless the key is no UTF-8 where it must be."""
        if fold_key(self.name, key, False, self.flags, self.context) is None:
            return None
        return random.choice(self.values)

    def close(self) -> None:
        """Nothing is held open."""


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open randmap:name. Raises TableError."""
    values = members("randmap", name, "value")
    if flags.from_file:
        contents = [read_value(value) for value in values]
        for content in contents:
            if isinstance(content, tuple):
                raise TableError(content[0])
        values = tuple(content for content in contents if isinstance(content, str))
    return RandomTable(f"randmap:{name}", values, flags, context)
