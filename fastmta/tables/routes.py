"""What tables say about the way of an address: transport_maps, relocated_maps and the maps by sender, for the resolver.

master/worker.py calls make_resolver once, for the whole worker. Without such tables the resolver has no Overrides, and
keeps what it found by domain. Raises ConfigError while it is made; TempFail (with a warning) and Pending later.

Postfix: transport(5), relocated(5), trivial-rewrite(8): its transport.c and resolve.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastmta.address.resolve import Resolver, ResolveSettings
from fastmta.config import Config, ConfigError
from fastmta.tables.keys import TRANSPORT, VIRTUAL, KeyRules, Parts
from fastmta.tables.lookup import DEFAULTS, Flags, TableError, TempFail
from fastmta.tables.maps import NO_SUBSTITUTION, AddressMaps, Maps, Tables
from fastmta.tables.matchlist import MatchList, for_parameter

_REASONS: Final = frozenset({"error", "retry"})  # transports whose next hop is a text
_UNDELIVERABLE: Final = "Address is undeliverable"


def maps_parameter(cfg: Config, tables: Tables, parameter: str, flags: Flags = DEFAULTS) -> Maps:
    """The tables that a parameter names. Raises ConfigError for what is no type:name."""
    try:
        return tables.maps(parameter, cfg.get_list(parameter), flags)
    except TableError as error:
        raise ConfigError(*cfg.where(parameter), parameter, str(error)) from None


def address_maps(
    cfg: Config,
    tables: Tables,
    parameter: str,
    is_local: Callable[[str], bool],
    parts: Parts = VIRTUAL,
    flags: Flags = DEFAULTS,
) -> AddressMaps:
    """The tables that a parameter names, to be asked about addresses. Raises ConfigError."""
    rules = KeyRules(cfg.get_str("recipient_delimiter"), is_local, cfg.get_bool("owner_request_special"))
    return AddressMaps(maps_parameter(cfg, tables, parameter, flags), parts, rules)


def split_entry(value: str, domain: str, transport: str, nexthop: str) -> tuple[str, str]:
    """What an entry of transport(5) makes of transport and next hop: "transport:nexthop", "transport:", ":nexthop"."""
    channel, _, own = value.partition(":")
    if not channel:
        return transport, own or nexthop
    if own:
        return channel, own
    return channel, _UNDELIVERABLE if channel in _REASONS else domain


class Routes:
    """The Overrides of one worker (address.resolve)."""

    def __init__(self, cfg: Config, tables: Tables) -> None:
        """The tables are opened; local() follows."""
        self._cfg = cfg
        self._tables = tables
        self._warn = tables.warn
        self._is_local: Callable[[str], bool] = lambda domain: False
        parents = "transport_maps" in cfg.get_list("parent_domain_matches_subdomains")
        parts = TRANSPORT | (Parts.PARENTS if parents else Parts.DOT_PARENTS)
        self._transport = self._open("transport_maps", parts)
        self._relocated = self._open("relocated_maps", VIRTUAL, DEFAULTS)
        self._relayhost = self._open("sender_dependent_relayhost_maps")
        self._default = self._open("sender_dependent_default_transport_maps")
        self._null_relayhost = cfg.get_str("empty_address_relayhost_maps_lookup_key")
        self._null_default = cfg.get_str("empty_address_default_transport_maps_lookup_key")
        self.by_sender = bool(self._relayhost or self._default)

    def __bool__(self) -> bool:
        """Is there any table?"""
        return bool(self._transport or self._relocated or self.by_sender)

    def local(self, is_local: Callable[[str], bool]) -> None:
        """Which domains are ours: the resolver, which is made with this, knows."""
        self._is_local = is_local

    def default_transport(self, sender: str) -> str | None:
        """sender_dependent_default_transport_maps."""
        return self._of_sender(self._default, sender or self._null_default)

    def relayhost(self, sender: str) -> str | None:
        """sender_dependent_relayhost_maps."""
        return self._of_sender(self._relayhost, sender or self._null_relayhost)

    def transport(self, recipient: str, transport: str, nexthop: str) -> tuple[str, str]:
        """transport_maps: the entry for the address or its domain, else that for "*"."""
        maps = self._transport
        if not maps:
            return transport, nexthop
        value = self._ask(maps, maps.find, recipient)
        if value is None:
            value = self._ask(maps, lambda key: maps.maps.find(key, True), "*")
            if value is None:
                return transport, nexthop
        return split_entry(value, recipient.rpartition("@")[2], transport, nexthop)

    def relocated(self, recipient: str) -> str | None:
        """relocated_maps."""
        maps = self._relocated
        return self._ask(maps, maps.find, recipient) if maps else None

    def _of_sender(self, maps: AddressMaps, sender: str) -> str | None:
        if not maps:
            return None
        value = self._ask(maps, maps.find, sender)
        return None if value is None or value.upper() == "DUNNO" else value

    def _ask(self, maps: AddressMaps, find: Callable[[str], str | None], key: str) -> str | None:
        try:
            return find(key)
        except TempFail:
            self._warn(f"{maps.maps.title} lookup failure")
            raise

    def _open(self, parameter: str, parts: Parts = VIRTUAL, flags: Flags = NO_SUBSTITUTION) -> AddressMaps:
        return address_maps(self._cfg, self._tables, parameter, lambda domain: self._is_local(domain), parts, flags)


def make_resolver(cfg: Config, tables: Tables, own: MatchList) -> Resolver:
    """The resolver of a configuration. own: the addresses of inet_ and proxy_interfaces. Raises ConfigError."""
    mydestination = for_parameter(cfg, "mydestination", tables)
    relay_domains = for_parameter(cfg, "relay_domains", tables)
    routes = Routes(cfg, tables)
    resolver = Resolver(
        ResolveSettings.from_config(cfg),
        mydestination.match_domain,
        relay_domains.match_domain,
        own.match_address,
        routes if routes else None,
        not (mydestination.has_tables or relay_domains.has_tables),
    )
    routes.local(resolver.is_local)
    return resolver
