"""From a message's recipients to destinations: resolve, redirect what cannot go out, and group.

Called by active.py for each message that becomes active. A recipient gets either a destination of the scheduler or an
outcome at once (bad address, transport put off by defer_transports, unknown transport, dead destination). Queue names
are Postfix's: the next hop, or user@nexthop without the address extension where the transport takes one recipient at
a time, so that each recipient has a window of its own; in lower case. Nothing is raised. Reference:
qmgr_message_resolve, qmgr_message_assign.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from fastmta._ext.sched import Destination, Scheduler, Transport
from fastmta.model.envelope import Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Bounced, Deferred, Outcome
from fastmta.qmgr.ports import Log, Resolved, Resolver
from fastmta.qmgr.settings import QmgrSettings
from fastmta.tables.keys import split_extension
from fastmta.tables.lookup import TempFail

BAD_SYNTAX: Final = Bounced("5.1.3", "bad address syntax")
NULL_RECIPIENT: Final = Bounced("5.1.3", "null recipient address")
DEFERRED_TRANSPORT: Final = Deferred("4.3.2", "deferred transport")
LOOKUP_FAILURE: Final = Deferred("4.3.0", "address resolver failure")
UNAVAILABLE: Final = Deferred("4.3.0", "mail transport unavailable")

TRANSPORT_RETRY: Final = 60.0  # seconds between warnings about one (transport_retry_time)

# Their destinations stand for reasons, not for sites: they never die and are not per recipient.
REASON_TRANSPORTS: Final = frozenset({"error", "retry"})


class Router:
    """Finds the destination of a recipient."""

    def __init__(
        self,
        settings: QmgrSettings,
        resolver: Resolver,
        scheduler: Scheduler,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        """settings says what is put off."""
        self._log = log
        self._clock = clock
        self._warned: dict[str, float] = {}  # transports that are not there: when that was logged
        self._settings = settings
        self._resolver = resolver
        self._transports: dict[str, Transport] = scheduler.transports
        self._single: dict[str, bool] = {}
        self.recipient = ""  # the address that `route` was asked about, as the transport is to get it

    def add(self, transport: Transport) -> None:
        """A transport of master.cf that can be resolved to."""
        rules = transport.rules
        self._single[rules.name] = rules.destination_recipient_limit == 1 and rules.name not in REASON_TRANSPORTS

    def route(self, address: str, flush: bool = False, sender: str = "") -> Destination | Outcome:
        """The destination of an address, or its outcome at once. flush: an asked-for attempt puts nothing off."""
        self.recipient = address
        if not address:
            return NULL_RECIPIENT
        if address[0] == "-" and not self._settings.allow_min_user:
            return BAD_SYNTAX
        try:
            resolved = self._resolver.resolve(address, sender)
        except TempFail:
            return LOOKUP_FAILURE
        if isinstance(resolved, Outcome):
            return resolved
        self.recipient = resolved.recipient
        name = resolved.transport
        transport = self._transports.get(name)
        if transport is None:
            self._warn(name)
            return UNAVAILABLE
        if name in self._settings.defer_transports and not flush:
            return DEFERRED_TRANSPORT
        nexthop = resolved.nexthop
        queue_name = self._queue_name(resolved) if self._single[name] else nexthop
        destination = transport.destinations.get(queue_name)
        if destination is None:
            destination = transport.destination(destination_name(queue_name), nexthop)
        if destination.busy == 0:
            # With a place at work it is alive, or finds out itself.
            if flush:
                destination.window.revive()
            else:
                dead = destination.dead_reason()
                if dead is not None:
                    return dead
        return destination

    def _warn(self, name: str) -> None:
        """Something resolves to a transport that master.cf does not have: said once a minute."""
        now = self._clock()
        if self._warned.get(name, 0.0) + TRANSPORT_RETRY <= now:
            self._warned[name] = now
            self._log.warning("qmgr", f"connect to transport private/{name}: No such file or directory")

    def _queue_name(self, resolved: Resolved) -> str:
        local = resolved.recipient.rpartition("@")[0] or resolved.recipient
        bare, _ = split_extension(local, self._settings.recipient_delimiter)
        return f"{bare}@{resolved.nexthop}"


def destination_name(nexthop: str) -> str:
    """What the queue for a next hop is called: hosts are the same in any case, paths of sockets are not."""
    return nexthop if nexthop.startswith("unix:") else nexthop.lower()


def redirect(message: Message, changed: dict[int, str]) -> None:
    """Give recipients (by index) the address that theirs leads to: "user%there@here" is user@there from here on."""
    recipients = list(message.envelope.recipients)
    for index, address in changed.items():
        known = recipients[index]
        recipients[index] = Recipient(address, known.orig_to or known.address, known.dsn_orcpt, known.dsn_notify)
    message.envelope = msgspec.structs.replace(message.envelope, recipients=tuple(recipients))


def in_order(pairs: list[tuple[int, str, Destination]]) -> list[tuple[Destination, list[int]]]:
    """Recipients (index, address, destination) by destination, then by domain and address, as Postfix sorts them."""
    groups: dict[Destination, list[tuple[str, str, int]]] = {}
    for index, address, destination in pairs:
        groups.setdefault(destination, []).append((address.rpartition("@")[2].lower(), address, index))
    found = []
    for destination, members in groups.items():
        members.sort()
        found.append((destination, [index for _domain, _address, index in members]))
    return found
