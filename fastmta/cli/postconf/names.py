"""The names that postconf(1) knows: those of the table, those of the services of master.cf, and those of the user.

A name that the user made up is one that a value mentions as $name, or that smtpd_restriction_classes lists, and that
main.cf or an -o of master.cf gives a value. What is set and is none of these is "unused". Names of main.cf are seen
everywhere, those of an entry of master.cf in that entry only.

Called by __init__.py; show.py prints what is known here. Raises Fatal; warnings go to the function that is handed in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from fastmta.cli.postconf.deprecated import INSTEAD, PAGE
from fastmta.cli.postconf.entries import COMMAND, Entry
from fastmta.cli.tool import Fatal
from fastmta.config import Config, ConfigError, parameters
from fastmta.config.databases import Databases
from fastmta.config.expand import expand, scan
from fastmta.config.maincf import Definition
from fastmta.config.parameters import FAMILIES, LEGACY, Kind

Warn = Callable[[str], None]

# Classes of names, as option -C has them.
BUILTIN, SERVICE, USER, OLD = "builtin", "service", "user", "old"
# Programs whose services have parameters of their own: all of the families, and time_limit too, or only that.
_TRANSPORTS: Final = ("local", "error", "virtual", "smtp", "lmtp", "pipe")
_COMPUTED: Final = ("myhostname", "mydomain", "mynetworks")


class Name(NamedTuple):
    """What is known of a name: its class, and its default; None means that the default must be computed."""

    group: str
    default: str | None
    raw: bool = False
    read_only: bool = False


class Names:
    """All names, with the values that main.cf and master.cf give them."""

    def __init__(self, directory: str, entries: list[Entry], main: dict[str, str] | None, warn: Warn) -> None:
        """Main is None where only defaults count (-d)."""
        self.directory = directory
        self.entries = entries
        self.main = main if main is not None else {}
        self.only_defaults = main is None
        self._warn = warn
        self._computed: dict[str, str] = {}
        self.known: dict[str, Name] = {}
        for name, row in parameters.table().items():
            self.known[name] = Name(BUILTIN, None if name in _COMPUTED else row.default, row.kind is Kind.RAW)
        for name in LEGACY:
            self.known[name] = Name(OLD, "")
        self.known["config_directory"] = Name(BUILTIN, directory if main is not None else "/etc/postfix")
        self.known["process_name"] = Name(BUILTIN, "postconf", read_only=True)
        self.known["process_id"] = Name(BUILTIN, str(os.getpid()), read_only=True)
        self.known["service_name"] = Name(BUILTIN, "", read_only=True)

    # -- what adds names

    def add_services(self) -> None:
        """The parameters that each transport and each spawn(8) service has."""
        for entry in self.entries:
            service, command = entry.words[0], entry.words[COMMAND]
            if command in _TRANSPORTS:
                suffixes = [suffix for suffix in FAMILIES if suffix != "time_limit" or command == "pipe"]
            elif command == "spawn":
                suffixes = ["time_limit"]
            else:
                continue
            for suffix in suffixes:
                name = f"{service}_{suffix}"
                here = self.known.get(name)
                if here is None:
                    self.known[name] = Name(SERVICE, "$" + FAMILIES[suffix])
                elif here.group == BUILTIN:
                    self.known[name] = here._replace(group=SERVICE)

    def add_users(self, *, quiet: bool) -> None:
        """The names that values mention. quiet: nothing is said about what tables in files have in vain."""
        databases = Databases(self._warn, quiet=quiet)
        classes = self._classes(None)
        shared: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            entry.read_settings(shared)
        for entry in self.entries:
            if entry.settings is not None:
                for name in self._classes(entry):
                    self._use(name, entry)
                entry.valid |= entry.settings.keys() & set(classes)
                self._scan(entry.settings, entry)
        for name, known in list(self.known.items()):
            if not known.raw and name not in self.main and "$" in (known.default or ""):
                self._mention(known.default or "", None)
        for name in classes:
            self._use(name, None)
        self._scan(self.main, None)
        self._add_tables(databases)

    def _add_tables(self, databases: Databases) -> None:
        """The parameters of the tables in values; what the user's own names stand for is seen where they are used."""
        scopes = [*((entry, entry.settings) for entry in self.entries if entry.settings), (None, self.main)]
        for entry, settings in scopes:
            classes = {*self._classes(None), *self._classes(entry)}
            for name, value in list(settings.items()):
                known = self.known.get(name)
                if name in classes or (known is not None and known.group != USER and not known.raw):
                    databases.find(self.expand(value, entry), self._file(entry), self._user_of(entry))

    def _user_of(self, entry: Entry | None) -> Callable[[str], None]:
        return lambda name: self._use(name, entry, complain=False)

    def _is_used(self, name: str, entry: Entry | None) -> bool:
        return name in self.known or (entry is not None and name in entry.valid)

    def _classes(self, entry: Entry | None) -> tuple[str, ...]:
        """The restriction classes that a file, or an entry, lists."""
        settings = self.main if entry is None else entry.settings or {}
        text = settings.get("smtpd_restriction_classes")
        # braces mean nothing here
        return tuple(expand(text, settings.get).text.replace(",", " ").split()) if text else ()

    def _scan(self, settings: dict[str, str], entry: Entry | None) -> None:
        """Look at all values of a file or of an entry."""
        for name, value in list(settings.items()):
            known = self.known.get(name)
            if known is not None:
                if known.read_only:
                    self._warn(f"{self._file(entry)}: read-only parameter assignment: {name}={value}")
                    del settings[name]
                    continue
                if known.group == OLD:
                    self.known[name] = known._replace(group=USER)
                if known.raw:
                    continue
            self._mention(value, entry)

    def _mention(self, value: str, entry: Entry | None) -> None:
        problem = scan(value, lambda name: self._use(name, entry))
        if problem:
            self._warn(problem)

    def _use(self, name: str, entry: Entry | None, *, complain: bool = True) -> None:
        """Something uses a name: where it has a value, that value is not in vain."""
        found = False
        if entry is not None and entry.settings and name in entry.settings:
            entry.valid.add(name)
            found = True
        elif name in self.main:
            self.known.setdefault(name, Name(USER, ""))
            found = True
        if entry is None:
            for other in self.entries:
                if other.settings and name in other.settings:
                    other.valid.add(name)
                    found = True
        if complain and not found and name not in self.known:
            self._warn(f"{self._file(entry)}: undefined parameter: {name}")

    def _file(self, entry: Entry | None) -> str:
        return f"{self.directory}/{'main.cf' if entry is None else 'master.cf'}"

    # -- values

    def default(self, name: str) -> str | None:
        """A default as it is written, None where there is no such name."""
        known = self.known.get(name)
        if known is None:
            return None
        if known.default is None:
            return self._compute(name)
        return known.default

    def value(self, name: str, entry: Entry | None = None, *, only_set: bool = False) -> str | None:
        """A value as it is written: of the entry, of main.cf, or (unless only_set) the default."""
        if entry is not None:
            found = entry.read_only.get(name)
            if found is None and entry.settings is not None:
                found = entry.settings.get(name)
            if found is not None:
                return found
        if not self.only_defaults and name in self.main:
            return self.main[name]
        return None if only_set else self.default(name)

    def expand(self, text: str, entry: Entry | None = None) -> str:
        """Text with every $name expanded. Raises Fatal where the syntax is wrong."""
        if "$" not in text:
            return text
        result = expand(text, lambda name: self.value(name, entry))
        if result.error:
            self._warn(result.error)
            raise Fatal("macro processing error")
        return result.text

    def _compute(self, name: str) -> str:
        """A default that comes from the machine."""
        if name not in self._computed:
            settings: Mapping[str, Definition] = {
                key: Definition(value, "", 0) for key, value in self.main.items() if key not in parameters.READ_ONLY
            }
            config = Config(Path(self.directory), {key: value for key, value in settings.items() if key != name})
            try:
                self._computed[name] = config.expand(config.get_raw(name))
            except ConfigError as error:
                raise Fatal(error.message) from None
        return self._computed[name]

    # -- what is in vain

    def unused(self, *, main: bool) -> list[str]:
        """A warning for each setting of master.cf (and of main.cf) that nothing uses, or whose name is of the past."""
        lines: list[str] = []
        if main:
            lines += self._unused(self.main, None)
        for entry in self.entries:
            lines += self._unused(entry.settings or {}, entry)
        if any("support for parameter" in line for line in lines):
            lines.append(f"See {PAGE} for details")
        return lines

    def _unused(self, settings: dict[str, str], entry: Entry | None) -> list[str]:
        lines: list[str] = []
        for name, value in settings.items():
            instead = INSTEAD.get(name)
            used = self._is_used(name, entry)
            if instead is not None:
                what = "will be removed" if used else "has been removed"
                lines.append(f'{self._file(entry)}: support for parameter "{name}" {what}; instead, {instead}')
            elif not used:
                lines.append(f"{self._file(entry)}: unused parameter: {name}={value}")
        return lines
