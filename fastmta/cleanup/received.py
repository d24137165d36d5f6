"""The Received: header that cleanup puts in front of a message, and the date that headers carry.

Called by cleanup.intake once per message, by bounce/ for its notifications. What a session's messages have in common is
made once; the date once a second. Raises nothing. RFC 5321 section 4.4; the form is Postfix's, see smtpd(8).
"""

from __future__ import annotations

import time
from typing import Final

from fastmta._ext.loglines import external
from fastmta.model.envelope import Origin

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# What a HELO name may not bring into a header: it ends in a comment, and in front of one
_NEUTER: Final = str.maketrans(dict.fromkeys('<>()\\";@' + bytes([*range(32), 127]).decode(), "?"))
_ORIGINS_KEPT: Final = 4096


def mail_date(when: float) -> str:
    """A Unix time as a header has it: "Mon, 23 Nov 2026 08:40:04 +0000 (UTC)", in local time."""
    t = time.localtime(when)
    minutes = t.tm_gmtoff // 60
    sign = "-" if minutes < 0 else "+"
    hours, minutes = divmod(abs(minutes), 60)
    return (
        f"{_DAYS[t.tm_wday]}, {t.tm_mday:2d} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
        f"{t.tm_hour:02d}:{t.tm_min:02d}:{t.tm_sec:02d} {sign}{hours:02d}{minutes:02d} ({t.tm_zone})"
    )


def records_size(header: bytes) -> int:
    """How Postfix counts lines in its queue file: each is its type, its length and its bytes, without the CRLF."""
    if len(header) < 128:
        return len(header)
    return len(header) + sum(len(line) >= 128 for line in header.split(b"\r\n"))


class ReceivedMaker:
    """Makes Received: headers for one server name."""

    def __init__(self, myhostname: str, mail_name: str = "Postfix") -> None:
        """Both go into the "by" line."""
        self._by = f"\tby {myhostname} ({mail_name}) with "
        self._origins: dict[int, tuple[Origin, bytes, int]] = {}
        self._second = -1
        self._date = b""

    def date(self, when: float) -> bytes:
        """mail_date, made once a second."""
        second = int(when)
        if second != self._second:
            self._second = second
            self._date = mail_date(second).encode("ascii", "replace")
        return self._date

    def make(self, origin: Origin, smtputf8: bool, queue_id: str, recipient: str, when: float) -> tuple[bytes, int]:
        """The header, and what Postfix's size= counts for it. recipient: the only one, "" where there are several."""
        known = self._origins.get(id(origin))
        if known is None or known[0] is not origin:
            known = self._remember(origin)
        head = known[1]
        if smtputf8:
            head = head.replace(b" with E", b" with UTF8", 1)
        if recipient:
            named = external(recipient).encode("utf-8", "surrogateescape")
            tail = b"%b\r\n\tfor <%b>; %b\r\n" % (queue_id.encode(), named, self.date(when))
        else:
            tail = b"%b;\r\n\t%b\r\n" % (queue_id.encode(), self.date(when))
        text = head + tail
        if len(text) - known[2] < 128:  # no line of it can be longer than that
            return text, len(text)
        return text, records_size(text)

    def _remember(self, origin: Origin) -> tuple[Origin, bytes, int]:
        helo = (origin.helo or origin.client_name).translate(_NEUTER)
        address = origin.client_address
        if ":" in address:
            address = "IPv6:" + address
        first = f"Received: from {helo} ({origin.client_name} [{address}])\r\n"
        if origin.tls:
            first += _comments(origin.tls)
        head = f"{first}{self._by}{origin.protocol} id ".encode("utf-8", "surrogateescape")
        # Sessions end without telling: forget all now and then. Keeping the object keeps its id its own.
        if len(self._origins) >= _ORIGINS_KEPT:
            self._origins.clear()
        known = (origin, head, len(first) if len(first) < 128 and not origin.tls else 0)
        self._origins[id(origin)] = known
        return known


def _comments(text: str) -> str:
    """The header lines of Origin.tls: one comment, then lines that bring parentheses of their own."""
    lines = text.split("\n")
    count = 1
    while count < len(lines) and not lines[count].startswith("("):
        count += 1
    joined = "\r\n\t".join(lines[:count])
    return f"\t({joined})\r\n" + "".join(f"\t{line}\r\n" for line in lines[count:])
