"""From a destination to the hosts to try: MX and address lookups as Postfix's smtp_addr.c does them, with its texts
and status codes.

Called by deliver/route.py for each new connection (the answers come from the resolver's cache). `HostLookup.domain`
is for domains with mail exchangers, `HostLookup.host` for a name or address in brackets. A lookup yields `Hosts`: a
list, or none and the trouble why. Raises nothing.

RFC 5321 section 5 (location of the target host), RFC 7505 (null MX), RFC 2782 is not implemented.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from fastmta.deliver.nexthop import numeric_address
from fastmta.deliver.settings import SmtpSettings
from fastmta.deliver.trouble import Trouble
from fastmta.net.dns import Found, NoAnswer, Resolver, Status
from fastmta.net.hosts import HostsFile


class Host(msgspec.Struct, frozen=True):
    """One address to connect to. name is what the log shows; best: it is among the most preferred ones."""

    name: str
    address: str
    port: int = 0
    family: int = socket.AF_INET
    preference: int = 0
    best: bool = True

    @property
    def peer(self) -> str:
        """As "name[address]"."""
        return f"{self.name}[{self.address}]"

    @property
    def peer_port(self) -> str:
        """As "name[address]:port", for relay=."""
        return f"{self.name}[{self.address}]:{self.port}" if self.port else self.peer


class Hosts(msgspec.Struct, frozen=True):
    """Where to try, in order. myself: this system is one of the mail exchangers (then no fallback relay is tried)."""

    hosts: tuple[Host, ...]
    trouble: Trouble | None = None
    myself: bool = False


CODES: Final = {
    Status.RETRY: "4.4.3",
    Status.FAIL: "5.4.3",
    Status.INVALID: "5.4.4",
    Status.NOTFOUND: "5.4.4",
    Status.NULLMX: "5.1.0",
}


class _Search:
    """The errors of one search: a soft error is not overruled by a hard one; the last text counts."""

    def __init__(self) -> None:
        """Nothing has failed yet."""
        self.dsn = ""
        self.text = ""

    def failed(self, dsn: str, text: str) -> None:
        self.dsn = "4" + dsn[1:] if self.dsn[:1] == "4" else dsn
        self.text = text

    def trouble(self) -> Trouble:
        return Trouble(self.dsn or "4.4.4", self.text, throttle=True)


class HostLookup:
    """The lookups of one service. warn logs a warning; shuffle is random.shuffle, or a test's own."""

    def __init__(
        self,
        settings: SmtpSettings,
        resolver: Resolver,
        hosts: HostsFile,
        own_addresses: frozenset[str],
        warn: Callable[[str], None],
        shuffle: Callable[[list[Host]], None] = random.shuffle,
    ) -> None:
        """own_addresses: where this system receives mail; hosts: the file for native lookups."""
        self._settings = settings
        self._resolver = resolver
        self._file = hosts
        self._own = own_addresses
        self._warn = warn
        self._shuffle = shuffle

    async def host(self, name: str, port: int, detect_loops: bool) -> Hosts:
        """The addresses of a host."""
        search = _Search()
        found = await self._addresses(name, port, 0, search)
        if not found:
            return Hosts((), search.trouble())
        if detect_loops and any(host.address in self._own for host in found):
            return Hosts((), Trouble("5.4.6", f"mail for {name} loops back to myself", throttle=True))
        return Hosts(self._order(found))

    async def domain(self, name: str, port: int, detect_loops: bool) -> Hosts:
        """The mail exchangers of a domain, or itself where it has none."""
        settings = self._settings
        answer = await self._resolver.mx(name)
        if isinstance(answer, NoAnswer):
            ignorable = answer.status in (Status.RETRY, Status.FAIL, Status.INVALID)
            if answer.status is Status.NOTFOUND or (ignorable and settings.ignore_mx_lookup_error):
                return await self.host(name, port, detect_loops)
            return Hosts((), Trouble(CODES[answer.status], answer.text, throttle=True))
        search = _Search()
        found: list[Host] = []
        for record in answer.records:
            found += await self._addresses(record.host, port, record.preference, search)
        if not found:
            if settings.defer_if_no_mx_address_found and search.dsn[:1] == "5":
                search.dsn = "4" + search.dsn[1:]
            self._warn(f"no MX host for {name} has a valid address record")
            return Hosts((), search.trouble())
        myself = False
        if detect_loops:
            mine = [host.preference for host in found if host.address in self._own]
            if mine:
                myself = True
                best_found = found[0].preference
                found = [host for host in found if host.preference < mine[0]]
                if not found:
                    if answer.records[0].preference != best_found:
                        trouble = Trouble("4.4.4", f"unable to find primary relay for {name}", throttle=True)
                    else:
                        trouble = Trouble("5.4.6", f"mail for {name} loops back to myself", throttle=True)
                    return Hosts((), trouble, myself=True)
        return Hosts(self._order(found), myself=myself)

    async def _addresses(self, name: str, port: int, preference: int, search: _Search) -> list[Host]:
        """The addresses of one host name, or of an address."""
        settings = self._settings
        literal = numeric_address(name)
        if literal is not None and literal[0] in settings.families:
            return [Host(name, literal[1], port, literal[0], preference)]
        ways = settings.host_lookup if settings.dns_enabled else ("native",)
        if "dns" in ways:
            found, failure = await self._query(name)
            if found:
                canonical = settings.cname_overrides_servername
                return [
                    Host(alias if canonical else name, address, port, family, preference)
                    for family, address, alias in found
                ]
            search.failed(CODES[failure.status], failure.text)
            if failure.status is not Status.NOTFOUND:
                return []
        if "native" in ways:
            return await self._native(name, port, preference, search)
        return []

    async def _query(self, name: str) -> tuple[list[tuple[int, str, str]], NoAnswer]:
        """Ask for (family, address, canonical name) of all enabled families. Of several failures the worst counts, of
        equal ones the last.
        """
        found: list[tuple[int, str, str]] = []
        failure = NoAnswer(Status.NOTFOUND, "all network protocols are disabled")
        for family in self._settings.families:
            answer = await self._resolver.addresses(name, family)
            if isinstance(answer, Found):
                found += [(family, address, answer.name) for address in answer.records]
            elif answer.status >= failure.status:
                failure = answer
        return found, failure

    async def _native(self, name: str, port: int, preference: int, search: _Search) -> list[Host]:
        """As the C library would: /etc/hosts, then DNS."""
        families = self._settings.families
        found: list[tuple[int, str]] = []
        for address in self._file.addresses(name):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            if family in families:
                found.append((family, address))
        if not found:
            answers, failure = await self._query(name)
            found = [(family, address) for family, address, _alias in answers]
            if not found:
                if failure.status is Status.RETRY:
                    dsn, reason = "4.4.4", "Temporary failure in name resolution"
                elif failure.text.endswith("no data record of requested type"):
                    dsn, reason = "5.4.4", "No address associated with hostname"
                else:
                    dsn, reason = "5.4.4", "Name or service not known"
                search.failed(dsn, f"unable to look up host {name}: {reason}")
                return []
        return [Host(name, address, port, family, preference) for family, address in found]

    def _order(self, found: list[Host]) -> tuple[Host, ...]:
        """Shuffle equals, prefer a protocol family, and let neither family crowd out the other."""
        settings = self._settings
        if len(found) > 1:
            if settings.randomize_addresses:
                self._shuffle(found)
            first = {"ipv6": socket.AF_INET6, "ipv4": socket.AF_INET}.get(settings.address_preference)
            found.sort(key=lambda host: (host.preference, first is not None and host.family != first))
            if settings.balance_inet_protocols and settings.mx_address_limit > 0:
                found = balance(found, settings.mx_address_limit)
        best = found[0].preference
        return tuple(host if host.preference == best else msgspec.structs.replace(host, best=False) for host in found)


def balance(found: list[Host], limit: int) -> list[Host]:
    """Keep at most limit hosts with a fair share for each family, in order (smtp_balance_inet_protocols)."""
    v6 = sum(host.family == socket.AF_INET6 for host in found)
    v4 = len(found) - v6
    if not v4 or not v6 or v4 + v6 <= limit:
        return found
    if v6 <= limit // 2:
        keep6 = v6
        keep4 = limit - keep6
    elif v4 <= limit // 2:
        keep4 = v4
        keep6 = limit - keep4
    else:
        keep4 = (limit + (found[0].family == socket.AF_INET)) // 2
        keep6 = limit - keep4
    kept = []
    for host in found:
        if host.family == socket.AF_INET6:
            keep6 -= 1
            if keep6 >= 0:
                kept.append(host)
        else:
            keep4 -= 1
            if keep4 >= 0:
                kept.append(host)
    return kept
