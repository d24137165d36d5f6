"""lmdb: LMDB files, those of Postfix's postmap(1) and our own (lmdb_table(5)).

A lookup takes no lock, and sees the last transaction that was committed: what is changed in place is seen at once, a
file that took the place of another one with refresh(). A key that is longer than LMDB allows has no value (Postfix's
programs die of one).
"""

from __future__ import annotations

from collections.abc import Iterator

from fastmta._ext.mapped import Damaged, LmdbFile
from fastmta.tables.datafile import DataFile, OpenFile, reason
from fastmta.tables.lookup import Context, Flags, Table, TempFail


class LmdbTable(DataFile):
    """One open table."""

    def open_file(self, descriptor: int) -> OpenFile:
        """Map it."""
        return LmdbFile(descriptor)

    def sequence(self) -> Iterator[tuple[str, str]]:
        """In the order of the keys' bytes. Raises TempFail."""
        file = self._file
        assert isinstance(file, LmdbFile)
        key: bytes | None = None
        while True:
            try:
                entry = file.after(key)
            except (OSError, Damaged) as error:
                raise TempFail(f"error seeking {self.name}: {reason(error)}") from None
            if entry is None:
                return
            key = entry[0]
            yield text_of(key), text_of(entry[1])


def text_of(value: bytes) -> str:
    """A key or value of a table file, up to its first zero byte."""
    return value.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open lmdb:name. Raises TableError."""
    return LmdbTable("lmdb", name, ".lmdb", flags, context)
