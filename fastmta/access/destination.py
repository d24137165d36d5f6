"""Is a recipient ours, so that anybody may send to it? And is an envelope address one that can be routed at all?

The relay guard: called by access/restrictions.py (reject_unauth_destination and its kin) and, for the syntax of
addresses that are not plain, by the machine. An address is taken to where its mail would really go: address.resolve
unwinds source routes, user%site@here, site!user and quoted user@site. What still has another destination inside its
local part (user%site@relay.example) is for mynetworks only. What is raised is what tables raise (TempFail, Pending).
trivial-rewrite(8), postconf(5): allow_untrusted_routing, permit_auth_destination, reject_unlisted_recipient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from fastmta.address.resolve import CLASS_LOCAL, CLASS_RELAY, Resolved
from fastmta.config import Config
from fastmta.model.outcome import Bounced, split_dsn
from fastmta.smtpd import mailbox
from fastmta.tables.lookup import TempFail
from fastmta.tables.maps import AddressMaps, Pending, Tables
from fastmta.tables.routes import address_maps

_ROUTING: Final = frozenset("@%!")
_KEPT: Final = 16384


class Resolving(Protocol):
    """The part of address.resolve.Resolver that is needed."""

    @property
    def keeps(self) -> bool:
        """Is what it says about a domain always the same?"""

    def resolve(self, address: str, sender: str = "") -> Resolved | Bounced:
        """The way for a complete address. Raises what tables raise."""

    def domain_class(self, name: str) -> str:
        """Ours, to be relayed, or neither."""

    def is_local(self, name: str) -> bool:
        """Is a domain ours to deliver?"""


class Unlisted(NamedTuple):
    """Why an address is refused. dsn is "" where the reason has none of its own."""

    code: int
    dsn: str
    text: str


class Recipients(NamedTuple):
    """The lists of recipients that a service checks, by the class of their domain."""

    tables: dict[str, tuple[AddressMaps, int]]
    show_table: bool

    @classmethod
    def read(cls, cfg: Config, tables: Tables, is_local: Callable[[str], bool]) -> Recipients:
        """local_recipient_maps counts where it is set: what its default names is not read yet."""
        known: dict[str, tuple[AddressMaps, int]] = {}
        relay = address_maps(cfg, tables, "relay_recipient_maps", is_local)
        if relay:
            known[CLASS_RELAY] = relay, cfg.get_int("unknown_relay_recipient_reject_code")
        if cfg.is_set("local_recipient_maps"):
            local = address_maps(cfg, tables, "local_recipient_maps", is_local)
            if local:
                known[CLASS_LOCAL] = local, cfg.get_int("unknown_local_recipient_reject_code")
        return cls(known, cfg.get_bool("show_user_unknown_table_name"))


class Destinations:
    """Answers for one configuration; what a plain address answers depends on its domain alone and is kept."""

    def __init__(
        self, resolver: Resolving, complete: Callable[[str], str], recipients: Recipients | None = None
    ) -> None:
        """complete: address.rewrite.canonical with its settings."""
        self._resolver = resolver
        self._complete = complete
        self._recipients = recipients
        self._known: dict[str, bool] = {}

    def is_authorized(self, recipient: str) -> bool:
        """Final destination, or a domain that we relay for."""
        local, at, domain = recipient.rpartition("@")
        if not at or not local or not _ROUTING.isdisjoint(local) or local[0] == '"' or not self._resolver.keeps:
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

    def unlisted(self, address: str, sender: str) -> Unlisted | None:
        """Why mail for an address is refused: it goes to the error or retry transport, or no list has it."""
        resolved = self._resolver.resolve(self._complete(address), sender)
        if isinstance(resolved, Bounced):
            return None
        if resolved.transport in ("error", "retry"):
            permanent = resolved.transport == "error"
            dsn, text = split_dsn("", resolved.nexthop)
            return Unlisted(550 if permanent else 450, dsn, text)
        recipients = self._recipients
        known = recipients.tables.get(resolved.kind) if recipients is not None else None
        if recipients is None or known is None or known[0].find(resolved.recipient) is not None:
            return None
        table = f" in {resolved.kind} recipient table" if recipients.show_table else ""
        return Unlisted(known[1], "", f"User unknown{table}")

    def parse_mailbox(self, token: bytes, strict: bool, utf8: bool) -> str | None:
        """The machine's parse_mailbox: internal form, or None where the syntax is wrong or no mail could go there."""
        address = mailbox.parse(token, strict)
        if not address:
            return address
        if not utf8 and not address.rpartition("@")[2].isascii():
            return None  # a domain in UTF-8 needs SMTPUTF8
        try:
            resolved = self._resolver.resolve(self._complete(address))
        except (TempFail, Pending):
            return address  # the restrictions will come to the same table
        return None if isinstance(resolved, Bounced) else address
