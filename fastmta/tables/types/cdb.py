"""cdb: constant databases in D. J. Bernstein's format, those of Postfix's postmap(1) and our own (CDB_README).

The file never changes: postmap renames a new one into its place, which refresh() takes up. There is no sequence.
"""

from __future__ import annotations

from fastmta._ext.mapped import CdbFile
from fastmta.tables.datafile import DataFile, OpenFile
from fastmta.tables.lookup import Context, Flags, Table


class CdbTable(DataFile):
    """One open table."""

    def open_file(self, descriptor: int) -> OpenFile:
        """Map it."""
        return CdbFile(descriptor)


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open cdb:name. Raises TableError."""
    return CdbTable("cdb", name, ".cdb", flags, context)
