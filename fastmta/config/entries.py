"""What the fields and arguments of master.cf's entries say in vain; their -o settings are report.py's.

Warnings are for what treats mail otherwise than Postfix would, notes for what does not. Called by report.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from fastmta.config.mastercf import Service
from fastmta.config.served import is_disabled

# They end with an error where they get an argument that is no option.
_WITHOUT_ARGUMENTS: Final = frozenset({"smtpd", "smtp", "lmtp", "error", "discard"})


def entry_warnings(services: Iterable[Service], disabled: Sequence[str]) -> Iterator[str]:
    """A line for each field or argument that would make a difference in Postfix, and makes none here."""
    for service in services:
        if is_disabled(service, disabled):
            continue
        where = f"{service.file}, line {service.line}: {service.name}/{service.type}: "
        if service.program == "smtpd" and service.type == "inet" and service.maxproc:
            yield (
                f"{where}no effect: process limit {service.maxproc}: more than {service.maxproc} clients may be "
                "connected at a time, where Postfix lets the others wait"
            )
        if service.program in _WITHOUT_ARGUMENTS and service.args:
            yield f"{where}unexpected command-line argument: {service.args[0]}: Postfix would not run this service"
        for flag in dict.fromkeys(flag for flag in service.flags if _letters(flag) - {"v", "D"}):
            yield f"{where}no effect: {flag}"


def entry_notes(services: Sequence[Service]) -> Iterator[str]:
    """A line for each kind of field or option that changes nothing for mail, with the services that have it."""
    for title, chosen in (
        ("chroot = y: workers run as mail_owner, but not in a chroot jail", [s for s in services if s.chroot]),
        ("-v: there is no verbose log", [s for s in services if _has(s, "v")]),
        ("-D: no debugger is started", [s for s in services if _has(s, "D")]),
    ):
        if chosen:
            names = ", ".join(f"{service.name}/{service.type}" for service in chosen)
            yield f"{chosen[0].file}: no effect: {title} ({names})"


def _letters(flag: str) -> set[str]:
    return set(flag[1:]) if flag.startswith("-") else set()


def _has(service: Service, letter: str) -> bool:
    return any(letter in _letters(flag) for flag in service.flags)
