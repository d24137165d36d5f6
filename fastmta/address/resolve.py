"""Where does mail for an address go? (transport, next hop, recipient), as trivial-rewrite resolves it.

qmgr/ calls Resolver.resolve for each recipient of a message that enters the active queue, smtpd's restrictions ask
Resolver.domain_class. The answer depends on the domain alone, unless that is local: so it is kept by domain. An address
that makes no sense gets Bounced, never an exception. RFC 5321 section 2.3; trivial-rewrite(8),
ADDRESS_CLASS_README: mydestination, inet_interfaces, relay_domains, local_transport, relay_transport,
default_transport, relayhost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Self

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
    """transport is a service of master.cf; nexthop as the transport wants it; recipient the address to hand over."""

    transport: str
    nexthop: str
    recipient: str


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


class Resolver:
    """Resolves addresses for one configuration."""

    def __init__(
        self,
        settings: ResolveSettings,
        is_local_domain: Callable[[str], bool],
        is_relay_domain: Callable[[str], bool],
        is_own_address: Callable[[str], bool],
    ) -> None:
        """The callables match mydestination, relay_domains (names in lower case), inet_ and proxy_interfaces."""
        self._settings = settings
        self._is_local_domain = is_local_domain
        self._is_relay_domain = is_relay_domain
        self._is_own_address = is_own_address
        self._domains: dict[str, _Domain] = {}

    def resolve(self, address: str) -> Resolved | Bounced:
        """The way for an address in internal form."""
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

    def _remember(self, name: str) -> _Domain:
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
            return _Domain(True, transport, nexthop)
        literal = ""
        if folded.startswith("["):
            valid = bool(literal_address(folded))
        elif settings.resolve_numeric_domain and valid_hostaddr(folded):
            valid, folded, literal = True, f"[{folded}]", f"[{name}]"
        else:
            valid = valid_utf8_hostname(folded)
        if not valid:
            return _Domain(False, "", "")
        chosen = settings.relay_transport if self._is_relay_domain(folded) else settings.default_transport
        transport, nexthop = _split(chosen, settings.relayhost or literal or name)
        return _Domain(False, transport, nexthop, literal)

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
                    return Resolved(domain.transport, domain.nexthop, "MAILER-DAEMON" + current)
                domain_name = name
            inner = self._operators(local)
            if inner is None:
                break
            current = inner
        domain_name = domain_name or settings.myhostname
        recipient = f"{local or 'MAILER-DAEMON'}@{domain_name}"
        if local.lower() == settings.double_bounce_sender.lower():
            return Resolved("discard", DISCARDED, recipient)
        domain = self._domains.get(domain_name) or self._remember(domain_name)
        if not domain.local:  # myhostname need not be in mydestination
            transport, nexthop = _split(settings.local_transport, domain_name)
            return Resolved(transport, nexthop, recipient)
        return Resolved(domain.transport, domain.nexthop, recipient)

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
    return Resolved(domain.transport, domain.nexthop, address)


def _split(transport: str, nexthop: str) -> tuple[str, str]:
    """A "transport:nexthop" setting, with the next hop to use where it names none."""
    channel, _, own = transport.partition(":")
    return channel, own or nexthop
