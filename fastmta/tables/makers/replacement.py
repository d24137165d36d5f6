"""A file that is written beside another one and takes its place: path.tmp, locked, made durable and renamed.

Two programs that make the same table take turns: the second waits for the lock of the first, sees that the file is no
longer where it was, and begins with its own. What a killed program left is taken over. Used by the makers of lmdb, cdb
and of Berkeley DB. Raises MakerError.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from fastmta.tables.maker import MakerError


class Replacement:
    """The new file, empty, at `temporary` and open as `descriptor`.

    A lock of fcntl(2) goes when any descriptor of its file is closed by this process: a library that opens the file may
    close it only after commit() or abort().
    """

    def __init__(self, path: str, mode: int) -> None:
        """Make it; waits for another program that makes the same table."""
        self.path = path
        self.temporary = f"{path}.tmp"
        self._mode = mode
        try:
            while True:
                self.descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
                if self._is_mine():
                    break
                os.close(self.descriptor)
            os.ftruncate(self.descriptor, 0)
        except OSError as error:
            raise MakerError(f"open database {path}: {error.strerror}") from None

    def _is_mine(self) -> bool:
        try:
            there = os.stat(self.temporary)  # noqa: PTH116
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self.descriptor))

    def commit(self) -> None:
        """Durable, then in place, with the owner of the file that was there."""
        try:
            with contextlib.suppress(OSError):  # only root can, and there may be none
                before = os.stat(self.path)  # noqa: PTH116
                os.fchown(self.descriptor, before.st_uid, before.st_gid)
            os.fchmod(self.descriptor, self._mode)
            os.fsync(self.descriptor)
            os.rename(self.temporary, self.path)  # noqa: PTH104
            folder = os.open(Path(self.path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self.abort()
            raise MakerError(f"rename database from {self.temporary} to {self.path}: {error.strerror}") from None

    def abort(self) -> None:
        """Take the new file away."""
        with contextlib.suppress(OSError):
            if self._is_mine():
                os.unlink(self.temporary)  # noqa: PTH108

    def close(self) -> None:
        """After commit() or abort(): give the lock up."""
        os.close(self.descriptor)
