"""static: the same value for every key: static:value, static:{ value with spaces } (DATABASE_README)."""

from __future__ import annotations

from fastmta.config.lines import WHITESPACE
from fastmta.tables.lookup import Context, Flags, Table, TableError
from fastmta.tables.source import fold_key, read_value


class StaticTable(Table):
    """One open table."""

    def __init__(self, name: str, value: str, flags: Flags, context: Context) -> None:
        """value: what every key has."""
        self.name = name
        self.value = value
        self.flags = flags
        self.context = context

    def get(self, key: str) -> str | None:
        """The value, unless the key is no UTF-8 where it must be."""
        return None if fold_key(self.name, key, False, self.flags, self.context) is None else self.value

    def close(self) -> None:
        """Nothing is held open."""


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open static:name. Raises TableError."""
    value = name
    if name.startswith("{"):
        if not name.endswith("}"):
            raise TableError(f"bad static:name syntax: missing '}}' in \"{name}\"")
        value = name[1:-1].strip(WHITESPACE)
    if flags.from_file:
        content = read_value(value)
        if isinstance(content, tuple):
            raise TableError(content[0])
        value = content
    return StaticTable(f"static:{name}", value, flags, context)
