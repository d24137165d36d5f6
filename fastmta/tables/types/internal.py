"""internal: an empty table in memory; Postfix's programs keep their own state in it (DATABASE_README)."""

from __future__ import annotations

from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.memory import MappingTable


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open internal:name."""
    return MappingTable(f"internal:{name}", {}, flags, context)
