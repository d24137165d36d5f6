"""What a configuration sets in vain: said once at start and by `fastmta check`, so that nothing is ignored silently.

A name that Postfix does not know either is "unused", as postconf(1) says it, unless the value of another parameter
mentions it as $name, smtpd_restriction_classes lists it, or it is an option of a table that a value names, as
accounts_search_base is of ldap:accounts. Called by Config.report.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastmta.config import parameters
from fastmta.config.databases import Databases
from fastmta.config.expand import names_in
from fastmta.config.maincf import Definition
from fastmta.config.parameters import FAMILIES, READ_ONLY, Kind, Parameter, State

if TYPE_CHECKING:
    from fastmta.config.configuration import Config


def report(config: Config) -> list[str]:
    """One line for each setting of main.cf and each -o of master.cf that has no effect, in the order of the files."""
    found: dict[str, None] = {}
    tables = Databases(lambda line: found.setdefault(line))
    mentioned = _mentioned(config) | _of_tables(config, config.definitions(), tables)
    for name, definition in config.definitions().items():
        _add(found, config, name, definition, mentioned)
    for service in config.services:
        view = config.for_service(service)
        own = {name: Definition(value, service.file, service.line) for name, value in service.options}
        mentioned_here = mentioned | _names(own) | _of_tables(view, own, tables)
        for name, definition in own.items():
            _add(found, view, name, definition, mentioned_here, f"{service.name}/{service.type}: ")
    return list(found)


def _add(
    found: dict[str, None], config: Config, name: str, definition: Definition, mentioned: set[str], service: str = ""
) -> None:
    # An empty value switches a feature off: where we have none, that is what one gets.
    where = f"{definition.file}, line {definition.line}: {service}"
    row = _row(config, name)
    if row is None:
        if name not in mentioned:
            text = "read-only parameter assignment" if name in READ_ONLY else "unused parameter"
            found[f"{where}{text}: {name}={definition.value}"] = None
    elif row.state is not State.WORKS and definition.value and not _is_default(config, row):
        reason = f" ({row.doc})" if row.state is State.NO_EFFECT else ""
        found[f"{where}{row.state.value}: {name}={definition.value}{reason}"] = None


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
        if ":" in definition.value and not _is_raw(config, name):
            tables.find(config.expand(definition.value, name), definition.file, names.add)
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
