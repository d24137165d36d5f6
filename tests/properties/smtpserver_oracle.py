"""Content of DATA and BDAT, the slow and obvious way; and a recorder that runs the machine, whole or in pieces.

The rules are those of Postfix's smtpd and cleanup: smtpd_forbid_bare_newline, line_length_limit, message_size_limit,
cleanup_replace_stray_cr_lf.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from fastmta._ext.smtpserver import NOTICE_PIPELINING, SmtpServer
from fastmta._ext.smtpsession import Limits, ReadBuffer
from fastmta.model.envelope import CONTENT_8BIT, CONTENT_DOT_STUFFED, CONTENT_HEADER_8BIT, CONTENT_LONG_LINE

ALLOWED, NORMALIZE, REJECT, NOTE = 0, 1, 3, 5
MODES = (ALLOWED, NORMALIZE, REJECT, NOTE)


class Content(NamedTuple):
    wire: bytes
    end: int  # where the content ends in the input, or -1
    size: int
    flags: int
    bare_lf: bool


def records(data: bytes, limit: int) -> Iterator[tuple[bytes, bool, int]]:
    """(bytes without LF, ended with LF, where it ends): lines, or pieces of limit bytes of longer lines."""
    at = 0
    while at < len(data):
        piece = data[at : at + limit]
        lf = piece.find(b"\n")
        if lf >= 0:
            at += lf + 1
            yield piece[:lf], True, at
        elif len(piece) < limit:
            return
        elif piece.endswith(b"\r"):
            after = data[at + limit : at + limit + 1]
            if not after:
                return
            at += limit + (after == b"\n")
            yield piece, after == b"\n", at
        else:
            at += limit
            yield piece, False, at


def read_content(data: bytes, mode: int, *, chunked: bool = False, limit: int = 2048, strip: bool = True) -> Content:
    """The content at the beginning of data; for BDAT all of it."""
    wire = b""
    size = flags = 0
    starts = first = header = True
    was_bare = saw_bare = False
    found = list(records(data, limit))
    used = found[-1][2] if found else 0
    if chunked and used < len(data):
        found.append((data[used:], True, -1))
    elif chunked and found and not found[-1][1]:
        found.append((b"", True, -2))
    for raw, whole, end in found:
        bare = whole and not raw.endswith(b"\r")
        text = raw
        if whole and mode == ALLOWED:
            text = raw.rstrip(b"\r")
        elif whole and not bare and end >= 0:
            text = raw[:-1]
        if mode != ALLOWED and bare and end >= 0:
            saw_bare = True
        prefix = b""
        if first and starts:
            if re.match(rb">*From ", text):
                prefix = b"X-Mailbox-Line: "
                size += 16
            else:
                first = False
                if text[:1] in (b" ", b"\t") and text:
                    wire += b"\r\n"
                    size += 2
                    header = False
        dot = starts and not prefix and text.startswith(b".")
        if dot and text == b"." and whole and not chunked:
            if mode == ALLOWED or not (bare or was_bare):
                return Content(wire, end, size, flags, saw_bare)
        else:
            meant = text[1:] if dot and not chunked else text
            size += len(meant) + 2
            if dot:
                flags |= CONTENT_DOT_STUFFED
            if len(meant) > 998:
                flags |= CONTENT_LONG_LINE
            if not text.isascii():
                flags |= CONTENT_8BIT | (CONTENT_HEADER_8BIT if header else 0)
            if starts and not text and not prefix and whole:
                header = False
            if strip:
                text = text.replace(b"\r", b" ")
            wire += prefix + (b"." if dot and chunked else b"") + text + (b"\r\n" if whole else b"")
        starts = whole
        was_bare = bare and mode != ALLOWED
    return Content(wire, -1, size, flags, saw_bare)


Event = tuple[Any, ...]


class Recorder:
    """A handler that says yes to everything and writes down what it was asked; `later` answers after the hook."""

    client = "client.example[192.0.2.1]"

    def __init__(self, later: bool = False) -> None:
        self.events: list[Event] = []
        self.later = later
        self.owed: bytes | None = None

    def _say(self, reply: bytes) -> bytes | None:
        if self.later:
            assert self.owed is None, "asked again before the answer"
            self.owed = reply
            return None
        return reply

    def helo(self, name: str, esmtp: bool) -> bytes | None:
        self.events.append(("helo", name, esmtp))
        return self._say(b"250 hello\r\n")

    def mail(self, sender: str, size: int, body: str, smtputf8: bool, dsn_ret: int, dsn_envid: str) -> bytes | None:
        self.events.append(("mail", sender, size, body, smtputf8, dsn_ret, dsn_envid))
        return self._say(b"250 2.1.0 Ok\r\n")

    def rcpt(self, address: str, dsn_orcpt: str, dsn_notify: int) -> bytes | None:
        self.events.append(("rcpt", address, dsn_orcpt, dsn_notify))
        return self._say(b"550 5.1.1 no\r\n" if address.startswith("no") else b"250 2.1.5 Ok\r\n")

    def data(self) -> bytes | None:
        self.events.append(("data",))
        return self._say(b"354 go\r\n")

    def end_of_data(self, content: list[bytes], size: int, records: int, flags: int, chunked: int) -> bytes | None:
        self.events.append(("content", b"".join(content), size, records, flags, chunked))
        return self._say(b"250 2.0.0 Ok: queued as X\r\n")

    def vrfy(self, address: str, said: bytes) -> bytes | None:
        self.events.append(("vrfy", address))
        return self._say(b"252 2.0.0 x\r\n")

    def etrn(self, domain: str) -> bytes | None:
        self.events.append(("etrn", domain))
        return self._say(b"459 no\r\n")

    def starttls(self) -> bytes | None:
        self.events.append(("starttls",))
        return self._say(b"454 4.7.0 not now\r\n")

    def reset(self) -> None:
        self.events.append(("reset",))

    def notice(self, kind: int, text: bytes) -> None:
        if kind != NOTICE_PIPELINING:  # what is early depends on how the input is cut
            self.events.append(("notice", kind, text))


def plain_mailbox(token: bytes, strict: bool, utf8: bool) -> str | None:
    """Enough for these tests."""
    text = token.decode("latin-1")
    return text[1:-1] if text.startswith("<") and text.endswith(">") else None


def limits(**changes: Any) -> Limits:
    """Without what depends on timing, or ends a session early."""
    return Limits(
        **{
            "myhostname": b"mail.example",
            "parse_mailbox": plain_mailbox,
            "forbid_unauth_pipelining": False,
            "soft_error_limit": 1000,
            "hard_error_limit": 1000,
            "error_sleep_time": 0.0,
            "offer_starttls": True,
            **changes,
        }
    )


class Outcome(NamedTuple):
    events: list[Event]
    output: bytes
    state: tuple[Any, ...]


def run(
    pieces: Iterable[bytes], mode: int = NORMALIZE, *, later: bool = False, through_buffer: bool = False, **changes: Any
) -> Outcome:
    """Feed the machine."""
    handler = Recorder(later)
    machine = SmtpServer(handler, limits(**changes), mode)
    buffer = ReadBuffer(1 << 17)
    output = [machine.greet(b"220 hi\r\n") or b""]

    def settle() -> None:
        while True:
            if handler.owed is not None:
                reply, handler.owed = handler.owed, None
                output.append(machine.resume(reply) or b"")
            elif machine.attention & 2:
                output.append(machine.wake() or b"")
            else:
                return

    for piece in pieces:
        if through_buffer:
            view = buffer.get_buffer(-1)
            view[: len(piece)] = piece
            output.append(machine.feed(buffer, len(piece)) or b"")
            view[: len(piece)] = bytes(len(piece))  # nothing may refer to the buffer any more
        else:
            output.append(machine.feed_bytes(piece) or b"")
        settle()
    state = (machine.attention, machine.counters(), machine.where(), machine.errors, machine.recipients, machine.esmtp)
    return Outcome(handler.events, b"".join(output), state)


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """data in pieces, cut at these places."""
    marks = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks) if a < b]


Check = Callable[[bytes], None]
