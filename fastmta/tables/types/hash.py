"""hash: tables of Berkeley DB, or kept as LMDB where that is not installed (tables/berkeley.py says how)."""

from __future__ import annotations

from fastmta.tables.berkeley import open_berkeley
from fastmta.tables.lookup import Context, Flags, Table


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open hash:name. Raises TableError."""
    return open_berkeley("hash", name, flags, context)
