"""`fastmta start-fg` whose workers tell of every module that they import after they gave up root.

    python -m tests.unit.locked_master FILE CONFIG_DIRECTORY

Run by test_cli_lifecycle.py: appends the names to FILE. In real life such an import may fail: the program's files may
be root's alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from fastmta.cli import foreground
from fastmta.master.identity import Identity

BOOK = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
assume = Identity.assume


class Guard:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        os.write(BOOK, f"{name}\n".encode())
        return None


def assume_and_watch(self: Identity) -> None:
    assume(self)
    sys.meta_path.insert(0, Guard)


if __name__ == "__main__":
    Identity.assume = assume_and_watch  # type: ignore[method-assign]
    sys.exit(foreground.main(Path(sys.argv[2]), []))
