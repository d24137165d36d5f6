"""Next hops as people write them: domain, domain:port, [host], [host]:port, [address], with several separated by
comma or space.

Called by deliver/route.py, once per destination. Raises NexthopError for what Postfix calls a fatal error ("bad
network port"), which the caller turns into a deferral. Postfix smtp(8), transport(5), relayhost in postconf(5).
"""

from __future__ import annotations

import socket
from functools import lru_cache

import msgspec

from fastmta.address.hostname import valid_utf8_hostname


class NexthopError(Exception):
    """The next hop does not make sense; the text says why."""


class Site(msgspec.Struct, frozen=True):
    """One destination: a domain (its mail exchangers are looked up unless it was in brackets) and a port."""

    text: str
    domain: str
    port: int
    bracketed: bool


def split_sites(nexthop: str) -> list[str]:
    """The destinations of a next hop, in order."""
    return nexthop.replace(",", " ").split()


def parse_site(text: str, default_port: str) -> Site:
    """Read one destination."""
    bracketed = text.startswith("[")
    port = default_port
    if bracketed:
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise NexthopError(f'missing "]" in server description: {text}')
        if rest.startswith(":"):
            port = rest[1:] or default_port
        elif rest:
            raise NexthopError(f'garbage after "]" in server description: {text}')
    else:
        host, colon, rest = text.rpartition(":")
        if colon:
            port = rest or default_port
            if not host:
                raise NexthopError(f"missing host information in server description: {text}")
        else:
            host = text
    bare = host[5:] if bracketed and host[:5].lower() == "ipv6:" else host
    if numeric_address(bare) is not None:
        host = bare
    elif not valid_utf8_hostname(host):
        raise NexthopError(f"valid hostname or network address required in server description: {text}")
    if port[:1].isdigit() and not (port.isascii() and port.isdigit()):
        raise NexthopError(f"garbage after numerical service in server description: {text}")
    return Site(text, host, port_number(port, text), bracketed)


@lru_cache(256)
def port_number(port: str, text: str) -> int:
    """A port by number or by name."""
    if port.isascii() and port.isdigit():
        number = int(port)
        if not 0 < number < 65536:
            raise NexthopError(f"bad network port: {port} for destination: {text}")
        return number
    known = {"smtp": 25, "lmtp": 24, "submission": 587, "smtps": 465, "submissions": 465}
    if port in known:
        return known[port]
    try:
        return socket.getservbyname(port, "tcp")
    except OSError as error:
        raise NexthopError(f"unknown service: {port}/tcp") from error


def numeric_address(host: str) -> tuple[int, str] | None:
    """(family, canonical text) of an address literal, else None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return family, socket.inet_ntop(family, socket.inet_pton(family, host))
    except (OSError, ValueError):
        return None
