"""The configuration: main.cf and master.cf with the defaults, immutable, handed to every part of the program at load.

`load` reads and checks; getters give typed values with every $name expanded; `for_service` gives a service its own view
with its -o settings. Whoever needs parameters reads them once, into a settings struct of its own: a getter costs
microseconds and is not for the hot path. A Config can be pickled and lives through a fork. Getters raise ConfigError
with file, line and parameter (or KeyError for a name that exists nowhere: a bug).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from fastmta.config import machine, parameters, values
from fastmta.config.errors import ConfigError
from fastmta.config.expand import compatibility_level, expand
from fastmta.config.maincf import Definition, read_main_cf
from fastmta.config.mastercf import Service, read_master_cf
from fastmta.config.parameters import Kind, Parameter

_T = TypeVar("_T")
_DERIVED = frozenset({"myhostname", "mydomain", "mynetworks"})


class Config:
    """Values by name, made by load(). services: those of master.cf; warnings: what Postfix would warn about."""

    __slots__ = ("_definitions", "_deriving", "_expanded", "_service", "directory", "services", "warnings")

    def __init__(
        self,
        directory: Path,
        definitions: Mapping[str, Definition],
        services: tuple[Service, ...] = (),
        warnings: tuple[str, ...] = (),
        service: Service | None = None,
    ) -> None:
        """definitions are those of main.cf, with the service's own on top of them."""
        self.directory = directory
        self.services = services
        self.warnings = warnings
        self._definitions = definitions
        self._service = service
        self._expanded: dict[str, str] = {}
        self._deriving: list[str] = []  # the defaults that are being made

    # -- text

    def get_raw(self, name: str) -> str:
        """The value as written, or the default, without expansion."""
        value = self._lookup(name)
        if value is None:
            raise KeyError(name)
        return value

    def get_str(self, name: str) -> str:
        """The value with $name expanded; for a RAW parameter as written."""
        value = self._expanded.get(name)
        if value is None:
            row = parameters.find(name)
            raw = self.get_raw(name)
            value = raw if row is not None and row.kind is Kind.RAW else self.expand(raw, name)
            if row is not None and row.kind in (Kind.STR, Kind.RAW, Kind.LIST):
                self._convert(name, values.check_length, name, value, row.low, row.high)
            self._expanded[name] = value
        return value

    def get_list(self, name: str) -> tuple[str, ...]:
        """The value split at commas and blanks; { text } stays one item, with its braces."""
        return values.to_list(self.get_str(name))

    def expand(self, text: str, name: str = "") -> str:
        """Any text with $name expanded; name is the parameter to blame for an error."""
        if "$" not in text:
            return text
        result = expand(text, self._lookup)
        if result.error:
            file, line = self.where(name)
            raise ConfigError(file, line, name, result.error)
        return result.text

    # -- numbers

    def get_int(self, name: str) -> int:
        """A number within the parameter's bounds, and within those of Postfix's type for it."""
        row = self._row(name)
        limit = values.LONG_MAX if row.kind is Kind.SIZE else values.INT_MAX
        return self._convert(name, values.to_int, name, self.get_str(name), row.low, row.high, limit)

    def get_size(self, name: str) -> int:
        """A number of bytes, up to 2**63 - 1. No units, as in Postfix."""
        row = self._row(name)
        return self._convert(name, values.to_int, name, self.get_str(name), row.low, row.high, values.LONG_MAX)

    def get_bool(self, name: str) -> bool:
        """yes or no."""
        return self._convert(name, values.to_bool, name, self.get_str(name))

    def get_time(self, name: str) -> float:
        """Seconds. A value without unit has that of the parameter's default."""
        row = self._row(name)
        unit = values.time_unit(self._base(row).default)
        return self._convert(name, values.to_seconds, name, self.get_str(name), unit, row.low, row.high)

    # -- the families of parameters that every transport has

    def transport_str(self, transport: str, suffix: str) -> str:
        """TRANSPORT_suffix where suffix is one of parameters.FAMILIES, else the parameter called suffix."""
        return self.get_str(self._transport_name(transport, suffix))

    def transport_int(self, transport: str, suffix: str) -> int:
        """The same as a number."""
        return self.get_int(self._transport_name(transport, suffix))

    def transport_time(self, transport: str, suffix: str) -> float:
        """The same in seconds."""
        return self.get_time(self._transport_name(transport, suffix))

    def _transport_name(self, transport: str, suffix: str) -> str:
        return f"{transport}_{suffix}" if suffix in parameters.FAMILIES else suffix

    # -- views

    def for_service(self, service: Service) -> Config:
        """What a service of master.cf sees: its -o settings on top, and its $service_name and $process_name."""
        definitions = dict(self._definitions)
        for name, value in service.options:
            definitions[name] = Definition(value, service.file, service.line)
        return Config(self.directory, definitions, self.services, self.warnings, service)

    def with_values(self, settings: Mapping[str, str]) -> Config:
        """The same with some parameters set otherwise, as if by -o on a command line; {"stress": "yes"} for one."""
        definitions = {**self._definitions, **{name: Definition(value, "", 0) for name, value in settings.items()}}
        return Config(self.directory, definitions, self.services, self.warnings, self._service)

    def where(self, name: str) -> tuple[str, int]:
        """File and line of a parameter's definition; ("", 0) for a default."""
        definition = self._definitions.get(name)
        return (definition.file, definition.line) if definition is not None else ("", 0)

    def is_set(self, name: str) -> bool:
        """Whether a file (or an -o) sets the parameter."""
        return name in self._definitions

    def definitions(self) -> Mapping[str, Definition]:
        """What the files set, by name, in their order."""
        return self._definitions

    def report(self) -> list[str]:
        """What is set in vain: unknown, unused, not supported yet. One line each, with file and line."""
        from fastmta.config.report import report

        return report(self).warnings

    def notes(self) -> list[str]:
        """What is set and has no effect here without any difference to mail. One line each."""
        from fastmta.config.report import report

        return report(self).notes

    # -- networks

    def families(self) -> tuple[socket.AddressFamily, ...]:
        """The address families of inet_protocols that this system has, IPv4 first."""
        known = {"all": (socket.AF_INET, socket.AF_INET6), "ipv4": (socket.AF_INET,), "ipv6": (socket.AF_INET6,)}
        wanted: set[socket.AddressFamily] = set()
        for word in self.get_list("inet_protocols"):
            if word not in known:
                file, line = self.where("inet_protocols")
                raise ConfigError(
                    file, line, "inet_protocols", f'unknown inet_protocols value "{word}": specify all, ipv4 or ipv6'
                )
            wanted.update(known[word])
        return tuple(family for family in (socket.AF_INET, socket.AF_INET6) if family in wanted and _has_family(family))

    def own_interfaces(self) -> tuple[machine.Interface, ...]:
        """The addresses on which we get mail (inet_interfaces, inet_protocols), with their masks."""
        families = self.families()
        local = [interface for interface in machine.interfaces() if interface.family in families]
        names = self.get_list("inet_interfaces")
        if names == ("all",):
            return tuple(local)
        if names == ("loopback-only",):
            return tuple(interface for interface in local if interface.is_loopback)
        by_address = {(interface.family, interface.address): interface for interface in local}
        found: dict[machine.Interface, None] = {}
        for family, address in self._resolve("inet_interfaces", names, families):
            interface = by_address.get((family, address))
            if interface is None:
                file, line = self.where("inet_interfaces")
                text = socket.inet_ntop(family, address)
                raise ConfigError(file, line, "inet_interfaces", f"no local interface found for {text}")
            found[interface] = None
        return tuple(sorted(found))

    def own_addresses(self) -> tuple[str, ...]:
        """Those addresses, and those of proxy_interfaces, as text: mail for them is for us."""
        proxies = self._resolve("proxy_interfaces", self.get_list("proxy_interfaces"), self.families())
        own = [interface.text for interface in self.own_interfaces()]
        return tuple(dict.fromkeys(own + [socket.inet_ntop(family, address) for family, address in proxies]))

    def listen_addresses(self) -> tuple[str, ...]:
        """Where an inet service without a host listens: the wildcards for inet_interfaces = all, else own addresses."""
        if self.get_list("inet_interfaces") == ("all",):
            return tuple("0.0.0.0" if family == socket.AF_INET else "::" for family in self.families())
        return tuple(interface.text for interface in self.own_interfaces())

    def _resolve(
        self, parameter: str, names: Iterable[str], families: tuple[socket.AddressFamily, ...]
    ) -> list[tuple[socket.AddressFamily, bytes]]:
        """Addresses and host names as addresses, in order, each once."""
        found: dict[tuple[socket.AddressFamily, bytes], None] = {}
        for name in names:
            host = name[1:-1] if name.startswith("[") and name.endswith("]") else name
            try:
                answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            except OSError:
                file, line = self.where(parameter)
                raise ConfigError(
                    file, line, parameter, f"config variable {parameter}: host not found: {name}"
                ) from None
            for family, _, _, _, sockaddr in answers:
                if family in families:
                    found[family, socket.inet_pton(family, str(sockaddr[0]).partition("%")[0])] = None
        return list(found)

    # -- names used all over

    @property
    def myhostname(self) -> str:
        """$myhostname."""
        return self.get_str("myhostname")

    @property
    def mydomain(self) -> str:
        """$mydomain."""
        return self.get_str("mydomain")

    @property
    def myorigin(self) -> str:
        """$myorigin."""
        return self.get_str("myorigin")

    @property
    def queue_directory(self) -> Path:
        """$queue_directory."""
        return Path(self.get_str("queue_directory"))

    # -- how a value is found

    def _lookup(self, name: str) -> str | None:
        if name in parameters.READ_ONLY:
            return self._read_only(name)
        definition = self._definitions.get(name)
        if definition is not None:
            return definition.value
        if name in _DERIVED:
            if name in self._deriving:
                raise ConfigError(*self._loop(), name, f"the default of {name} depends on itself")
            self._deriving.append(name)
            try:
                return self._derived(name)
            finally:
                self._deriving.pop()
        row = parameters.find(name)
        return row.default if row is not None else None

    def _loop(self) -> tuple[str, int]:
        """Where the first of the settings that defaults are made of is set."""
        sources = ("mydomain", "myhostname", "inet_interfaces", "mynetworks_style", "inet_protocols")
        return next((self.where(name) for name in sources if self.is_set(name)), ("", 0))

    def _read_only(self, name: str) -> str:
        if name == "config_directory":
            return str(self.directory)
        if name == "process_id":
            return str(os.getpid())
        if self._service is None:
            return "fastmta" if name == "process_name" else ""
        return self._service.command if name == "process_name" else self._service.name

    def _derived(self, name: str) -> str:
        """Defaults that come from the machine, or from each other. A dollar sign in them is data."""
        if name == "mydomain":
            _, dot, domain = self.get_str("myhostname").partition(".")
            text = domain if dot else "localdomain"
        elif name == "myhostname":
            text = machine.hostname()
            if "." not in text:
                text += "." + (self.get_str("mydomain") if self.is_set("mydomain") else "localdomain")
        else:
            text = self._mynetworks()
        return text.replace("$", "$$")

    def _mynetworks(self) -> str:
        style = self.get_str("mynetworks_style")
        file, line = self.where("mynetworks_style")
        if style not in ("class", "subnet", "host"):
            raise ConfigError(
                file, line, "mynetworks_style", f"bad mynetworks_style value: {style}; specify class, subnet or host"
            )
        try:
            patterns = [machine.network_pattern(interface, style) for interface in self.own_interfaces()]
        except ValueError as error:
            raise ConfigError(file, line, "mynetworks_style", str(error)) from None
        return " ".join(dict.fromkeys(patterns))

    # -- checking

    def check(self, *names: str) -> None:
        """Read every value that is set, or those of some names, so that an error is found at load. Raises the first."""
        for name in names or self._definitions:
            self._check(name)

    def errors(self, names: Iterable[str] | None = None) -> list[ConfigError]:
        """All errors in the values that are set, or in those of some names."""
        found: list[ConfigError] = []
        for name in self._definitions if names is None else names:
            try:
                self._check(name)
            except ConfigError as error:
                found.append(error)
        return found

    def _check(self, name: str) -> None:
        row = parameters.find(name)
        if name == "compatibility_level":  # defaults of others are made of it
            self._convert(name, compatibility_level, self.get_str(name))
        elif row is None or row.kind in (Kind.STR, Kind.LIST):
            self.get_str(name)
        elif row.kind is Kind.INT:
            self.get_int(name)
        elif row.kind is Kind.SIZE:
            self.get_size(name)
        elif row.kind is Kind.BOOL:
            self.get_bool(name)
        elif row.kind is Kind.TIME:
            self.get_time(name)

    def _row(self, name: str) -> Parameter:
        row = parameters.find(name)
        if row is None:
            raise KeyError(name)
        return row

    def _base(self, row: Parameter) -> Parameter:
        """The row whose default has the unit: for TRANSPORT_suffix that of its family."""
        base = parameters.find(row.default[1:]) if row.default.startswith("$") else None
        return base or row

    def _convert(self, name: str, convert: Callable[..., _T], *arguments: object) -> _T:
        try:
            return convert(*arguments)
        except ValueError as error:
            file, line = self.where(name)
            raise ConfigError(file, line, name, str(error)) from None


def load(directory: Path | str, *, services: bool = True) -> Config:
    """Read and check a folder's main.cf and, unless services is False (for commands that do without), master.cf."""
    config = _read(Path(directory), services=services)
    config.check()
    for entry in config.services:
        if entry.options:
            config.for_service(entry).check()
    return config


def load_errors(directory: Path | str) -> list[ConfigError]:
    """All that keeps a folder from being loaded, where `load` tells the first; of a syntax error only that."""
    try:
        config = _read(Path(directory), services=True)
    except ConfigError as error:
        return [error]
    found = config.errors()
    for entry in config.services:
        found += config.for_service(entry).errors(dict(entry.options))
    return found


def _read(folder: Path, *, services: bool) -> Config:
    warnings: list[str] = []
    definitions = read_main_cf(folder / "main.cf", warnings)
    for name in parameters.READ_ONLY & definitions.keys():
        definition = definitions.pop(name)
        warnings.append(
            f"{definition.file}, line {definition.line}: read-only parameter assignment: {name}={definition.value}"
        )
    entries: tuple[Service, ...] = ()
    if services:
        entries = read_master_cf(folder / "master.cf", warnings, _chroot_default(Config(folder, definitions)))
    return Config(folder, definitions, entries, tuple(warnings))


def find_directory(option: str | None = None) -> Path:
    """The configuration's folder: option -c, else $MAIL_CONFIG, else /etc/fastmta if there, else /etc/postfix."""
    if option:
        return Path(option)
    environment = os.environ.get("MAIL_CONFIG")
    if environment:
        return Path(environment)
    own = Path("/etc/fastmta")
    return own if own.is_dir() else Path("/etc/postfix")


def _chroot_default(config: Config) -> bool:
    """Before compatibility level 1, "-" in the chroot field meant yes."""
    config.check("compatibility_level")
    return compatibility_level(config.get_str("compatibility_level")) < (1, 0, 0)


def _has_family(family: socket.AddressFamily) -> bool:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True
