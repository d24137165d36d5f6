"""Replaces a configuration file as a whole: whoever reads it sees the old one or the new one.

The new text goes to FILE.tmp, is synced, and is renamed onto FILE; who edits at the same time waits for the lock of
FILE.tmp and then sees the other's work. The file keeps its mode and owner. Called by cli/postconf. Raises OSError; its
filename tells which of the two files it was.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

SUFFIX: Final = ".tmp"


def replace_text(path: str, edit: Callable[[str], str]) -> None:
    """Put edit(what is in the file) in the place of the file. What edit raises leaves the file as it is."""
    temporary = Path(path + SUFFIX)
    target = Path(path)
    descriptor = _lock(temporary)
    with open(descriptor, "wb") as file:
        try:
            found = target.stat()
            text = edit(target.read_bytes().decode("utf-8", "surrogateescape"))
            os.fchmod(descriptor, found.st_mode & 0o7777)
            if os.geteuid() == 0:
                os.fchown(descriptor, found.st_uid, found.st_gid)
            file.truncate(0)
            file.write(text.encode("utf-8", "surrogateescape"))
            file.flush()
            os.fsync(descriptor)
            temporary.rename(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # inside: the lock is ours until the new name is on disk, too
        _sync_folder(target.parent)


def _lock(path: Path) -> int:
    """The file under this name, ours alone: another editor may have renamed the one that we waited for."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            here = os.fstat(descriptor)
            try:
                there = path.stat()
            except FileNotFoundError:
                there = None
            if there is not None and (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
