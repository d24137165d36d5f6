"""Resolving where tables are remote: a message waits until it is known where each of its recipients goes.

With local tables only, nobody waits (at_once). Else master/worker.py puts a Resolving between the resolver and the
router: Active asks is_resolved() for each message that comes in; where it is not, the tables are asked, and the message
is handed in anew when they have answered. Nothing is raised. Reference: qmgr_message_resolve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from fastmta.model.message import Message
from fastmta.model.outcome import Outcome
from fastmta.qmgr.ports import Resolved, Resolver
from fastmta.tables.lookup import TempFail

Way: TypeAlias = Resolved | Outcome
Ask: TypeAlias = Callable[[Callable[[], Way]], Awaitable[Way]]


def at_once(_message: Message, _again: Callable[[Message], object]) -> bool:
    """Nothing has to be waited for."""
    return True


class Resolving:
    """Stands for the resolver, and answers for the message that is handed in."""

    def __init__(self, resolver: Resolver, ask: Ask) -> None:
        """ask: tables.maps.Tables.ask."""
        self._resolver = resolver
        self._ask = ask
        self._known: dict[tuple[str, str], Way | TempFail] = {}  # of the message that is being handed in
        self._ready = ""
        self._waiting: dict[str, asyncio.Task[None]] = {}

    def resolve(self, address: str, sender: str = "") -> Way:
        """What was found for the message at hand. Raises TempFail."""
        found = self._known.get((address, sender))
        if found is None or isinstance(found, TempFail):
            raise found or TempFail("not asked")
        return found

    def is_resolved(self, message: Message, again: Callable[[Message], object]) -> bool:
        """Can the message be routed now? If not, again(message) is called when it can."""
        queue_id = message.queue_id
        if queue_id == self._ready:
            return True
        if queue_id not in self._waiting:
            self._waiting[queue_id] = asyncio.get_running_loop().create_task(self._find(message, again))
        return False

    async def _find(self, message: Message, again: Callable[[Message], object]) -> None:
        envelope = message.envelope
        sender = envelope.sender
        known: dict[tuple[str, str], Way | TempFail] = {}
        for index, recipient in enumerate(envelope.recipients):
            place = recipient.address, sender
            if place in known or (message.done is not None and message.done[index]):
                continue
            try:
                known[place] = await self._ask(lambda place=place: self._resolver.resolve(*place))  # type: ignore[misc]
            except TempFail as failure:
                known[place] = failure
        del self._waiting[envelope.queue_id]
        self._ready, self._known = envelope.queue_id, known
        try:
            again(message)
        finally:
            self._ready, self._known = "", {}
