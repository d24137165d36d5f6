"""What a configuration sets in vain: said once at start and by `fastmta check`, so that nothing is ignored silently.

What makes a difference to mail is a warning; what makes none is a note, which only `fastmta check` prints.

A name that Postfix does not know either is "unused", as postconf(1) says it, unless the value of another parameter
mentions it as $name, smtpd_restriction_classes lists it, or it is an option of a table that a value names, as
accounts_search_base is of ldap:accounts. Called by Config.report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from fastmta.config import parameters
from fastmta.config.databases import Databases
from fastmta.config.entries import entry_notes, entry_warnings
from fastmta.config.expand import names_in
from fastmta.config.maincf import Definition
from fastmta.config.parameters import FAMILIES, READ_ONLY, Kind, Parameter, State
from fastmta.config.served import is_disabled, served

if TYPE_CHECKING:
    from fastmta.config.configuration import Config


class Report(NamedTuple):
    """warnings: mail is treated otherwise than the setting says; notes: it makes no difference to mail."""

    warnings: list[str]
    notes: list[str]


class _Lines:
    """Lines in their order, each once."""

    def __init__(self) -> None:
        self.warnings: dict[str, None] = {}
        self.notes: dict[str, None] = {}

    def warn(self, line: str) -> None:
        self.warnings.setdefault(line)


def report(config: Config) -> Report:
    """A line for each setting of main.cf and each -o of master.cf that is set in vain, in the order of the files."""
    found = _Lines()
    tables = Databases(found.warn, report=True)
    mentioned = _mentioned(config) | _of_tables(config, config.definitions(), tables)
    for name, definition in config.definitions().items():
        _add(found, config, name, definition, mentioned)
    disabled = config.get_list("master_service_disable")
    for service in config.services:
        view = config.for_service(service)
        own = {name: Definition(value, service.file, service.line) for name, value in service.options}
        mentioned_here = mentioned | _names(own) | _of_tables(view, own, tables)
        prefix = f"{service.name}/{service.type}: "
        state = State.NO_EFFECT if is_disabled(service, disabled) else served(service).state
        for name, definition in own.items():
            if state is State.WORKS or _row(view, name) is None:
                _add(found, view, name, definition, mentioned_here, prefix)
            elif state is State.NO_EFFECT and not is_disabled(service, disabled):
                _add_unread(found, config, view, name, definition, prefix, service.program)
    for line in entry_warnings(config.services, disabled):
        found.warn(line)
    return Report(list(found.warnings), [*found.notes, *entry_notes(config.services)])


def _add(
    found: _Lines, config: Config, name: str, definition: Definition, mentioned: set[str], service: str = ""
) -> None:
    where = f"{definition.file}, line {definition.line}: {service}"
    row = _row(config, name)
    if row is None:
        if name not in mentioned:
            text = "read-only parameter assignment" if name in READ_ONLY else "unused parameter"
            found.warn(f"{where}{text}: {name}={definition.value}")
    # An empty value switches a feature off: where we have none, that is what one gets.
    elif row.state is State.NOT_YET and definition.value and not _is_default(config, row):
        found.warn(f"{where}{row.state.value}: {name}={_shown(definition)}")
    elif row.state is State.NO_EFFECT and not _is_default(config, row):
        found.notes[f"{where}{row.state.value}: {name}={_shown(definition)} ({row.doc})"] = None


def _shown(definition: Definition) -> str:
    return " ".join(definition.value.split())


def _add_unread(
    found: _Lines, main: Config, view: Config, name: str, definition: Definition, service: str, program: str
) -> None:
    """A setting of a service without a process of its own: in vain, where it differs from main.cf."""
    row = _row(view, name)
    if row is None or row.state is State.NO_EFFECT:
        return
    same = row.kind is Kind.RAW or view.get_str(name).split() == main.get_str(name).split()
    if not same:
        found.warn(
            f"{definition.file}, line {definition.line}: {service}no effect: {name}={_shown(definition)} "
            f"({program} has no process of its own: main.cf alone counts)"
        )


def _row(config: Config, name: str) -> Parameter | None:
    """The parameter; of a per-transport family only where master.cf has that transport."""
    row = parameters.rows().get(name) or parameters.unread().get(name)
    if row is not None or name in READ_ONLY:
        return row if name not in READ_ONLY else None
    for service in config.services:
        if service.type == "unix" and name.startswith(service.name + "_"):
            suffix = name[len(service.name) + 1 :]
            if suffix in FAMILIES:
                row = parameters.family_member(name)
                if row is not None:
                    return row
    return None


def _is_default(config: Config, row: Parameter) -> bool:
    if row.kind is Kind.RAW:
        return config.get_raw(row.name) == row.default
    return config.get_str(row.name).split() == config.expand(row.default, row.name).split()


def _mentioned(config: Config) -> set[str]:
    """Names that any value, any -o or any default of Postfix mentions, and restriction classes."""
    names = _names(config.definitions())
    for service in config.services:
        names |= _names({name: Definition(value, "", 0) for name, value in service.options})
    for name, row in parameters.table().items():
        if "$" in row.default and not config.is_set(name):
            names |= names_in(row.default)
    names.update(config.get_list("smtpd_restriction_classes"))
    return names


def _of_tables(config: Config, definitions: Mapping[str, Definition], tables: Databases) -> set[str]:
    """The options of the tables that values name, whatever their types can do here."""
    names: set[str] = set()
    for name, definition in definitions.items():
        value = definition.value
        if name in READ_ONLY or _is_raw(config, name) or not any(character in value for character in ":#$"):
            continue
        tables.find(config.expand(value, name), f"{definition.file}, line {definition.line}", names.add)
    return names


def _is_raw(config: Config, name: str) -> bool:
    row = _row(config, name)
    return row is not None and row.kind is Kind.RAW


def _names(definitions: Mapping[str, Definition]) -> set[str]:
    names: set[str] = set()
    for definition in definitions.values():
        if "$" in definition.value:
            names |= names_in(definition.value)
    return names
