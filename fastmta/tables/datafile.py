"""Tables in files that postmap(1) made: opened, taken up when another file is in place, and never trusted.

A type subclasses DataFile and gives open_file(), which opens the file by its path, and find(). refresh() opens a file
that took the place of the old one and only then closes the old one; one that cannot be read leaves the old one, with a
warning. A file that turns out to be damaged answers TempFail until there is a good one. Used by tables/types.

Raises TableError while opening, TempFail later. Postfix: dict_open(3), dict_lmdb(3), dict_cdb(3), dict_db(3).
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, Protocol

from fastmta._ext.mapped import Damaged
from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail
from fastmta.tables.source import Stamp, fold_key, printable, stamp, to_bytes

_SETTLED: Final = 100
"""Seconds that a source must have been left alone before an older table is worth a warning (dict_lmdb(3))."""


class OpenFile(Protocol):
    """What a library has of an open file."""

    def get(self, key: bytes) -> str | None:
        """The value of a key. Raises Damaged, OSError."""

    def close(self) -> None:
        """No more lookups."""


class DataFile(Table):
    """A table in the file `path`, made from the text `source`."""

    def __init__(self, kind: str, name: str, suffix: str, flags: Flags, context: Context) -> None:
        """Open it. Raises TableError."""
        self.name = f"{kind}:{name}"
        self.source = name
        self.path = f"{name}{suffix}"
        self.flags = flags
        self.context = context
        self._warned = ""
        try:
            self._seen, self._file = self._open()
        except (OSError, Damaged) as error:
            raise TableError(f"open database {self.path}: {reason(error)}") from None
        self._warn_if_older()

    @abstractmethod
    def open_file(self, descriptor: int) -> OpenFile:
        """The file, by a descriptor that is to be closed by what is returned. Raises Damaged, OSError."""

    def _open(self) -> tuple[Stamp, OpenFile]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            seen = stamp(os.fstat(descriptor))
            file = self.open_file(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        return seen, file

    def _warn_if_older(self) -> None:
        with contextlib.suppress(OSError):
            source = os.stat(self.source).st_mtime  # noqa: PTH116
            if source > os.stat(self.path).st_mtime and source < time.time() - _SETTLED:  # noqa: PTH116
                self.context.warn(f"database {self.path} is older than source file {self.source}")

    def get(self, key: str) -> str | None:
        """The value of a key. Raises TempFail."""
        folded = fold_key(self.name, key, self.flags.fold_fixed, self.flags, self.context)
        if folded is None:
            return None
        try:
            value = self._file.get(to_bytes(folded))
        except (OSError, Damaged) as error:
            return self._again(folded, error)
        return value if value is None or value.isascii() else self._checked(key, value)

    def _again(self, key: str, error: Exception) -> str | None:
        """The file is damaged: perhaps because there is a new one."""
        if self.refresh():
            with contextlib.suppress(OSError, Damaged):
                return self._file.get(to_bytes(key))
        raise TempFail(f"error reading {self.name}: {reason(error)}") from None

    def _checked(self, key: str, value: str) -> str:
        if self.flags.utf8:
            try:
                value.encode()
            except UnicodeEncodeError:
                raise TempFail(f'{self.name}: key "{printable(key)}": non-UTF-8 value "{printable(value)}"') from None
        return value

    def refresh(self) -> bool:
        """Open the file again where it changed or another one has taken its place."""
        return self.take_up(self.is_new, self._open)

    def is_new(self) -> bool:
        """Whether another file is in place, or this one changed. Raises OSError."""
        return stamp(os.stat(self.path)) != self._seen  # noqa: PTH116

    def take_up(self, is_new: Callable[[], bool], opening: Callable[[], tuple[Stamp, OpenFile]]) -> bool:
        """The new file, then no more of the old one; never raises."""
        try:
            if not is_new():
                return False
            seen, file = opening()
        except Exception as error:  # a fault of ours must not stop lookups either
            text = reason(error)
            if text != self._warned:
                self._warned = text
                self.context.warn(f"{self.name}: not taken up, the old contents stay: {self.path}: {text}")
            return False
        old, self._file, self._seen, self._warned = self._file, file, seen, ""
        old.close()
        return True

    def close(self) -> None:
        """No more lookups."""
        self._file.close()


def reason(error: Exception) -> str:
    """What an error says, for the log."""
    return str(error.strerror or error) if isinstance(error, OSError) else str(error) or repr(error)
