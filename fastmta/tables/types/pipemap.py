"""pipemap: what one table says is the key for the next: pipemap:{type:name, type:name} (DATABASE_README)."""

from __future__ import annotations

from fastmta.tables.composite import Composite, open_members
from fastmta.tables.lookup import Context, Flags, Table


class PipeTable(Composite):
    """One open table."""

    def get(self, key: str) -> str | None:
        """What the last table says, or None where one has no answer."""
        value: str | None = key
        for table in self.tables:
            value = table.get(key)
            if value is None:
                return None
            key = value
        return value

    async def fetch(self, key: str) -> str | None:
        """The same, awaited."""
        value: str | None = key
        for table in self.tables:
            value = await table.fetch(key)
            if value is None:
                return None
            key = value
        return value


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open pipemap:name. Raises TableError."""
    return PipeTable(f"pipemap:{name}", open_members("pipemap", name, flags, context))
