"""Hand a request to another transport of this worker: best_mx_transport, for mail that would loop back to this system.

deliver/agents.py makes the `pass_on` of the agents' context from it. The other agent gets a slot with this one
request; the queue manager sees one delivery all the time. Raises nothing. Postfix's deliver_pass(3),
best_mx_transport in postconf(5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from fastmta.deliver.agent import Agent, DeliveryRequest
from fastmta.model.message import Message
from fastmta.model.outcome import Attempt, Deferred, Result


class _Destination:
    """Where the request goes now."""

    def __init__(self, transport: str, nexthop: str) -> None:
        self.transport = transport
        self.nexthop = nexthop


class _Passed:
    """A request under another next hop."""

    def __init__(self, request: DeliveryRequest, nexthop: str) -> None:
        self._request = request
        self.message: Message = request.message
        self.recipients = request.recipients
        self.nexthop = nexthop
        self.started = request.started

    def finish(self, results: list[Result], attempt: Attempt, site_down: Deferred | None = None) -> None:
        """Report; the site that looks dead is not the one that the queue manager thinks of."""
        self._request.finish(results, attempt)


class _OneRequest:
    """A slot with one request."""

    def __init__(self, destination: _Destination, request: _Passed) -> None:
        self.destination = destination
        self._request: _Passed | None = request

    def take(self) -> DeliveryRequest | None:
        """The request, once."""
        request, self._request = self._request, None
        return request

    def release(self) -> None:
        """Nothing is held."""


def passer(agents: Mapping[str, Agent]) -> Callable[[DeliveryRequest, str], None]:
    """A function that hands requests to "transport" or "transport:nexthop"; without a next hop, it is the recipient's
    domain.
    """

    def pass_on(request: DeliveryRequest, target: str) -> None:
        transport, _, nexthop = target.partition(":")
        if not nexthop:
            first = request.message.envelope.recipients[request.recipients[0]]
            nexthop = first.address.rpartition("@")[2]
        agent = agents.get(transport)
        if agent is None:
            result = Deferred("4.3.5", f"mail transport unavailable: {transport}")
            attempt = Attempt(setup=max(0.0, time.time() - request.started))
            request.finish([result] * len(request.recipients), attempt)
        else:
            agent.slot(_OneRequest(_Destination(transport, nexthop), _Passed(request, nexthop)))

    return pass_on
