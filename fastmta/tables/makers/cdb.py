"""cdb: makes constant databases in D. J. Bernstein's format (cdb(5)), without zero bytes, as Debian's Postfix does.

A table is made as a whole. Its entries are in memory until commit(), which writes path.cdb.tmp and renames it.
"""

from __future__ import annotations

import struct
from array import array
from typing import Final

from fastmta.tables.maker import Duplicates, Maker, MakerError, Request
from fastmta.tables.makers.replacement import Replacement

_LARGEST: Final = 0xFFFFFFFF
_HEADER: Final = 2048


class CdbMaker(Maker):
    """A file that is made anew."""

    def __init__(self, path: str, request: Request) -> None:
        """Raises MakerError."""
        super().__init__(path, request)
        if request.incremental:
            raise MakerError(
                "dict_cdb_open: inappropriate open flags for cdb database - "
                "specify O_RDONLY or O_WRONLY|O_CREAT|O_TRUNC"
            )
        self._replaces = request.duplicates is Duplicates.REPLACE
        self._entries: dict[bytes, bytes] = {}
        self._replacement = Replacement(f"{path}.cdb", request.mode)

    def _put(self, key: bytes, value: bytes) -> bool:
        if not self._replaces and key in self._entries:
            return False
        self._entries[key] = value
        return True

    def _delete(self, key: bytes) -> bool:
        return self._entries.pop(key, None) is not None

    def commit(self) -> None:
        """Durable and in place."""
        try:
            self._write()
            self._replacement.commit()
        except OSError as error:
            self._replacement.abort()
            raise MakerError(f"error updating {self.name}: {error.strerror}") from None
        finally:
            self._replacement.close()

    def _write(self) -> None:
        tables = [array("Q") for _ in range(256)]  # hash and place of each record
        place = _HEADER
        with open(self._replacement.descriptor, "wb", buffering=1 << 18, closefd=False) as file:
            file.write(bytes(_HEADER))
            for key, value in self._entries.items():
                code = _hash(key)
                tables[code & 255].append(code << 32 | place)
                file.write(struct.pack("<II", len(key), len(value)))
                file.write(key)
                file.write(value)
                place += 8 + len(key) + len(value)
                if place > _LARGEST:
                    raise MakerError(f"error updating {self.name}: a cdb file has at most 4 GB")
            header = bytearray()
            for records in tables:
                header += struct.pack("<II", place, 2 * len(records))
                file.write(_slots(records))
                place += 16 * len(records)
            if place > _LARGEST:
                raise MakerError(f"error updating {self.name}: a cdb file has at most 4 GB")
            file.seek(0)
            file.write(header)

    def abort(self) -> None:
        """Leave all as it was."""
        self._replacement.abort()
        self._replacement.close()


def _hash(key: bytes) -> int:
    code = 5381
    for byte in key:
        code = (code * 33 & _LARGEST) ^ byte
    return code


def _slots(records: array[int]) -> bytes:
    """A hash table, half of it empty, as it is in the file."""
    count = 2 * len(records)
    table = [0] * count
    for record in records:
        slot = (record >> 40) % count
        while table[slot]:
            slot = slot + 1 if slot + 1 < count else 0
        table[slot] = record
    return b"".join(struct.pack("<II", record >> 32, record & _LARGEST) for record in table)


def open_maker(path: str, request: Request) -> Maker:
    """Begin to make path.cdb. Raises MakerError."""
    return CdbMaker(path, request)
