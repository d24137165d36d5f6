"""Which part of FastMTA does the work of which service of master.cf.

One program does what Postfix does with many: most services need no process of their own, and their entries say only
that the service is there, and with which settings. `fastmta check` prints this for a given file, reference.py as a
page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from fastmta.config.mastercf import Service
from fastmta.config.parameters import State


class Served(NamedTuple):
    """What becomes of the services that run a command; NO_EFFECT: the work is done, with or without the entry."""

    state: State
    by: str


_WORKERS: Final = "the worker that has the message"
COMMANDS: Final[dict[str, Served]] = {
    "smtpd": Served(State.WORKS, "the workers, which share the listening socket"),
    "smtp": Served(State.WORKS, "the workers' SMTP client"),
    "lmtp": Served(State.WORKS, "the workers' LMTP client"),
    "error": Served(State.WORKS, "the workers: bounces; under the name retry it defers"),
    "discard": Served(State.WORKS, "the workers: takes mail and forgets it"),
    "qmgr": Served(State.NO_EFFECT, "the workers' scheduler"),
    "oqmgr": Served(State.NO_EFFECT, "the workers' scheduler"),
    "cleanup": Served(State.NO_EFFECT, _WORKERS),
    "trivial-rewrite": Served(State.NO_EFFECT, _WORKERS),
    "bounce": Served(State.NO_EFFECT, f"{_WORKERS}; the reasons are in the log of the queue"),
    "showq": Served(State.NO_EFFECT, "postqueue asks the workers, and reads the queue while there are none"),
    "flush": Served(State.NO_EFFECT, "postqueue -s asks the workers"),
    "anvil": Served(State.NO_EFFECT, "counters in memory that all workers share"),
    "scache": Served(State.NO_EFFECT, "each worker keeps its connections"),
    "tlsmgr": Served(State.NO_EFFECT, "OpenSSL in each worker; it takes its randomness from the system"),
    "postlogd": Served(State.NO_EFFECT, "every process writes to maillog_file itself"),
    "proxymap": Served(State.NO_EFFECT, "the workers open tables themselves"),
    "nbdb_reindexd": Served(State.NO_EFFECT, "tables of Berkeley DB are kept as LMDB where they must"),
    "local": Served(State.NOT_YET, "mail for it waits"),
    "virtual": Served(State.NOT_YET, "mail for it waits"),
    "pipe": Served(State.NOT_YET, "mail for it waits"),
    "spawn": Served(State.NOT_YET, "nothing answers there"),
    "pickup": Served(State.NOT_YET, "there is no sendmail command"),
    "verify": Served(State.NOT_YET, "no address is probed"),
    "postscreen": Served(State.NOT_YET, "nothing answers there"),
    "dnsblog": Served(State.NOT_YET, "needed by postscreen only"),
    "tlsproxy": Served(State.NOT_YET, "needed by postscreen, and for sharing TLS connections"),
    "qmqpd": Served(State.NOT_YET, "nothing answers there"),
}
_UNKNOWN: Final = Served(State.NOT_YET, "no part of Postfix: such a program is not started")
_NO_SOCKET: Final = Served(State.NOT_YET, "nothing answers there: SMTP is accepted at inet services")
_NO_TRANSPORT: Final = Served(State.NOT_YET, "nothing answers there: transports are unix services")
_DISABLED: Final = Served(State.WORKS, "off: master_service_disable")
# Programs that deliver. Their entries, and those of smtpd, are the ones whose fields and settings are read.
TRANSPORTS: Final = frozenset({"smtp", "lmtp", "error", "discard", "local", "virtual", "pipe"})
# What the other fields of an entry do here.
FIELDS: Final[dict[str, str]] = {
    "private": "no effect: no service has a socket in the queue directory",
    "unprivileged": "no effect: workers run as mail_owner",
    "chroot": "no effect: workers are not in a chroot jail",
    "wakeup": "no effect: nothing sleeps until it is woken",
    "process limit": "deliveries of a transport at a time; -: default_process_limit. For smtpd no effect, which is "
    "reported where it is a number: a worker has many sessions, and there is no limit to those of a service "
    "(smtpd_client_connection_count_limit and the like limit those of a client)",
    "-o name=value": "as in Postfix, for smtpd and the transports: for that service, before main.cf. What works "
    "without a process of its own knows main.cf only: a setting that differs from it is reported",
    "-v, -D": "no effect, reported",
    "other arguments": "as in Postfix; reported where the program takes none",
}


def is_disabled(service: Service, disabled: Iterable[str]) -> bool:
    """Whether the patterns of master_service_disable (type, name/type, !pattern) turn a service off; the first counts.

    The old form name.type is taken, too.
    """
    names = (service.type, f"{service.name}/{service.type}", f"{service.name}.{service.type}")
    for pattern in disabled:
        if pattern.lstrip("!") in names:
            return (len(pattern) - len(pattern.lstrip("!"))) % 2 == 0
    return False


def served(service: Service, disabled: Iterable[str] = ()) -> Served:
    """What becomes of a service; disabled is master_service_disable."""
    if is_disabled(service, disabled):
        return _DISABLED
    if service.program == "smtpd" and service.type != "inet":
        return _NO_SOCKET
    if service.program in TRANSPORTS and service.type != "unix":
        return _NO_TRANSPORT
    return COMMANDS.get(service.program, _UNKNOWN)


def lines(services: Iterable[Service], disabled: Sequence[str] = ()) -> list[str]:
    """A line for each service: its name and type, its command, whether it works, and by whom."""
    rows = []
    for service in services:
        state, by = answer = served(service, disabled)
        word = "works, without a process of its own" if state is State.NO_EFFECT else state.value
        rows.append((f"{service.name}/{service.type}", service.program, by if answer is _DISABLED else f"{word}: {by}"))
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    return [f"{name:{widths[0]}}  {command:{widths[1]}}  {text}" for name, command, text in rows]
