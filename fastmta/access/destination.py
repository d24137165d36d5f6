"""Is a recipient ours, so that anybody may send to it? And is an envelope address one that can be routed at all?

The relay guard: called by access/restrictions.py (reject_unauth_destination and its kin) and, for the syntax of
addresses that are not plain, by the machine. An address is taken to where its mail would really go: address.resolve
unwinds source routes, user%site@here, site!user and quoted user@site. What still has another destination inside its
local part (user%site@relay.example) is for mynetworks only. Nothing is raised. trivial-rewrite(8), postconf(5):
allow_untrusted_routing, permit_auth_destination.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from fastmta.address.resolve import CLASS_LOCAL, CLASS_RELAY, Resolved
from fastmta.model.outcome import Bounced
from fastmta.smtpd import mailbox

_ROUTING: Final = frozenset("@%!")
_KEPT: Final = 16384


class Resolving(Protocol):
    """The part of address.resolve.Resolver that is needed."""

    def resolve(self, address: str) -> Resolved | Bounced:
        """The way for a complete address."""

    def domain_class(self, name: str) -> str:
        """Ours, to be relayed, or neither."""


class Destinations:
    """Answers for one configuration; what a plain address answers depends on its domain alone and is kept."""

    def __init__(self, resolver: Resolving, complete: Callable[[str], str]) -> None:
        """complete: address.rewrite.canonical with its settings."""
        self._resolver = resolver
        self._complete = complete
        self._known: dict[str, bool] = {}

    def is_authorized(self, recipient: str) -> bool:
        """Final destination, or a domain that we relay for."""
        local, at, domain = recipient.rpartition("@")
        if not at or not local or not _ROUTING.isdisjoint(local) or local[0] == '"':
            return self._look(recipient)
        known = self._known.get(domain)
        if known is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            known = self._known[domain] = self._look(recipient)
        return known

    def _look(self, recipient: str) -> bool:
        resolved = self._resolver.resolve(self._complete(recipient))
        if isinstance(resolved, Bounced):
            return False
        local, _, domain = resolved.recipient.rpartition("@")
        kind = self._resolver.domain_class(domain)
        if not _ROUTING.isdisjoint(local):
            return False
        return kind in (CLASS_LOCAL, CLASS_RELAY)

    def undeliverable(self, address: str) -> str | None:
        """The reason, with or without an enhanced status code, where the address goes to the error transport."""
        resolved = self._resolver.resolve(self._complete(address))
        if isinstance(resolved, Bounced) or resolved.transport != "error":
            return None
        return resolved.nexthop

    def parse_mailbox(self, token: bytes, strict: bool, utf8: bool) -> str | None:
        """The machine's parse_mailbox: internal form, or None where the syntax is wrong or no mail could go there."""
        address = mailbox.parse(token, strict)
        if not address:
            return address
        if not utf8 and not address.rpartition("@")[2].isascii():
            return None  # a domain in UTF-8 needs SMTPUTF8
        if isinstance(self._resolver.resolve(self._complete(address)), Bounced):
            return None
        return address
