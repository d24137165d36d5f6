"""`fastmta check`: everything that is wrong with the configuration, the permissions and the queue directory.

    fastmta check                what becomes of each service of master.cf, and what will not be as with Postfix
    fastmta check --coverage     how many of Postfix's parameters work, have no effect here, or are not supported yet

`problems` are what the mail system would not start with, `warnings` what it would live with: settings that are not
supported yet or in vain, and files that others could change. `fastmta start` prints the warnings, too. Notes, which
only `check` prints, name what is set and makes no difference to mail.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastmta.access import restrictions
from fastmta.cli import script
from fastmta.config import ConfigError, environment, load, load_errors, reference, served
from fastmta.config.parameters import State
from fastmta.deliver.settings import read_settings
from fastmta.master.generation import plan
from fastmta.master.identity import IdentityError
from fastmta.master.sockets import service_endpoints, smtpd_services
from fastmta.net.tls import TlsError, client_context, server_context
from fastmta.qmgr.settings import TransportRules
from fastmta.smtpd import settings as smtpd_settings
from fastmta.tables import matchlist

if TYPE_CHECKING:
    from fastmta.config import Config, Service

# What every worker makes a list of.
MATCHLISTS: Final = ("mydestination", "relay_domains", "mynetworks")


def main(directory: Path, arguments: list[str]) -> int:
    """Print all of it; exit status 1 when the mail system would not start."""
    if arguments == ["--coverage"]:
        print("\n".join(reference.coverage()))
        return 0
    if arguments:
        return script.fatal(f"usage: fastmta check [--coverage], not {arguments[0]}")
    try:
        config = load(directory)
    except (ConfigError, OSError) as error:
        found = [str(error) for error in load_errors(directory)] if isinstance(error, ConfigError) else [str(error)]
        for problem in found:
            script.fatal(problem)
        print(_would_not_start(len(found)))
        return 1
    disabled = config.get_list("master_service_disable")
    for line in served.lines(config.services, disabled):
        print(line)
    sys.stdout.flush()
    for line in config.notes():
        script.note(line)
    warned = warnings(directory, config)
    for line in warned:
        script.warning(line)
    found = problems(directory, config)
    for problem in found:
        script.fatal(problem)
    print(verdict(config, len(warned), len(found)))
    return 1 if found else 0


def verdict(config: Config, warned: int, found: int) -> str:
    """The answer in one line."""
    if found:
        return _would_not_start(found)
    disabled = config.get_list("master_service_disable")
    missing = sum(served.served(service, disabled).state is State.NOT_YET for service in config.services)
    if not warned and not missing:
        return "This will behave as with Postfix."
    parts = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in ((warned, "warning"), (missing, "service"))
        if count
    ]
    return f"What is named above will not be as with Postfix ({' and '.join(parts)}); the rest will be."


def _would_not_start(errors: int) -> str:
    return f"The mail system would not start: {errors} error{'s' if errors > 1 else ''}."


def warn(directory: Path, config: Config) -> None:
    """Print the warnings, and which services are not served: check prints a list of these."""
    for line in [*warnings(directory, config), *unanswered(config)]:
        script.warning(line)


def warnings(directory: Path, config: Config) -> list[str]:
    """What the mail system lives with."""
    lines = [*config.warnings, *config.report()]
    for service in smtpd_services(config):
        lines += [line for line in restrictions.report(config.for_service(service)) if line not in lines]
    for name in MATCHLISTS:
        lines += _of_matchlist(config, name)
    owners = {0, os.geteuid()}
    for path in (directory, directory / "main.cf", directory / "master.cf"):
        lines += _exposed(path, owners)
    queue_directory = config.queue_directory
    for path in (queue_directory, queue_directory / "pid"):
        if path.exists():
            lines += _exposed(path, owners)
    return lines


def unanswered(config: Config) -> list[str]:
    """Services that clients would look for in vain."""
    disabled = config.get_list("master_service_disable")
    return [
        f"{service.file}, line {service.line}: not supported yet: {service.program} at {service.name}/{service.type}:"
        " nothing answers there"
        for service in config.services
        if service.type in ("inet", "pass") and served.served(service, disabled).state is State.NOT_YET
    ]


def problems(directory: Path, config: Config) -> list[str]:
    """What the mail system would not start with."""
    found: list[str] = []
    try:
        generation = plan(1, config, directory)
        generation.identity.must_reach(generation.queue_directory)
    except (ConfigError, IdentityError) as error:
        found.append(str(error))
    try:
        environment.imported(config, {})
        environment.exported(config, {})
    except ConfigError as error:
        found.append(str(error))
    for service in smtpd_services(config):
        try:
            service_endpoints(service, config)
            restrictions.check_relay_guard(config.for_service(service))
            smtpd_settings.check(config.for_service(service))
        except ConfigError as error:
            found.append(str(error))
    for name in MATCHLISTS:
        try:
            matchlist.for_parameter(config, name)
        except ConfigError as error:
            found.append(str(error))
    for service in config.services:
        try:
            _check_transport(service, config)
        except ConfigError as error:
            found.append(str(error))
    queue_directory = config.queue_directory
    if not _can_make(queue_directory):
        found.append(f"no permission to write to {queue_directory}")
    return list(dict.fromkeys(found))


def _check_transport(service: Service, config: Config) -> None:
    """Raise what a worker would end with that reads this service."""
    own = config.for_service(service)
    try:
        if service.type == "unix":
            TransportRules.read(config, service)
            if service.program in ("smtp", "lmtp") and read_settings(own, service.program).tls_level != "none":
                client_context(own, service.program)
        elif (
            service.type == "inet"
            and service.program == "smtpd"
            and smtpd_settings.tls_level(own) != smtpd_settings.TLS_NONE
        ):
            server_context(own)
    except TlsError as error:
        raise ConfigError(*own.where(error.parameter), error.parameter, str(error)) from None


def _of_matchlist(config: Config, name: str) -> list[str]:
    """What is odd in the files that a list names; the value itself is looked at by report."""
    try:
        return [line for line in matchlist.for_parameter(config, name).warnings if not line.startswith("#")]
    except ConfigError:
        return []  # one of the problems


def _exposed(path: Path, owners: set[int]) -> list[str]:
    """postfix-script's two warnings: an owner who is neither root nor the caller, and modes that let others write."""
    found = path.stat()
    lines = []
    if found.st_uid not in owners:
        lines.append(f"not owned by root: {path}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        lines.append(f"group or other writable: {path}")
    return lines


def _can_make(path: Path) -> bool:
    """Whether the folder is there and ours to write to, or its nearest parent is."""
    while not path.exists():
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
