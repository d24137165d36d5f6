"""fail: a table that can never answer; for tests (DATABASE_README)."""

from __future__ import annotations

from fastmta.tables.lookup import Context, Flags, Table, TempFail


class FailTable(Table):
    """One open table."""

    is_pattern = True

    def __init__(self, name: str) -> None:
        """name with its type."""
        self.name = name

    def get(self, key: str) -> str | None:
        """Raises TempFail, always."""
        raise TempFail(f"table {self.name}: query error: Application error")

    def close(self) -> None:
        """Nothing is held open."""


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open fail:name."""
    return FailTable(f"fail:{name}")
