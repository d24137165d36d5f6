"""Tables that are made of others: unionmap, pipemap, debug. A part that is remote makes the whole remote.

Used by tables/types. Raises TableError while opening.
"""

from __future__ import annotations

from fastmta.tables.lookup import Context, Flags, Table, TableError, open_table
from fastmta.tables.memory import members, unbraced


class Composite(Table):
    """A table over others."""

    def __init__(self, name: str, tables: list[Table]) -> None:
        """tables: in the order in which they were written; they are closed with this one."""
        self.name = name
        self.tables = tables
        self.is_local = all(table.is_local for table in tables)
        self.is_pattern = all(table.is_pattern for table in tables)

    def refresh(self) -> bool:
        """Take up what changed in any of them."""
        news = [table.refresh() for table in self.tables]  # each of them, not only up to the first
        return True in news

    def close(self) -> None:
        """Close them all."""
        for table in self.tables:
            table.close()


def open_members(kind: str, name: str, flags: Flags, context: Context) -> list[Table]:
    """The tables in kind:{type:name, ...}. Raises TableError."""
    need = f"{kind}:{{type:name...}}"
    names = [unbraced(item, f"{kind}:{name}", need) for item in members(kind, name, "type:name")]
    if not all(":" in item for item in names):
        raise TableError(f'bad syntax: "{kind}:{name}"; need "{need}"')
    tables: list[Table] = []
    try:
        for item in names:
            tables.append(open_table(item, context, flags))
    except TableError:
        for table in tables:
            table.close()
        raise
    return tables
