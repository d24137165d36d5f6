"""The error, retry and discard agents, and one for transports that are not supported yet: no connection, one answer
for all recipients.

Called by qmgr/ through `slot`. For error and retry the next hop is the text to report, with an enhanced status code
in front or not; for discard it is what the log says. Raises nothing. Postfix error(8), discard(8).
"""

from __future__ import annotations

import time

from fastmta.deliver.agent import Slot
from fastmta.model.outcome import Attempt, Bounced, Deferred, Result, Sent, split_dsn


class FixedAgent:
    """Base of the agents that answer without delivering."""

    def __init__(self, ident: str) -> None:
        """ident: what its deliveries are logged as."""
        self.ident = ident

    def slot(self, slot: Slot) -> None:
        """Answer every request of a slot."""
        while (request := slot.take()) is not None:
            attempt = Attempt(setup=max(0.0, time.time() - request.started))
            request.finish([self.outcome(request.nexthop)] * len(request.recipients), attempt)

    def close(self) -> None:
        """Nothing is kept."""

    def outcome(self, nexthop: str) -> Result:
        """What becomes of a recipient."""
        raise NotImplementedError


class ErrorAgent(FixedAgent):
    """Bounce with the text of the next hop."""

    def outcome(self, nexthop: str) -> Result:
        """A bounce; a code of another class is not heeded."""
        dsn, text = split_dsn("5.0.0", nexthop)
        return Bounced(dsn if dsn[0] == "5" else "5.0.0", text)


class RetryAgent(FixedAgent):
    """Defer with the text of the next hop."""

    def outcome(self, nexthop: str) -> Result:
        """A deferral; a code of another class is not heeded."""
        dsn, text = split_dsn("4.0.0", nexthop)
        return Deferred(dsn if dsn[0] == "4" else "4.0.0", text)


class DiscardAgent(FixedAgent):
    """Throw the message away, and say that it was sent."""

    def outcome(self, nexthop: str) -> Result:
        """Sent; the next hop is the log's text."""
        return Sent("2.0.0", nexthop)


class UnavailableAgent(FixedAgent):
    """Defer all mail for a transport that cannot deliver here."""

    def __init__(self, ident: str, reason: str) -> None:
        """reason: what the log and the sender are told."""
        super().__init__(ident)
        self._outcome = Deferred("4.3.0", reason)

    def outcome(self, nexthop: str) -> Result:
        """A deferral."""
        return self._outcome
