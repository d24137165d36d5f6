"""Content that cannot be taken as it is: header fields to take out or to add, and where the header ends unclearly.

Called by cleanup.intake for the few messages whose HeaderScan found something to repair, and for mail of our own
clients that lacks Date, From or Message-Id. The content comes and goes in wire form; the header lies in its first
chunk. Raises nothing. RFC 5322 section 3.6; message_drop_headers and local_header_rewrite_clients in postconf(5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from fastmta._ext.headers import HeaderScan, header_name_length
from fastmta.address.quote import quote_822_local

# HeaderScan.seen
SEEN_DATE: Final = 1
SEEN_FROM: Final = 2
SEEN_MESSAGE_ID: Final = 4
SEEN_RESENT: Final = 8
SEEN_RESENT_DATE: Final = 16
SEEN_RESENT_FROM: Final = 32
SEEN_RESENT_MESSAGE_ID: Final = 64
SEEN_ALL: Final = SEEN_DATE | SEEN_FROM | SEEN_MESSAGE_ID

# HeaderScan.repairs
REPAIR_NO_BLANK: Final = 1
REPAIR_DROP: Final = 2
REPAIR_COLON: Final = 4
REPAIR_MAILBOX_LINE: Final = 8

_DROPPED: Final = frozenset((b"bcc", b"content-length", b"resent-bcc", b"return-path"))


def header_rewrite_clients(
    permits: Iterable[str], is_own: Callable[[str], bool], is_mynetwork: Callable[[str], bool]
) -> Callable[[str], bool]:
    """local_header_rewrite_clients as a test of client addresses. What else it may list is not supported yet."""
    tests = {"permit_inet_interfaces": is_own, "permit_mynetworks": is_mynetwork}
    chosen = [tests[permit] for permit in permits if permit in tests]
    return lambda address: any(test(address) for test in chosen)


def repair(content: list[bytes], scan: HeaderScan) -> None:
    """Change the content in place as scan.repairs demands. It has to be scanned again then: one repair may uncover
    others.
    """
    if scan.repairs & REPAIR_MAILBOX_LINE:
        _mark_mailbox_lines(content)
        return
    first = content[0]
    header, rest = first[: scan.header_end], first[scan.header_end :]
    if scan.repairs & (REPAIR_DROP | REPAIR_COLON):
        header = _clean_fields(header)
    content[0] = header + b"\r\n" + rest if scan.repairs & REPAIR_NO_BLANK else header + rest


def missing_fields(seen: int, sender: str, queue_id: str, myhostname: str, when: float, date: bytes) -> bytes:
    """The header fields that a message of our own clients must have and lacks: Message-Id, Date, From, or their
    Resent-s.
    """
    prefix = b""
    if seen & SEEN_RESENT:
        seen, prefix = seen // (SEEN_RESENT_DATE // SEEN_DATE), b"Resent-"
    out = b""
    if not seen & SEEN_MESSAGE_ID:
        out += b"%bMessage-Id: %b\r\n" % (prefix, new_message_id(queue_id, myhostname, when).encode())
    if not seen & SEEN_DATE:
        out += b"%bDate: %b\r\n" % (prefix, date)
    if not seen & SEEN_FROM:
        address = quote_822_local(sender or "MAILER-DAEMON").encode("utf-8", "surrogateescape")
        out += b"%bFrom: %b\r\n" % (prefix, address)
    return out


def new_message_id(queue_id: str, myhostname: str, when: float) -> str:
    """A Message-Id for a message of ours. A short queue id comes again, so it gets the time in front."""
    if len(queue_id) > 11 and "z" in queue_id:
        return f"<{queue_id}@{myhostname}>"
    return f"<{time.strftime('%Y%m%d%H%M%S', time.gmtime(when))}.{queue_id}@{myhostname}>"


def _mark_mailbox_lines(content: list[bytes]) -> None:
    """Turn the "From " lines of an mbox in front of the content into harmless header fields."""
    whole = b"".join(content)
    out = b""
    while whole.lstrip(b">").startswith(b"From "):
        line, end, whole = whole.partition(b"\r\n")
        out += b"X-Mailbox-Line: " + line + end
    content[:] = [out + whole]


def _clean_fields(header: bytes) -> bytes:
    """Without the fields that must not travel on, and without white space in front of colons."""
    out: list[bytes] = []
    kept = True
    for line in header.splitlines(keepends=True):
        if line[:1] not in (b" ", b"\t"):
            length = header_name_length(line)
            name = line[:length]
            kept = name.lower() not in _DROPPED
            if line[length : length + 1] != b":":
                line = name + line[length:].lstrip(b" \t")
        if kept:
            out.append(line)
    return b"".join(out)
