"""The two forms of a queue listing: for people, as mailq always looked, and JSON, an object a line.

cli/postqueue.py and cli/mailq.py feed entries of the queue, one by one, and write what comes back: nothing is kept but
two totals. To the letter of Postfix 3.7: showq(8), postqueue(1) under "JSON object format". Recipients with a reason
come first, in the order in which they were deferred, then those without. Raises nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Final

from fastmta.address.quote import quote_822_local
from fastmta.model.envelope import Recipient
from fastmta.model.message import FLAG_EXPIRE
from fastmta.queue.listing import ACTIVE, HOLD, Entry

EMPTY: Final = "Mail queue is empty\n"
_SHORT_HEADING: Final = "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------\n"
_LONG_HEADING: Final = "----Queue ID----- --Size-- ---Arrival Time---- --Sender/Recipient------\n"
_SHORT_INDENT: Final = " " * 41
_LONG_INDENT: Final = " " * 47
_REASON_WIDTH: Final = 76  # columns of a reason, without its parentheses
_UNPRINTABLE: Final = dict.fromkeys((*range(32), 127, *range(0xD800, 0xE000)), "?")
_MARKS: Final = {ACTIVE: "*", HOLD: "!"}


def printable(text: str) -> str:
    """Control characters, and bytes that are no UTF-8, as question marks."""
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_UNPRINTABLE)


def shown_address(address: str, empty: str) -> str:
    """An address as listings show it: quoted where it must be, the null sender by the name that mail for it has."""
    return printable(quote_822_local(address)) if address else empty


def recipients(entry: Entry) -> Iterator[tuple[Recipient, str]]:
    """The recipients that are left, each with its reason or ""."""
    envelope, done, deferred = entry.envelope, entry.done, entry.deferred
    if not deferred:
        for index, recipient in enumerate(envelope.recipients):
            if not (done and done[index]):
                yield recipient, ""
        return
    for index, result in deferred.items():
        if not (done and done[index]):
            yield envelope.recipients[index], result.text
    for index, recipient in enumerate(envelope.recipients):
        if index not in deferred and not (done and done[index]):
            yield recipient, ""


class MailqFormat:
    """The listing for people."""

    def __init__(self, *, long_ids: bool, empty_address: str) -> None:
        """long_ids is enable_long_queue_ids; empty_address is empty_address_recipient."""
        self._empty = empty_address
        self._indent = _LONG_INDENT if long_ids else _SHORT_INDENT
        self._heading = _LONG_HEADING if long_ids else _SHORT_HEADING
        self._long = long_ids
        self._messages = 0
        self._bytes = 0

    def message(self, entry: Entry) -> str:
        """One message with its recipients."""
        envelope = entry.envelope
        lead = "\n" if self._messages else self._heading
        self._messages += 1
        self._bytes += envelope.size
        queue_id = envelope.queue_id + _MARKS.get(entry.queue, "")
        if entry.flags & FLAG_EXPIRE:
            queue_id += "#"
        arrival = time.asctime(time.localtime(envelope.arrival))
        sender = shown_address(envelope.sender, self._empty)
        if self._long:
            lines = [f"{lead}{queue_id:<17} {envelope.size:8d} {arrival[:19]} {sender}\n"]
        else:
            lines = [f"{lead}{queue_id:<11} {envelope.size:7d} {arrival[:20]} {sender}\n"]
        last_reason = ""
        for recipient, reason in recipients(entry):
            if reason != last_reason:
                last_reason = reason
                shown = f"({printable(reason) or 'reason unavailable'})"
                lines.append(f"{shown:>{_REASON_WIDTH + 2}}\n")
            lines.append(f"{self._indent}{shown_address(recipient.address, self._empty)}\n")
        return "".join(lines)

    def end(self) -> str:
        """The totals."""
        if not self._messages:
            return EMPTY
        plural = "" if self._messages == 1 else "s"
        return f"\n-- {self._bytes // 1024} Kbytes in {self._messages} Request{plural}.\n"


class JsonFormat:
    """The listing for programs."""

    def __init__(self, *, empty_address: str) -> None:
        """empty_address is empty_address_recipient."""
        self._empty = empty_address

    def message(self, entry: Entry) -> str:
        """One message, a line."""
        envelope = entry.envelope
        rows = []
        for recipient, reason in recipients(entry):
            row = f'"address": {self._address(recipient.address)}'
            if recipient.orig_to and recipient.orig_to != recipient.address:
                row = f'"orig_address": {self._address(recipient.orig_to)}, {row}'
            if reason:
                row = f'{row}, "delay_reason": {_quoted(printable(reason))}'
            rows.append(f"{{{row}}}")
        return (
            f'{{"queue_name": "{entry.queue}", "queue_id": {_quoted(envelope.queue_id)}, '
            f'"arrival_time": {int(envelope.arrival)}, "message_size": {envelope.size}, '
            f'"forced_expire": {"true" if entry.flags & FLAG_EXPIRE else "false"}, '
            f'"sender": {self._address(envelope.sender)}, "recipients": [{", ".join(rows)}]}}\n'
        )

    def end(self) -> str:
        """Nothing: a stream of objects has no end mark."""
        return ""

    def _address(self, address: str) -> str:
        return _quoted(shown_address(address, self._empty))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
