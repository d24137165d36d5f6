"""What became of the recipients of one request, as far as its hosts have said.

deliver/delivery.py makes one when a request is more than "delivered to all at the first host", and hands in what each
session brought. A recipient has a result, or is left for the next host: after a soft error at a host that was not the
last one. Raises nothing. Postfix's smtp_trouble.c, smtp_rcpt.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastmta._ext.smtpclient import STATE_DOT, STATE_RCPT, Transaction
from fastmta.deliver.agent import DeliveryRequest
from fastmta.deliver.lookup import Host
from fastmta.deliver.trouble import Trouble, said
from fastmta.model.outcome import Attempt, Deferred, Result, Sent

EXCUSE: Final = "server unavailable or unable to receive mail"


class Round:
    """The recipients of one request, by their positions in request.recipients."""

    __slots__ = (
        "_earlier",
        "_info",
        "_results",
        "_soft_bounce",
        "complete_session",
        "left",
        "request",
        "site_down",
        "trouble",
    )

    def __init__(self, request: DeliveryRequest, soft_bounce: bool, info: Callable[[str], None]) -> None:
        """info logs a line: why a host is passed over."""
        self.request = request
        self.left = list(range(len(request.recipients)))  # without a result
        self.trouble: Trouble | None = None  # the latest
        self.site_down: Deferred | None = None
        self.complete_session = False  # a server has been through with its part: the site is not dead
        self._results: list[Result | None] = [None] * len(request.recipients)
        self._earlier: dict[int, Attempt] = {}
        self._soft_bounce = soft_bounce
        self._info = info

    @property
    def untouched(self) -> bool:
        """Whether no recipient has a result."""
        return len(self.left) == len(self._results)

    def recipients(self) -> list[int]:
        """Those left, as indexes into envelope.recipients."""
        return [self.request.recipients[position] for position in self.left]

    def absorb(self, transaction: Transaction, host: Host, lost: Trouble | None, final: bool, again: bool) -> None:
        """Give each recipient what the server said. lost: for those that it said nothing about; final: no host is left;
        again: those that were lost are to be tried again here, in any case.
        """
        known: dict[int, Result | Trouble] = {}
        kept: list[int] = []
        for number, position in enumerate(self.left):
            reply = transaction.reply if transaction.replies is None else transaction.replies[number]
            meaning = known.get(id(reply))
            first = meaning is None
            if meaning is None:
                if reply is None:
                    meaning = lost or Trouble("4.3.0", EXCUSE)
                elif reply.stage == STATE_DOT and reply.code // 100 == 2:
                    meaning = Sent(reply.dsn, reply.text, host.name, reply.text)
                else:
                    meaning = said(reply, host.name, host.peer)
                known[id(reply)] = meaning
            if not isinstance(meaning, Trouble):
                self._results[position] = meaning
                continue
            self.trouble = meaning
            if (meaning.soft or self._soft_bounce) and (not final or (again and reply is None)):
                if first or (reply is not None and reply.stage == STATE_RCPT):
                    self._info(f"{self.request.message.queue_id}: {meaning.text}")
                kept.append(position)
            else:
                self._settle(position, meaning)
        self.left = kept
        if lost is None:
            self.complete_session = True

    def fail(self, trouble: Trouble, final: bool) -> None:
        """The same trouble for all that are left."""
        self.trouble = trouble
        if (trouble.soft or self._soft_bounce) and not final:
            self._info(f"{self.request.message.queue_id}: {trouble.text}")
            return
        for position in self.left:
            self._settle(position, trouble)
        self.left = []

    def session_over(self, attempt: Attempt) -> None:
        """Who is left goes to another host: those who are not were answered in this session, and are logged so."""
        for index, result in zip(self.request.recipients, self._results, strict=True):
            if result is not None:
                self._earlier.setdefault(index, attempt)

    def finish(self, attempt: Attempt) -> None:
        """Report."""
        attempt.earlier = self._earlier or None
        missing = Deferred("4.3.0", EXCUSE)
        self.request.finish([result or missing for result in self._results], attempt, self.site_down)

    def _settle(self, position: int, trouble: Trouble) -> None:
        outcome = trouble.outcome(self._soft_bounce)
        self._results[position] = outcome
        if trouble.throttle and isinstance(outcome, Deferred) and not self.complete_session and self.site_down is None:
            self.site_down = outcome
