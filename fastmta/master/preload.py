"""Imports everything that a worker may ever need, before the fork.

Called by master/daemon.py once. Two reasons: workers share the memory of what the master loaded, and a worker that
gave up root may no longer be able to read the files of its own program. Some libraries import parts of themselves at
first use: those are named here. Raises ImportError.
"""

from __future__ import annotations

import gc
import importlib
import pkgutil
from typing import Final

# The command line needs nothing more; everything else may run in a worker.
NOT_NEEDED: Final = ("fastmta.cli", "fastmta.__main__")
LAZY: Final = (
    "_strptime",
    "concurrent.futures.thread",
    "ctypes",
    "encodings.ascii",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.punycode",
    "encodings.utf_8_sig",
    "stringprep",
    "uvloop",
)
LAZY_PACKAGES: Final = ("dns.rdtypes.ANY", "dns.rdtypes.IN", "lmdb")
PROGRAMS: Final = ("lmdb.__main__", "lmdb.cffi", "lmdb.tool")  # of these packages, and what another build of them has


def preload() -> None:
    """Import all of it."""
    importlib.import_module("fastmta")
    for name in _modules("fastmta", NOT_NEEDED):
        importlib.import_module(name)
    for name in LAZY:
        importlib.import_module(name)
    for package in LAZY_PACKAGES:
        preload_package(package)


def preload_package(package: str) -> None:
    """Import all of a library that imports parts of itself when they are first used."""
    for name in _modules(package):
        if name not in PROGRAMS:
            importlib.import_module(name)


def freeze() -> None:
    """Collect, then exempt all that lives from collection: a collector run would unshare its pages."""
    gc.collect()
    gc.freeze()


def _modules(package: str, skip: tuple[str, ...] = ()) -> list[str]:
    """All modules of a package; those that begin with what is to be skipped are not even imported to look inside."""
    found: list[str] = []
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__, package + "."):
        if not info.name.startswith(skip or "\0"):
            found.append(info.name)
            if info.ispkg:
                found += _modules(info.name, skip)
    return found
