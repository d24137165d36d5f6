"""Resolving where tables are remote: a message waits until it is known where each of its recipients goes.

With local tables only, nobody waits (NEVER). Else master/worker.py hands the same Resolving to the router, as its
resolver, and to Active, which calls is_resolved() for each message that enters the active queue, and goes on with it
when the tables have answered. Nothing is raised. Reference: qmgr_message_resolve.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, TypeAlias

from fastmta.model.message import Message
from fastmta.model.outcome import Outcome
from fastmta.qmgr.ports import Resolved, Resolver
from fastmta.tables.lookup import TempFail

Way: TypeAlias = Resolved | Outcome
Ask: TypeAlias = Callable[[Callable[[], Way]], Awaitable[Way]]
GoOn: TypeAlias = Callable[[Message, bool], object]


class Resolving(Protocol):
    """Who says whether a message has to wait."""

    waiting: dict[Message, asyncio.Task[None]]

    def is_resolved(self, message: Message, flush: bool, go_on: GoOn) -> bool:
        """Can the message be routed now? If not, go_on(message, flush) is called when it can."""


class LocalResolving:
    """All tables are local."""

    waiting: dict[Message, asyncio.Task[None]] = {}  # noqa: RUF012 (nothing is ever put there)

    def is_resolved(self, _message: Message, _flush: bool, _go_on: GoOn) -> bool:
        """Nothing has to be waited for."""
        return True


NEVER: Final = LocalResolving()


class RemoteResolving:
    """Stands for the resolver, and answers for the message that is handed in."""

    def __init__(self, resolver: Resolver, ask: Ask, failed: Callable[[str, BaseException], object]) -> None:
        """ask: tables.maps.Tables.ask. failed: is told of a bug."""
        self.waiting: dict[Message, asyncio.Task[None]] = {}
        self._resolver = resolver
        self._ask = ask
        self._failed = failed
        self._known: dict[str, Way | TempFail] = {}  # by address, of the message that goes on now

    def resolve(self, address: str, _sender: str = "") -> Way:
        """What was found for the message at hand. Raises TempFail."""
        found = self._known[address]
        if isinstance(found, TempFail):
            raise found
        return found

    def is_resolved(self, message: Message, flush: bool, go_on: GoOn) -> bool:
        """False: it never can at once."""
        self.waiting[message] = asyncio.get_running_loop().create_task(self._find(message, flush, go_on))
        return False

    async def _find(self, message: Message, flush: bool, go_on: GoOn) -> None:
        known: dict[str, Way | TempFail] = {}
        recipients = message.envelope.recipients
        for address in {recipients[index].address for index in message.left()}:
            known[address] = await self._one(address, message.envelope.sender)
        del self.waiting[message]
        self._known = known
        try:
            go_on(message, flush)
        except Exception as error:
            self._failed("after resolving", error)
        finally:
            self._known = {}

    async def _one(self, address: str, sender: str) -> Way | TempFail:
        try:
            return await self._ask(lambda: self._resolver.resolve(address, sender))
        except TempFail as failure:
            return failure
        except Exception as error:
            self._failed("resolving", error)
            return TempFail(str(error))
