"""Where does mail for an address go? (transport, next hop, recipient), as trivial-rewrite resolves it.

qmgr/ calls Resolver.resolve for each recipient of a message that enters the active queue, smtpd's restrictions ask
Resolver.domain_class. The answer depends on the domain alone, unless that is local: so it is kept by domain. Tables
(transport_maps, relocated_maps, maps by sender) come in as Overrides, made by tables.routes. An address that makes no
sense gets Bounced; what is raised is what tables raise. RFC 5321 section 2.3; trivial-rewrite(8), ADDRESS_CLASS_README:
mydestination, inet_interfaces, relay_domains, local_transport, relay_transport, default_transport, relayhost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, Self

import msgspec

from fastmta.address.hostname import literal_address, valid_hostaddr, valid_utf8_hostname
from fastmta.address.quote import is_dot_string, unquote_822_local
from fastmta.address.rewrite import RewriteSettings, canonical
from fastmta.config import Config
from fastmta.model.outcome import Bounced

CLASS_LOCAL: Final = "local"
CLASS_RELAY: Final = "relay"
CLASS_DEFAULT: Final = "default"

_DOMAINS_KEPT: Final = 20_000
DISCARDED: Final = "undeliverable postmaster notification discarded"


class Resolved(msgspec.Struct, frozen=True, gc=False):
    """transport is a service of master.cf; nexthop as the transport wants it; recipient the address to hand over; kind
    the class of its domain, a CLASS_*.
    """

    transport: str
    nexthop: str
    recipient: str
    kind: str = CLASS_DEFAULT


class Overrides(Protocol):
    """What tables say about the way of an address."""

    @property
    def by_sender(self) -> bool:
        """Does default_transport() or relayhost() ever say anything?"""

    def default_transport(self, sender: str) -> str | None:
        """transport[:nexthop] for what this sender sends to elsewhere, if that is not default_transport."""

    def relayhost(self, sender: str) -> str | None:
        """Next hop for what this sender sends to others, if that is not relayhost."""

    def transport(self, recipient: str, transport: str, nexthop: str) -> tuple[str, str]:
        """transport_maps: what becomes of transport and next hop."""

    def relocated(self, recipient: str) -> str | None:
        """relocated_maps: where the user is now."""


class ResolveSettings(msgspec.Struct, frozen=True):
    """From main.cf; transports are "transport" or "transport:nexthop"."""

    rewrite: RewriteSettings
    myhostname: str
    local_transport: str = "local:$myhostname"
    relay_transport: str = "relay"
    default_transport: str = "smtp"
    relayhost: str = ""
    resolve_dequoted_address: bool = True
    resolve_null_domain: bool = False
    resolve_numeric_domain: bool = False
    double_bounce_sender: str = "double-bounce"

    @classmethod
    def from_config(cls, cfg: Config) -> Self:
        """Read it, once, at load."""
        return cls(
            rewrite=RewriteSettings.from_config(cfg),
            myhostname=cfg.get_str("myhostname"),
            local_transport=cfg.get_str("local_transport"),
            relay_transport=cfg.get_str("relay_transport"),
            default_transport=cfg.get_str("default_transport"),
            relayhost=cfg.get_str("relayhost"),
            resolve_dequoted_address=cfg.get_bool("resolve_dequoted_address"),
            resolve_null_domain=cfg.get_bool("resolve_null_domain"),
            resolve_numeric_domain=cfg.get_bool("resolve_numeric_domain"),
            double_bounce_sender=cfg.get_str("double_bounce_sender"),
        )


BAD_SYNTAX: Final = Bounced("5.1.3", "bad address syntax")


class _Domain(msgspec.Struct, frozen=True, gc=False):
    local: bool
    transport: str  # "" is a domain that makes no sense
    nexthop: str
    literal: str = ""  # what to write instead, for a bare address (resolve_numeric_domain)
    kind: str = CLASS_DEFAULT


class Resolver:
    """Resolves addresses for one configuration."""

    def __init__(
        self,
        settings: ResolveSettings,
        is_local_domain: Callable[[str], bool],
        is_relay_domain: Callable[[str], bool],
        is_own_address: Callable[[str], bool],
        overrides: Overrides | None = None,
        keeps: bool = True,
    ) -> None:
        """The callables match mydestination, relay_domains (names in lower case), inet_ and proxy_interfaces. keeps:
        what they say about a domain never changes.
        """
        self.keeps = keeps
        self._overrides = overrides
        self._settings = settings
        self._is_local_domain = is_local_domain
        self._is_relay_domain = is_relay_domain
        self._is_own_address = is_own_address
        self._domains: dict[str, _Domain] = {}

    def resolve(self, address: str, sender: str = "") -> Resolved | Bounced:
        """The way for an address in internal form, for mail from that sender."""
        overrides = self._overrides
        if overrides is None:
            return self._resolve(address)
        resolved = self._resolve(address)
        if isinstance(resolved, Bounced) or resolved.nexthop == DISCARDED:
            return resolved
        return self._override(resolved, sender, overrides)

    def _override(self, resolved: Resolved, sender: str, overrides: Overrides) -> Resolved:
        """The same with what tables say."""
        settings = self._settings
        transport, nexthop = resolved.transport, resolved.nexthop
        recipient, kind = resolved.recipient, resolved.kind
        if overrides.by_sender and kind != CLASS_LOCAL:
            chosen = overrides.default_transport(sender) if kind == CLASS_DEFAULT else settings.relay_transport
            relayhost = overrides.relayhost(sender) or settings.relayhost or recipient.rpartition("@")[2]
            transport, nexthop = _split(chosen or settings.default_transport, relayhost)
        transport, nexthop = overrides.transport(recipient, transport, nexthop)
        where = overrides.relocated(recipient)
        if where is not None:
            transport, nexthop = "error", f"5.1.6 User has moved to {where}"
        return Resolved(transport, nexthop, recipient, kind)

    def _resolve(self, address: str) -> Resolved | Bounced:
        local, at, name = address.rpartition("@")
        if at and local:
            domain = self._domains.get(name)
            if domain is None:
                domain = self._remember(name)
            if not domain.local:
                return _outside(domain, address)
        return self._resolve_local(address)

    def domain_class(self, name: str) -> str:
        """CLASS_LOCAL, CLASS_RELAY or CLASS_DEFAULT."""
        name = name.lower()
        if self._is_local(name):
            return CLASS_LOCAL
        return CLASS_RELAY if self._is_relay_domain(name) else CLASS_DEFAULT

    def is_local(self, name: str) -> bool:
        """Is a domain ours to deliver (resolve_local(3))?"""
        return self._is_local(name.lower())

    def _remember(self, name: str) -> _Domain:
        if not self.keeps:
            return self._look(name)
        if len(self._domains) >= _DOMAINS_KEPT:
            self._domains.clear()
        domain = self._domains[name] = self._look(name)
        return domain

    def _look(self, name: str) -> _Domain:
        settings = self._settings
        if name.endswith(".") and not name.endswith(".."):
            name = name[:-1]
        folded = name.lower()
        if self._is_local(folded):
            transport, nexthop = _split(settings.local_transport, name)
            return _Domain(True, transport, nexthop, kind=CLASS_LOCAL)
        literal = ""
        if folded.startswith("["):
            valid = bool(literal_address(folded))
        elif settings.resolve_numeric_domain and valid_hostaddr(folded):
            valid, folded, literal = True, f"[{folded}]", f"[{name}]"
        else:
            valid = valid_utf8_hostname(folded)
        if not valid:
            return _Domain(False, "", "")
        relays = self._is_relay_domain(folded)
        chosen = settings.relay_transport if relays else settings.default_transport
        transport, nexthop = _split(chosen, settings.relayhost or literal or name)
        return _Domain(False, transport, nexthop, literal, CLASS_RELAY if relays else CLASS_DEFAULT)

    def _is_local(self, folded: str) -> bool:
        if self._is_local_domain(folded):
            return True
        if not folded.startswith("["):
            return False
        literal = literal_address(folded)
        return bool(literal) and self._is_own_address(literal)

    def _resolve_local(self, address: str) -> Resolved | Bounced:
        """An address without a domain, or in a local one: what hides in its local part may lead elsewhere after all."""
        settings = self._settings
        domain_name = ""
        current = address
        for _ in range(len(address) + 100):
            local, at, name = current.rpartition("@")
            if not at:
                local, name = current, ""
            elif not name:
                if not settings.resolve_null_domain:
                    return BAD_SYNTAX
                current = local
                continue
            else:
                domain = self._domains.get(name) or self._remember(name)
                if not domain.local:
                    return _outside(domain, current)
                if not local:
                    return Resolved(domain.transport, domain.nexthop, "MAILER-DAEMON" + current, CLASS_LOCAL)
                domain_name = name
            inner = self._operators(local)
            if inner is None:
                break
            current = inner
        domain_name = domain_name or settings.myhostname
        recipient = f"{local or 'MAILER-DAEMON'}@{domain_name}"
        if local.lower() == settings.double_bounce_sender.lower():
            return Resolved("discard", DISCARDED, recipient, CLASS_LOCAL)
        domain = self._domains.get(domain_name) or self._remember(domain_name)
        if not domain.local:  # myhostname need not be in mydestination
            transport, nexthop = _split(settings.local_transport, domain_name)
            return Resolved(transport, nexthop, recipient, CLASS_LOCAL)
        return Resolved(domain.transport, domain.nexthop, recipient, CLASS_LOCAL)

    def _operators(self, local: str) -> str | None:
        """Routing inside a local part, as an address; None where there is none.

        Quotes do not protect it (resolve_dequoted_address): nobody shall relay through us by quoting.
        """
        settings = self._settings
        text = local
        if settings.resolve_dequoted_address:
            text = unquote_822_local(local)
        elif not is_dot_string(local):
            return None
        if "@" in text:
            return canonical(text, settings.rewrite)
        if settings.rewrite.swap_bangpath and "!" in text:
            site, _, user = text.partition("!")
            return canonical(f"{user}@{site}", settings.rewrite)
        if settings.rewrite.allow_percent_hack and "%" in text:
            user, _, site = text.rpartition("%")
            return canonical(f"{user}@{site}", settings.rewrite)
        return None


def _outside(domain: _Domain, address: str) -> Resolved | Bounced:
    if not domain.transport:
        return BAD_SYNTAX
    if domain.literal:
        address = f"{address.rpartition('@')[0]}@{domain.literal}"
    return Resolved(domain.transport, domain.nexthop, address, domain.kind)


def _split(transport: str, nexthop: str) -> tuple[str, str]:
    """A "transport:nexthop" setting, with the next hop to use where it names none."""
    channel, _, own = transport.partition(":")
    return channel, own or nexthop
