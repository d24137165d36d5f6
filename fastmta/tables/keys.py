"""With which keys is a table asked? The partial keys of access(5), virtual(5), transport(5) and their kin, in order.

Each function gives keys one by one, so that nobody makes keys behind the one that is found. `partial` is False for the
whole address, name or number: a table of patterns is asked with that alone (tables.maps keeps to it), tables of fixed
strings are asked with every key.

    address_keys("joe+x@example.com", VIRTUAL, rules)      joe+x@example.com  joe@example.com  joe+x  joe  @example.com
    address_keys("joe+x@example.com", ACCESS, rules)       ...  example.com  com  joe+x@  joe@
    address_keys("joe+x@example.com", TRANSPORT, rules)    ...  example.com  .com    ("*": see tables.routes)
    domain_keys("mx.example.com", True)                    mx.example.com  example.com  com
    network_keys("192.0.2.7")                              192.0.2.7  192.0.2  192.0  192

A key with a local part that needs quotes is tried as in a header ("a b"@example.com) and then bare. Case is the table's
matter. Pure; nothing is raised but what rules.is_local raises (mydestination may be a table).

Postfix: mail_addr_find(3), split_addr(3), match_parent_style(3), smtpd_check's check_domain_access, check_addr_access.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntFlag
from typing import Final, NamedTuple

import msgspec

from fastmta.address.quote import quote_822_local

_NEVER_SPLIT: Final = frozenset({"postmaster", "mailer-daemon", "double-bounce"})


class Key(NamedTuple):
    """One key. extension: what was taken off the address to get here, with its delimiter; "" where nothing was."""

    text: str
    partial: bool
    extension: str = ""


class Parts(IntFlag):
    """Which parts of an address are looked up; the order is always that of the list."""

    FULL = 1  # user+ext@domain
    WITHOUT_EXTENSION = 2  # user@domain; and without extension wherever the local part is a key
    LOCAL_PART_IF_LOCAL = 4  # user, where the domain is ours
    LOCAL_PART_AT_IF_LOCAL = 8  # user@, likewise
    AT_DOMAIN = 16  # @domain
    DOMAIN = 32  # domain
    PARENTS = 64  # the parent domains as they are (parent_domain_matches_subdomains)
    DOT_PARENTS = 128  # .parent
    LOCAL_PART_AT = 256  # user@


VIRTUAL: Final = Parts.FULL | Parts.WITHOUT_EXTENSION | Parts.LOCAL_PART_IF_LOCAL | Parts.AT_DOMAIN
"""virtual(5), canonical(5), generic(5), relocated(5), lists of recipients, maps by sender."""
ACCESS: Final = Parts.FULL | Parts.WITHOUT_EXTENSION | Parts.DOMAIN | Parts.LOCAL_PART_AT
"""access(5) for addresses, with PARENTS or DOT_PARENTS."""
TRANSPORT: Final = Parts.FULL | Parts.WITHOUT_EXTENSION | Parts.DOMAIN
"""transport(5), with PARENTS or DOT_PARENTS."""


def _nowhere(_domain: str) -> bool:
    return False


class KeyRules(msgspec.Struct, frozen=True, eq=False):
    """What the keys of an address depend on beside it. is_local(domain): mydestination, or an address of ours."""

    recipient_delimiter: str = ""
    is_local: Callable[[str], bool] = _nowhere
    owner_request_special: bool = True


def split_extension(local: str, delimiters: str, owner_request_special: bool = True) -> tuple[str, str]:
    """A local part as user and extension, which begins with its delimiter. Some names are never split."""
    if not delimiters:
        return local, ""
    folded = local.lower()
    if folded in _NEVER_SPLIT:
        return local, ""
    if owner_request_special and "-" in delimiters and (folded.startswith("owner-") or folded.endswith("-request")):
        return local, ""
    for at, char in enumerate(local):
        if char in delimiters:
            return (local[:at], local[at:]) if at else (local, "")
    return local, ""


def address_keys(address: str, parts: Parts, rules: KeyRules) -> Iterator[Key]:
    """The keys for an address in internal form."""
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = address, ""
    bare, extension = local, ""
    if parts & Parts.WITHOUT_EXTENSION:
        bare, extension = split_extension(local, rules.recipient_delimiter, rules.owner_request_special)
    tail = at + domain
    if parts & Parts.FULL:
        yield from _forms(local, tail, False, "")
    if extension:
        yield from _forms(bare, tail, True, extension)
    if not at:
        return
    if_local = parts & (Parts.LOCAL_PART_IF_LOCAL | Parts.LOCAL_PART_AT_IF_LOCAL)
    if if_local and rules.is_local(domain):
        if parts & Parts.LOCAL_PART_IF_LOCAL:
            yield from _local_parts(local, bare, extension, "")
        if parts & Parts.LOCAL_PART_AT_IF_LOCAL:
            yield from _local_parts(local, bare, extension, "@")
    if parts & Parts.AT_DOMAIN:
        yield Key("@" + domain, True, extension)
    if parts & Parts.DOMAIN and domain:
        if parts & (Parts.PARENTS | Parts.DOT_PARENTS):
            for key in domain_keys(domain, bool(parts & Parts.PARENTS)):
                yield Key(key.text, True)
        else:
            yield Key(domain, True)
    if parts & Parts.LOCAL_PART_AT:
        yield from _local_parts(local, bare, extension, "@")


def _local_parts(local: str, bare: str, extension: str, tail: str) -> Iterator[Key]:
    yield from _forms(local, tail, True, "")
    if extension:
        yield from _forms(bare, tail, True, extension)


def _forms(local: str, tail: str, partial: bool, extension: str) -> Iterator[Key]:
    """A local part with what follows it, quoted where it must be, and then as it is."""
    quoted = quote_822_local(local + "@")[:-1] if local else local
    if quoted != local:
        yield Key(quoted + tail, partial, extension)
    yield Key(local + tail, partial, extension)


def domain_keys(name: str, parents: bool) -> Iterator[Key]:
    """A host or domain, then its parents: as they are (parents), or each with a dot before it."""
    yield Key(name, False)
    dot = name.find(".", 1)
    while dot >= 0:
        key = name[dot + 1 :] if parents else name[dot:]
        if not key:
            return
        yield Key(key, True)
        dot = name.find(".", dot + 1 + parents)


def network_keys(address: str) -> Iterator[Key]:
    """An address in text form, then without its last number, and so on: 192.0.2.7, 192.0.2; 2001:db8::1, 2001:db8:."""
    yield Key(address, False)
    separator = ":" if ":" in address else "."
    end = address.rfind(separator)
    while end > 0:
        yield Key(address[:end], True)
        end = address.rfind(separator, 0, end)


def client_keys(name: str, address: str, parents: bool) -> Iterator[Key]:
    """A client: its name and the parents of that, then its address and the networks of that (check_client_access)."""
    yield from domain_keys(name, parents)
    yield from network_keys(address)


def alias_keys(local: str, delimiters: str) -> Iterator[Key]:
    """A local part as aliases(5) knows it: with its extension, then without."""
    yield Key(local, False)
    bare, extension = split_extension(local, delimiters)
    if extension:
        yield Key(bare, False, extension)
