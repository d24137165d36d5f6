"""fail: a table that cannot be written either; for tests (DATABASE_README)."""

from __future__ import annotations

from fastmta.tables.maker import Maker, MakerError, Request


class FailMaker(Maker):
    """A table that refuses every change."""

    def _put(self, key: bytes, value: bytes) -> bool:
        raise MakerError(f"table {self.name}: write error: Application error")

    def _delete(self, key: bytes) -> bool:
        raise MakerError(f"table {self.name}: delete error: Application error")

    def commit(self) -> None:
        """There is nothing to keep."""

    def abort(self) -> None:
        """There is nothing to undo."""


def open_maker(path: str, request: Request) -> Maker:
    """Open it; only changes fail."""
    return FailMaker(path, request)
