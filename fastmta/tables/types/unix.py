"""unix: the accounts and groups of the machine: unix:passwd.byname, unix:group.byname (DATABASE_README)."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Callable

from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail
from fastmta.tables.source import fold_key


def _passwd(name: str) -> str:
    entry = pwd.getpwnam(name)
    return ":".join(str(field) for field in entry)


def _group(name: str) -> str:
    entry = grp.getgrnam(name)
    return f"{entry.gr_name}:{entry.gr_passwd}:{entry.gr_gid}:{','.join(entry.gr_mem)}"


_MAPS = {"passwd.byname": _passwd, "group.byname": _group}


class UnixTable(Table):
    """One open table."""

    def __init__(self, name: str, find: Callable[[str], str], flags: Flags, context: Context) -> None:
        """find raises KeyError for a name that is not there."""
        self.name = name
        self.find = find
        self.flags = flags
        self.context = context

    def get(self, key: str) -> str | None:
        """The line of a name, as in passwd(5) or group(5)."""
        folded = fold_key(self.name, key, self.flags.fold_fixed, self.flags, self.context)
        if folded is None or "\0" in folded:
            return None
        try:
            return self.find(folded)
        except KeyError:
            return None
        except OSError as error:
            raise TempFail(f"{self.name}: {error.strerror}") from None

    def close(self) -> None:
        """Nothing is held open."""


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open unix:name. Raises TableError."""
    find = _MAPS.get(name)
    if find is None:
        raise TableError(f"unknown table: unix:{name}")
    return UnixTable(f"unix:{name}", find, flags, context)
