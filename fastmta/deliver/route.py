"""The hosts to try for one request, in order, and which of them is the last: Postfix's smtp_connect.c without the
connecting.

deliver/smtp.py asks for `next()` until the recipients are done or it says None; `trouble` then tells why nothing is
left. A soft error at a host that is not `final()` leaves the recipients for the next one. Raises NexthopError for a
next hop that makes no sense.

Sites are the parts of the next hop, then smtp_fallback_relay. Per site at most smtp_mx_address_limit addresses are
tried, and after smtp_mx_session_limit sessions that got past the greeting no more.
"""

from __future__ import annotations

import socket

from fastmta.deliver.lookup import Host, HostLookup, Hosts
from fastmta.deliver.nexthop import NexthopError, Site, parse_site, split_sites
from fastmta.deliver.settings import SmtpSettings
from fastmta.deliver.trouble import Trouble

SMTP_PORT = 25


class Route:
    """The way of one request."""

    def __init__(self, settings: SmtpSettings, lookup: HostLookup, nexthop: str) -> None:
        """Read the next hop; nothing is looked up yet."""
        self._settings = settings
        self._lookup = lookup
        self._sites: list[Site]
        if settings.lmtp and nexthop.startswith("unix:"):
            self._sites = [Site(nexthop, nexthop[5:], 0, True)]
            self._own = 1
        else:
            own = split_sites(nexthop.removeprefix("inet:") if settings.lmtp else nexthop)
            if not own:
                raise NexthopError("empty next hop")
            self._sites = [parse_site(text, settings.tcp_port) for text in (*own, *settings.fallback_relay)]
            self._own = len(own)
        self._at = -1  # the site in work
        self._hosts: list[Host] = []  # of that site, not tried yet
        self._addresses = 0
        self._sessions = 0
        self._last_site = False
        self._again: Host | None = None
        self.trouble: Trouble | None = None
        self.loop_detected = False  # mail would come back to this system
        self.first_hosts: tuple[Host, ...] = ()  # of the first site, for a connection that is used again

    @property
    def site(self) -> Site:
        """The site in work."""
        return self._sites[max(self._at, 0)]

    @property
    def first_text(self) -> str:
        """The first site as it was written."""
        return self._sites[0].text

    @property
    def detect_loops(self) -> bool:
        """Whether a server of the site in work may turn out to be this system."""
        return not self._settings.lmtp and self.site.port == SMTP_PORT

    @property
    def in_fallback(self) -> bool:
        """Whether the site in work is a fallback relay."""
        return self._at >= self._own

    def resume(self, hosts: tuple[Host, ...], used: Host) -> None:
        """Begin behind a session on a kept connection to `used`, which counts as the first of its site."""
        self._at = 0
        self._last_site = len(self._sites) == 1
        self._hosts = [host for host in hosts if host.address != used.address]
        self._addresses = self._sessions = 1
        self.first_hosts = hosts
        if self._settings.mx_address_limit == 1 or self._settings.mx_session_limit == 1:
            self._hosts.clear()

    def final(self) -> bool:
        """Whether nothing is left to try."""
        return self._last_site and not self._hosts and self._again is None

    def session_begun(self) -> None:
        """The host got past its greeting: it counts towards the session limit."""
        self._sessions += 1
        if self._sessions == self._settings.mx_session_limit:
            self._hosts.clear()

    def retry_in_plaintext(self, host: Host, session: bool) -> None:
        """Try the same host again (without TLS); this time does not count."""
        self._again = host
        self._addresses -= 1
        if session:
            self._sessions -= 1

    async def next(self) -> Host | None:
        """The next host, or None."""
        if self._again is not None:
            host, self._again = self._again, None
            return self._take(host)
        while not self._hosts:
            if self._last_site or self._at + 1 >= len(self._sites):
                return None
            await self._enter(self._at + 1)
        return self._take(self._hosts.pop(0))

    def _take(self, host: Host) -> Host:
        self._addresses += 1
        if self._addresses == self._settings.mx_address_limit:
            self._hosts.clear()
        return host

    async def _enter(self, number: int) -> None:
        """Look up the hosts of a site."""
        settings = self._settings
        self._at = number
        self._last_site = number + 1 == len(self._sites)
        self._addresses = self._sessions = 0
        site = self._sites[number]
        if site.port == 0:
            result = Hosts((Host(settings.myhostname, site.domain, 0, socket.AF_UNIX),))
        elif settings.lmtp or site.bracketed or not settings.dns_enabled:
            result = await self._lookup.host(site.domain, site.port, self.detect_loops)
        else:
            result = await self._lookup.domain(site.domain, site.port, self.detect_loops)
        self._hosts = list(result.hosts)
        if number == 0:
            self.first_hosts = result.hosts
        if result.trouble is not None:
            self.trouble = result.trouble
            self.loop_detected = result.trouble.dsn[1:] == ".4.6"
        if result.myself or (not result.hosts and self.loop_detected):
            self._last_site = True
