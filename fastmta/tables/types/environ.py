"""environ: the process's environment (DATABASE_README)."""

from __future__ import annotations

import os

from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.memory import MappingTable


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open environ:name; the name has no meaning. Keys are lowercased unless fold_fixed is off."""
    return MappingTable(f"environ:{name}", os.environ, flags, context)
