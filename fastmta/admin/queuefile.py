"""A queued message shown as the records of a Postfix queue file: what postcat(1) prints.

cli/postcat.py asks for it. There is no such file here: the records are what Postfix would have written for the same
message, with the offsets that they would have there, so that scripts which read postcat's output find what they look
for. Attributes that the queue does not keep (server_address, reverse_client_name ...) are left out. Content is shown as
Postfix keeps it: line ends are LF, dots are not doubled, long lines come in pieces of line_length_limit. Nothing is
raised.
Grammar of the records: rec_type(3), record(3), cleanup(8).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from fastmta.model.envelope import CONTENT_HEADER_8BIT, Recipient
from fastmta.queue.listing import Entry

SIZE: Final = ord("C")
TIME: Final = ord("T")
ATTR: Final = ord("A")
FROM: Final = ord("S")
ORCP: Final = ord("O")
RCPT: Final = ord("R")
DONE: Final = ord("D")
MESG: Final = ord("M")
CONT: Final = ord("L")
NORM: Final = ord("N")
XTRA: Final = ord("X")
END: Final = ord("E")

_NAMES: Final = {
    SIZE: "message_size",
    TIME: "message_arrival_time",
    ATTR: "named_attribute",
    FROM: "sender",
    ORCP: "original_recipient",
    RCPT: "recipient",
    DONE: "done_recipient",
    CONT: "unterminated_text",
    NORM: "regular_text",
}
_MARKERS: Final = {MESG: "MESSAGE CONTENTS", XTRA: "HEADER EXTRACTED", END: "MESSAGE FILE END"}
_ENCODINGS: Final = {"8BITMIME": "8bit", "7BIT": "7bit"}
_SIZE_FORMAT: Final = b"%15d %15d %15d %15d %15d %15d"
_SIZE_RECORD: Final = 2 + 6 * 15 + 5  # bytes on file
_WHITE: Final = (b" ", b"\t")


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One record: its type, its bytes, and where it would begin in the file."""

    type: int
    value: bytes
    offset: int


class Show(msgspec.Struct, frozen=True):
    """What to print: postcat's options -e, -h, -b, -o, -d, -v."""

    envelope: bool = True
    header: bool = True
    body: bool = True
    offsets: bool = False
    types: bool = False
    verbose: bool = False


def path_of(queue: str, queue_id: str) -> str:
    """The name under which Postfix would keep it (with its default hash_queue_names)."""
    return f"{queue}/{queue_id[0]}/{queue_id}" if queue == "deferred" else f"{queue}/{queue_id}"


def records(entry: Entry, content: Iterable[bytes], line_limit: int = 2048) -> Iterator[Record]:
    """The records in their order. content: chunks of the message in wire form, as the queue has it."""
    envelope = [*_envelope(entry)]
    data_offset = _SIZE_RECORD + sum(_length(value) for _, value in envelope) + _length(b"")
    sizes = (
        entry.envelope.size,
        data_offset,
        len(entry.envelope.recipients),
        0,
        entry.envelope.size,
        (1 if entry.envelope.smtputf8 else 0) | (2 if entry.envelope.content_flags & CONTENT_HEADER_8BIT else 0),
    )
    offset = 0
    for kind, value in (
        (SIZE, _SIZE_FORMAT % sizes),
        *envelope,
        (MESG, b""),
    ):
        yield Record(kind, value, offset)
        offset += _length(value)
    for line in lines(content):
        piece = line
        while len(piece) > line_limit:
            yield Record(CONT, piece[:line_limit], offset)
            offset += _length(piece[:line_limit])
            piece = piece[line_limit:]
        yield Record(NORM, piece, offset)
        offset += _length(piece)
    yield Record(XTRA, b"", offset)
    offset += _length(b"")
    encoding = _ENCODINGS.get(entry.envelope.body)
    if encoding:
        value = f"encoding={encoding}".encode()
        yield Record(ATTR, value, offset)
        offset += _length(value)
    yield Record(END, b"", offset)


def lines(content: Iterable[bytes]) -> Iterator[bytes]:
    """Wire form, in chunks cut anywhere -> lines without line ends and without dot-stuffing."""
    rest = b""
    for chunk in content:
        pieces = (rest + chunk).split(b"\r\n")
        rest = pieces.pop()
        for piece in pieces:
            yield piece[1:] if piece.startswith(b".") else piece
    if rest:
        yield rest[1:] if rest.startswith(b".") else rest


def _envelope(entry: Entry) -> Iterator[tuple[int, bytes]]:
    envelope = entry.envelope
    origin = envelope.origin
    seconds = int(envelope.arrival)
    yield TIME, b"%d %d" % (seconds, (envelope.arrival - seconds) * 1_000_000)
    yield _attr("create_time", seconds)
    yield _attr("log_ident", envelope.queue_id)
    yield _attr("rewrite_context", "local")
    if envelope.dsn_envid:
        yield _attr("envelope_id", envelope.dsn_envid)
    if envelope.dsn_ret:
        yield _attr("ret_flags", envelope.dsn_ret)
    yield FROM, _bytes(envelope.sender)
    encoding = _ENCODINGS.get(envelope.body)
    if encoding:
        yield _attr("encoding", encoding)
    if origin.protocol:
        yield _attr("log_client_name", origin.client_name)
        yield _attr("log_client_address", origin.client_address)
        yield _attr("log_client_port", origin.client_port)
        yield _attr("log_message_origin", f"{origin.client_name}[{origin.client_address}]")
        if origin.helo:
            yield _attr("log_helo_name", origin.helo)
        yield _attr("log_protocol_name", origin.protocol)
        yield _attr("client_name", origin.client_name)
        yield _attr("client_address", origin.client_address)
        yield _attr("client_port", origin.client_port)
        if origin.helo:
            yield _attr("helo_name", origin.helo)
        yield _attr("protocol_name", origin.protocol)
        yield _attr("client_address_type", 10 if ":" in origin.client_address else 2)
    for index, recipient in enumerate(envelope.recipients):
        yield from _recipient(recipient, done=bool(entry.done and entry.done[index]))


def _recipient(recipient: Recipient, *, done: bool) -> Iterator[tuple[int, bytes]]:
    if recipient.dsn_notify:
        yield _attr("notify_flags", recipient.dsn_notify)
    if recipient.dsn_orcpt:
        yield _attr("dsn_orig_rcpt", recipient.dsn_orcpt)
    yield ORCP, _bytes(recipient.orig_to or recipient.address)
    yield (DONE if done else RCPT), _bytes(recipient.address)


def _attr(name: str, value: str | int) -> tuple[int, bytes]:
    return ATTR, _bytes(f"{name}={value}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _length(value: bytes) -> int:
    """Bytes of a record on file: its type, its length seven bits at a time, its value."""
    length = len(value)
    total = 2 + length
    while length >= 128:
        length >>= 7
        total += 1
    return total


def is_header(line: bytes) -> bool:
    """Whether a line begins a header: a name of printable characters, perhaps white space, and a colon."""
    name, colon, _ = line.partition(b":")
    name = name.rstrip(b" \t")
    return bool(colon and name) and all(33 <= byte <= 126 for byte in name)


def show(path: str, entry: Entry, content: Callable[[], Iterable[bytes]], what: Show, limit: int) -> Iterator[bytes]:
    """What postcat prints, in pieces. The content is asked for only when it is needed."""
    name = path.encode()
    if what.envelope:
        yield b"*** ENVELOPE RECORDS %s ***\n" % name
    part = "envelope"
    previous = 0
    shown = what.envelope
    needs_text = what.header or what.body
    # the markers after the content have offsets, which take its length to know
    text: Iterable[bytes] = content() if needs_text or what.offsets else ()
    for record in records(entry, text, limit):
        kind = record.type
        prefix = b"%9d " % record.offset if what.offsets else b""
        if what.types:
            prefix += b"%3d " % kind
        if kind in _MARKERS:
            if kind == XTRA and shown and previous == CONT:
                yield b"\n"
            if what.envelope:
                yield prefix + b"*** %s %s ***\n" % (_MARKERS[kind].encode(), name)
            if kind == MESG:
                part, shown = "header", what.header
            else:
                part, shown = "envelope", what.envelope
                if not shown:
                    return
            continue
        if (
            part == "header"
            and previous != CONT
            and kind in (CONT, NORM)
            and not (record.value.startswith(_WHITE) or is_header(record.value))
        ):
            part, shown = "body", what.body
            if not shown and not what.envelope:
                return
        if not shown:
            continue
        yield prefix + _line(record, part, what)
        broken = kind == CONT and (what.verbose or what.offsets)
        previous = 0 if broken else kind


def _line(record: Record, part: str, what: Show) -> bytes:
    kind, value = record.type, record.value
    if kind in (CONT, NORM) and part != "envelope":
        label = f"{_NAMES[kind]}: ".encode() if what.verbose else b""
        end = b"\n" if kind == NORM or what.verbose or what.offsets else b""
        return label + value + end
    if kind == TIME:
        return b"%s: %s\n" % (_NAMES[kind].encode(), _date(value.split()[0]))
    if kind == ATTR:
        attribute, _, number = value.partition(b"=")
        if attribute == b"create_time":
            return b"create_time: %s\n" % _date(number)
    return b"%s: %s\n" % (_NAMES[kind].encode(), value)


def _date(seconds: bytes) -> bytes:
    return time.asctime(time.localtime(int(seconds))).encode()
