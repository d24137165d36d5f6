"""debug: passes a lookup on to another table and logs it: debug:type:name (DATABASE_README of Postfix 3.10)."""

from __future__ import annotations

from collections.abc import Iterator

from fastmta.tables.composite import Composite
from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail, open_table


class DebugTable(Composite):
    """One open table."""

    def __init__(self, name: str, table: Table, context: Context) -> None:
        """table: the one that is asked."""
        super().__init__(name, [table])
        self.context = context

    def get(self, key: str) -> str | None:
        """What the table says."""
        try:
            value = self.tables[0].get(key)
        except TempFail:
            self._log(key, "try again")
            raise
        self._log(key, "not_found" if value is None else value)
        return value

    async def fetch(self, key: str) -> str | None:
        """The same, awaited."""
        try:
            value = await self.tables[0].fetch(key)
        except TempFail:
            self._log(key, "try again")
            raise
        self._log(key, "not_found" if value is None else value)
        return value

    def sequence(self) -> Iterator[tuple[str, str]]:
        """The entries of the table."""
        return self.tables[0].sequence()

    def _log(self, key: str, answer: str) -> None:
        self.context.warn(f'{self.name} lookup: "{key}" = "{answer}"')


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open debug:name. Raises TableError."""
    if not name.partition(":")[2]:
        raise TableError(f'bad syntax: "debug:{name}"; need "debug:type:name"')
    return DebugTable(f"debug:{name}", open_table(name, context, flags), context)
