"""The intake: what it makes of a message, what it answers, and the header scan against a slow and plain reading."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmta._ext.headers import HeaderScan
from fastmta.address.rewrite import RewriteSettings
from fastmta.cleanup import intake as intake_module
from fastmta.cleanup.intake import Intake, IntakeSettings
from fastmta.cleanup.received import ReceivedMaker, mail_date
from fastmta.model.envelope import (
    CONTENT_8BIT,
    CONTENT_DOT_STUFFED,
    CONTENT_HEADER_8BIT,
    CONTENT_LONG_LINE,
    KIND_BOUNCE,
    Origin,
    Recipient,
)
from fastmta.model.message import Message
from fastmta.queue.errors import QueueFailed, QueueFull
from fastmta.smtpd.transaction import Transaction

LIMIT = 2048
ORIGIN = Origin("client.example", "192.0.2.1", 1, "client.example", "ESMTP")
FIELDS = b"From: a@b\r\nDate: x\r\nMessage-Id: <1@b>\r\n"


class Queue:
    """Appends, or fails as told."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.messages: list[Message] = []
        self.lines: list[str] = []
        self.admitted: list[Message] = []
        self.later: list[Callable[[], None]] = []

    def new_queue_id(self, now: float) -> str:
        return f"4Z{len(self.messages)}"

    def append(self, message: Message, done: Callable[[BaseException | None], None]) -> None:
        self.messages.append(message)
        self.later.append(lambda: done(self.error))

    def write(self, service: str, line: str) -> None:
        self.lines.append(f"{service}: {line}")

    def warning(self, service: str, text: str) -> None:
        self.write(service, "warning: " + text)

    def panic(self, service: str, text: str, error: BaseException | None = None) -> None:
        self.write(service, "panic: " + "".join(traceback.format_exception(error)))

    def commit(self) -> None:
        while self.later:
            self.later.pop(0)()


def make(queue: Queue, local: bool = False, **settings: object) -> Intake:
    return Intake(
        IntakeSettings("mx.example.org", **settings),  # type: ignore[arg-type]
        queue,
        queue,
        queue.admitted.append,
        lambda error: isinstance(error, QueueFull),
        lambda address: local,
    )


def transaction(content: bytes, *recipients: str, sender: str = "s@x.example", origin: Origin = ORIGIN) -> Transaction:
    to = [Recipient(address) for address in recipients or ("r@y.example",)]
    return Transaction("4X1", 1000.0, sender, to, [content] if content else [], origin)


def test_accepted_only_when_durable() -> None:
    queue, replies = Queue(), list[bytes]()
    make(queue).accept(transaction(FIELDS + b"\r\nbody\r\n"), replies.append)
    assert replies == [] and queue.admitted == []
    queue.commit()
    assert replies == [b"250 2.0.0 Ok: queued as 4X1\r\n"]
    (message,) = queue.admitted
    assert message.envelope.recipients == (Recipient("r@y.example"),)
    assert queue.lines == ["cleanup: 4X1: message-id=<1@b>"]


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (QueueFull("full"), b"452 4.3.1 Insufficient system storage\r\n"),
        (QueueFailed("broken"), b"451 4.3.0 Error: queue file write error\r\n"),
        (OSError(5, "Input/output error"), b"451 4.3.0 Error: queue file write error\r\n"),
    ],
)
def test_a_queue_that_cannot(error: BaseException, reply: bytes) -> None:
    queue, replies = Queue(error), list[bytes]()
    make(queue).accept(transaction(FIELDS), replies.append)
    queue.commit()
    assert replies == [reply]
    assert queue.admitted == []


def test_a_queue_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, replies = Queue(), list[bytes]()

    def append(message: Message, done: Callable[[BaseException | None], None]) -> None:
        raise RuntimeError("closing")

    monkeypatch.setattr(queue, "append", append)
    make(queue).accept(transaction(FIELDS), replies.append)
    assert [reply[:4] for reply in replies] == [b"451 "]
    assert "panic: Traceback" in queue.lines[-1]
    assert 'RuntimeError("closing")' in queue.lines[-1]


def test_too_big() -> None:
    queue, replies = Queue(), list[bytes]()
    make(queue, message_size_limit=400).accept(transaction(FIELDS + b"\r\n" + b"x" * 300 + b"\r\n"), replies.append)
    assert replies == [b"552 5.3.4 Error: message file too big\r\n"]
    assert queue.messages == []
    assert "cleanup: warning: 4X1: queue file size limit exceeded" in queue.lines


def test_too_many_hops() -> None:
    queue, replies = Queue(), list[bytes]()
    intake = make(queue, hopcount_limit=3)
    intake.accept(transaction(b"Received: a\r\n" + FIELDS), replies.append)
    queue.commit()
    intake.accept(transaction(b"Received: a\r\nreceived: b\r\n" + FIELDS), replies.append)
    assert [reply[:3] for reply in replies] == [b"250", b"554"]


def test_recipients_are_completed_and_counted_once() -> None:
    queue = Queue()
    intake = make(queue, rewrite=RewriteSettings("origin.example"))
    intake.accept(
        transaction(FIELDS, "user", "R@y.example", "r@Y.example", "z@y.example.", sender="me"), lambda _: None
    )
    envelope = queue.messages[0].envelope
    assert envelope.sender == "me@origin.example"
    assert envelope.recipients == (
        Recipient("user@origin.example", "user"),
        Recipient("R@y.example"),
        Recipient("z@y.example", "z@y.example."),
    )


def test_only_clients_of_ours_get_missing_headers() -> None:
    for local in (False, True):
        queue = Queue()
        make(queue, local).accept(transaction(b"Subject: x\r\n\r\nb\r\n"), lambda _: None)
        content = b"".join(queue.messages[0].content or [])
        assert (b"\r\nFrom: s@x.example\r\n" in content) == local
        assert (b"\r\nMessage-Id: <19700101001640.4X1@mx.example.org>\r\n" in content) == local
        assert content.endswith(b"\r\n\r\nb\r\n")


def test_a_notification_of_ours() -> None:
    queue, answers = Queue(), list[BaseException | None]()
    name = make(queue).accept_own([FIELDS + b"\r\nb\r\n"], "", [Recipient("s@x")], KIND_BOUNCE, 5.0, answers.append)
    assert answers == []
    queue.commit()
    assert answers == [None]
    assert queue.admitted == queue.messages
    assert queue.messages[0].envelope.kind == KIND_BOUNCE
    assert queue.lines == [f"cleanup: {name}: message-id=<1@b>"]


def test_a_notification_that_cannot_be_kept() -> None:
    queue, answers = Queue(QueueFull("full")), list[BaseException | None]()
    make(queue).accept_own([FIELDS], "", [Recipient("s@x")], KIND_BOUNCE, 5.0, answers.append)
    queue.commit()
    assert [type(answer) for answer in answers] == [QueueFull]
    assert queue.admitted == []


def test_received_with_tls_and_ipv6() -> None:
    origin = Origin(
        "unknown",
        "2001:db8::1",
        1,
        "a\r\nb",
        "ESMTPS",
        "using TLSv1.3 with cipher X (256/256 bits)\n key-exchange Y\n(No cert)",
    )
    text, size = ReceivedMaker("mx.example.org").make(origin, True, "4X1", "", 0.0)
    assert text.startswith(
        b"Received: from a??b (unknown [IPv6:2001:db8::1])\r\n"
        b"\t(using TLSv1.3 with cipher X (256/256 bits)\r\n\t key-exchange Y)\r\n\t(No cert)\r\n"
        b"\tby mx.example.org (Postfix) with UTF8SMTPS id 4X1;\r\n\t"
    )
    assert size == len(text)


def test_mail_date(monkeypatch: pytest.MonkeyPatch) -> None:
    for zone, shown in (
        ("UTC", "Thu,  1 Jan 1970 00:00:00 +0000 (UTC)"),
        ("NST3:30", "Wed, 31 Dec 1969 20:30:00 -0330 (NST)"),
        ("IST-5:30", "Thu,  1 Jan 1970 05:30:00 +0530 (IST)"),
    ):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert mail_date(0) == shown
    monkeypatch.undo()
    time.tzset()


def test_replies_are_whole_lines() -> None:
    for name in ("TOO_MANY_HOPS", "TOO_BIG", "QUEUE_FULL", "WRITE_ERROR"):
        assert getattr(intake_module, name).endswith(b"\r\n")


# -- the scan


def plain_size(content: bytes, header_end: int) -> int:
    """Postfix's records, counted one by one."""
    total = 0
    position = 0
    for line in content.split(b"\r\n")[:-1]:
        in_header = position < header_end
        position += len(line) + 2
        pieces = []
        length = len(line)
        if in_header:
            while length > LIMIT:
                pieces.append(LIMIT)
                length -= LIMIT
            pieces.append(length)
        else:
            while length >= LIMIT:
                pieces.append(LIMIT)
                length -= LIMIT
            pieces.append(length)
            if line.startswith(b"."):
                pieces[0] -= 1
        total += sum(1 + (1 if piece < 128 else 2) + piece for piece in pieces)
    return total


def plain_header(content: bytes) -> tuple[int, list[bytes]]:
    """Where the header ends, and its fields, folded lines joined."""
    fields: list[bytes] = []
    position = 0
    for line in content.split(b"\r\n")[:-1]:
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] += b"\n" + line
        else:
            name = line.partition(b":")[0].rstrip(b" \t")
            if b":" not in line or not name or any(not 33 <= char <= 126 for char in name):
                break
            fields.append(line)
        position += len(line) + 2
    return position, fields


LINES = st.sampled_from(
    [
        b"Received: x",
        b"RECEIVED : y",
        b"Message-Id: <a@b>",
        b"message-id:",
        b"Resent-Message-ID: <r>",
        b"Resent-To: q",
        b"From: a",
        b"Date: b",
        b"Bcc: c",
        b"From here",
        b" folded",
        b"\tfolded <x@y>",
        b"",
        b": none",
        b"X: \xff\xe9",
        b".",
        b"..",
        b"..x",
        b"X: " + b"x" * 124,
        b"X" * 1000,
        b"X: " + b"x" * 2045,
        b"." + b"y" * 2047,
        b"y" * 4100,
        b"no colon",
    ]
) | st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))


def found(scan: HeaderScan) -> tuple[object, ...]:
    return (
        scan.size,
        scan.octets,
        scan.header_end,
        scan.flags,
        scan.hops,
        scan.seen,
        scan.repairs,
        scan.message_id,
        scan.resent_message_id,
        scan.more_ids,
    )


@given(st.lists(LINES, max_size=12), st.lists(st.integers(0, 6000), max_size=5))
def test_scan_reads_what_a_plain_reading_reads(lines: list[bytes], cuts: list[int]) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    scan = HeaderScan()
    scan.scan([content] if content else [], LIMIT)
    header_end, fields = plain_header(content)
    assert scan.header_end == header_end
    assert scan.octets == len(content)
    assert scan.size == plain_size(content, header_end)
    names = [field.partition(b":")[0].rstrip(b" \t").lower() for field in fields]
    assert scan.hops == names.count(b"received")
    ids = [field.partition(b":")[2] for field, name in zip(fields, names, strict=True) if name == b"message-id"]
    assert scan.message_id == (ids[-1].lstrip(b" \t\n\v\f").decode("utf-8", "surrogateescape") if ids else None)
    assert bool(scan.flags & CONTENT_8BIT) == any(byte > 127 for byte in content)
    assert bool(scan.flags & CONTENT_HEADER_8BIT) == any(byte > 127 for byte in content[:header_end])
    body = content[header_end:]
    assert bool(scan.flags & CONTENT_DOT_STUFFED) == any(line.startswith(b".") for line in body.split(b"\r\n"))
    assert bool(scan.flags & CONTENT_LONG_LINE) == any(len(line) > 998 for line in lines)
    whole = found(scan)
    pieces = [content[start:end] for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(content)], strict=True)]
    scan.scan(pieces, LIMIT)
    assert b"".join(pieces) == content
    assert found(scan) == whole


@given(st.lists(LINES, max_size=12))
def test_the_intake_takes_anything(lines: list[bytes]) -> None:
    """The body goes through untouched, and what is stored needs no repair any more."""
    queue, replies = Queue(), list[bytes]()
    content = b"".join(line + b"\r\n" for line in lines)
    make(queue).accept(transaction(content), replies.append)
    queue.commit()
    assert replies[0].startswith(b"250 ")
    stored = b"".join(queue.messages[0].content or [])
    assert stored.startswith(b"Received: ") and stored.endswith(b"\r\n")
    scan = HeaderScan()
    scan.scan([stored], LIMIT)
    assert scan.repairs == 0
    assert scan.size == queue.messages[0].envelope.size
