"""unionmap: every table is asked, and what they say is joined with commas: unionmap:{type:name, type:name}."""

from __future__ import annotations

from fastmta.tables.composite import Composite, open_members
from fastmta.tables.lookup import Context, Flags, Table


class UnionTable(Composite):
    """One open table. TempFail of one is TempFail of all."""

    def get(self, key: str) -> str | None:
        """All values, in the order of the tables."""
        values = [value for table in self.tables if (value := table.get(key)) is not None]
        return ",".join(values) if values else None

    async def fetch(self, key: str) -> str | None:
        """The same, awaited."""
        values = [value for table in self.tables if (value := await table.fetch(key)) is not None]
        return ",".join(values) if values else None


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open unionmap:name. Raises TableError."""
    return UnionTable(f"unionmap:{name}", open_members("unionmap", name, flags, context))
