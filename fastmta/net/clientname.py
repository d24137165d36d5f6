"""The name of an SMTP client: what its address resolves to, believed only if that name resolves to the address.

Called by smtpd/ when a client connects: `cached` first, `lookup` where that says None. /etc/hosts is asked before
DNS, as the native name service does. Warnings are returned, not logged. Raises nothing. Postfix smtpd_peer.c;
smtpd_peername_lookup in postconf(5).
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from fastmta.address.hostname import valid_utf8_hostname
from fastmta.net.dns import Found, Resolver, Status
from fastmta.net.hosts import HostsFile

UNKNOWN: Final = "unknown"
OK: Final = 2  # the name is verified
TEMP: Final = 4  # a lookup failed for now
PERM: Final = 5  # there is no name
FORGED: Final = 6  # the name does not resolve to the address

KEEP: Final = 60.0  # seconds; the resolver has its own, longer memory
SIZE: Final = 10000


class ClientName(msgspec.Struct, frozen=True):
    """name is verified or "unknown"; reverse_name is what the address resolves to, or "unknown"; warning is to be
    logged once.
    """

    name: str
    reverse_name: str
    name_status: int = OK
    reverse_status: int = OK
    warning: str = ""


class ClientNames:
    """The lookups of one worker."""

    def __init__(self, resolver: Resolver, hosts: HostsFile, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep what is found in a cache of its own: a client that comes again within a minute costs one look into a
        dict.
        """
        self._resolver = resolver
        self._hosts = hosts
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, ClientName]] = OrderedDict()

    def cached(self, address: str) -> ClientName | None:
        """The name, if it is known (without its warning: that was given once)."""
        entry = self._known.get(address)
        if entry is None or entry[0] < self._clock():
            return None
        return entry[1]

    async def lookup(self, address: str) -> ClientName:
        """Find the name of an address (in canonical text form)."""
        found = await self._lookup(address)
        while len(self._known) >= SIZE:
            self._known.popitem(last=False)
        quiet = msgspec.structs.replace(found, warning="") if found.warning else found
        self._known[address] = (self._clock() + (KEEP if found.name_status != TEMP else 1.0), quiet)
        return found

    async def _lookup(self, address: str) -> ClientName:
        name = self._hosts.name(address)
        if name is None:
            answer = await self._resolver.ptr(address)
            if not isinstance(answer, Found):
                status = TEMP if answer.status is Status.RETRY else PERM
                return ClientName(UNKNOWN, UNKNOWN, status, status)
            name = str(answer.records[0])
        if not valid_utf8_hostname(name):
            return ClientName(UNKNOWN, UNKNOWN, PERM, PERM)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        addresses: tuple[str, ...] = tuple(
            known for known in self._hosts.addresses(name) if (":" in known) == (":" in address)
        )
        if not addresses:
            answer = await self._resolver.addresses(name, family)
            if not isinstance(answer, Found):
                text = f"hostname {name} does not resolve to address {address}"
                if answer.status is Status.RETRY:
                    return ClientName(UNKNOWN, name, TEMP, OK, f"{text}: Temporary failure in name resolution")
                missing = answer.text.endswith("no data record of requested type")
                reason = "No address associated with hostname" if missing else "Name or service not known"
                return ClientName(UNKNOWN, name, FORGED, OK, f"{text}: {reason}")
            addresses = answer.records
        if address not in addresses:
            return ClientName(UNKNOWN, name, FORGED, OK, f"hostname {name} does not resolve to address {address}")
        return ClientName(name, name)
