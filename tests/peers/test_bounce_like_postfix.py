"""The same failures for a live Postfix and for our bouncer: the same notifications and log lines, to the letter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from email.utils import parsedate_to_datetime

import pytest

from fastmta.address.quote import quote_821_local
from fastmta.address.rewrite import RewriteSettings
from fastmta.bounce.bouncer import Bouncer, BounceSettings
from fastmta.bounce.report import ReportSettings
from fastmta.cleanup.received import ReceivedMaker
from fastmta.model.envelope import (
    CONTENT_HEADER_8BIT,
    KIND_BOUNCE,
    NOTIFY_DELAY,
    NOTIFY_FAILURE,
    NOTIFY_NEVER,
    NOTIFY_SUCCESS,
    RET_FULL,
    RET_HDRS,
    Envelope,
    Origin,
    Recipient,
)
from fastmta.model.message import Message
from fastmta.model.outcome import Bounced, Deferred, Sent
from tests.peers import postfix_relay

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not postfix_relay.AVAILABLE, reason="needs Postfix and root"),
]

PORT, NOISY_PORT, SINK_PORT = 21440, 21441, 21442

BODY = (
    b"From: a@x.example\r\nTo: b@y.example\r\nSubject: hi there\r\nMessage-Id: <o@x.example>\r\n"
    b"Date: Mon, 23 Nov 2026 08:40:04 +0000\r\n\r\nbody\r\n..dot line\r\n"
)
# Times at which a delay notice and an expiry come soon
QUICK = """
delay_warning_time = 1s
queue_run_delay = 1s
minimal_backoff_time = 1s
maximal_backoff_time = 1s
maximal_queue_lifetime = 3s
bounce_queue_lifetime = 3s
notify_classes = bounce, 2bounce, delay
"""
PEER = "127.0.0.1[127.0.0.1]"


@pytest.fixture(scope="module")
def sink() -> Iterator[postfix_relay.Sink]:
    sink = postfix_relay.Sink(SINK_PORT)
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def postfix(sink: postfix_relay.Sink) -> Iterator[postfix_relay.Postfix]:
    server = postfix_relay.Postfix(PORT, SINK_PORT)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def noisy(sink: postfix_relay.Sink) -> Iterator[postfix_relay.Postfix]:
    server = postfix_relay.Postfix(NOISY_PORT, SINK_PORT, QUICK)
    yield server
    server.stop()


class OurSide:
    """A bouncer whose queue keeps the notifications, with the ids and times that Postfix had."""

    def __init__(self, content: list[bytes], notice_ids: Sequence[str], now: float, noisy: bool) -> None:
        self.original = content
        self.ids = list(notice_ids)
        self.lines: list[str] = []
        self.made: list[tuple[str, str, bytes, int]] = []
        rewrite = RewriteSettings("origin.example")
        report = ReportSettings("mx.example.org", "MAILER-DAEMON@origin.example")
        classes = frozenset(("resource", "software"))
        if noisy:
            report = ReportSettings(
                "mx.example.org", "MAILER-DAEMON@origin.example", delay_warning_time=1.0, maximal_queue_lifetime=3.0
            )
            classes = frozenset(("bounce", "2bounce", "delay"))
        settings = BounceSettings(report, rewrite, classes)
        self.bouncer = Bouncer(settings, self, self, self, lambda: now)
        self.answers: list[BaseException | None] = []

    def content(self, message: Message) -> list[bytes]:
        return list(self.original)

    def new_queue_id(self, now: float) -> str:
        return self.ids.pop(0)

    def accept_own(
        self,
        content: list[bytes],
        sender: str,
        recipients: Sequence[Recipient],
        kind: int,
        now: float,
        done: Callable[[BaseException | None], None],
        smtputf8: bool = False,
        queue_id: str = "",
    ) -> str:
        (recipient,) = recipients
        self.made.append((sender, recipient.address, b"".join(content), kind))
        done(None)
        return queue_id

    def write(self, service: str, line: str) -> None:
        self.lines.append(f"postfix/{service}: {line}")

    def warning(self, service: str, text: str) -> None:
        self.write(service, "warning: " + text)


def refused(address: str) -> Bounced:
    reply = postfix_relay.REFUSAL % address
    return Bounced("5.1.1", f"host {PEER} said: {reply} (in reply to RCPT TO command)", "127.0.0.1", reply)


def time_of(content: bytes, field: bytes) -> float:
    match = re.search(rb"^" + field + rb": (.*)\r$", content, re.M)
    assert match
    return parsedate_to_datetime(match[1].decode()).timestamp()


def compare(
    server: postfix_relay.Postfix,
    sink: postfix_relay.Sink,
    tell: Callable[[OurSide, Message], None],
    *,
    sender: str = "s@x.example",
    recipients: list[Recipient],
    content: bytes = BODY,
    options: str = "",
    rcpt_options: str = "",
    notices: int = 1,
    skip: int = 0,
    noisy: bool = False,
    size: int = 0,
    ret: int = 0,
    envid: str = "",
) -> OurSide:
    """Let Postfix report, then let our bouncer tell the same, and hold the notices against each other.

    skip: how many earlier notices for the same message are not looked at.
    """
    client = server.connect()
    client.send("EHLO client.example")
    addresses = [recipient.orig_to or recipient.address for recipient in recipients]
    quoted = quote_821_local(sender)
    queue_id = postfix_relay.queue_id(client.mail(quoted, addresses, content, options, rcpt_options))
    client.close()
    told = server.lines(f"{queue_id}: ", 1)
    if notices:
        told = [line for line in told_of(server, queue_id) if " notification: " in line][skip : skip + notices]
        assert len(told) == notices
    server.lines(f"{queue_id}: removed")
    ids = [line.rsplit(" ", 1)[1] for line in told if " notification: " in line]
    theirs = [
        sink.wait(lambda commands, got, wanted=notice: f"\tid {wanted};".encode() in got)  # type: ignore[misc]
        for notice in ids
    ]
    original = b""
    if theirs:
        boundary = re.search(rb'boundary="\S+?\.(\d+)/', theirs[0][1])
        assert boundary
        now = float(boundary[1])
        arrival = time_of(theirs[0][1], b"Arrival-Date")
        stamp = re.search(rb"\r\nReturn-Path: .*?;\s+(\w{3}, .*?)\r\n", theirs[0][1], re.S)
        assert stamp  # made by another process: it may be a second off
        came = parsedate_to_datetime(stamp[1].decode()).timestamp()
        original = received(queue_id, recipients, came, "SMTPUTF8" in options) + content
    else:
        now = arrival = 0.0
    ours = OurSide([original[:100], original[100:]], ids, now, noisy)
    utf8 = "SMTPUTF8" in options
    envelope = Envelope(
        queue_id,
        arrival,
        sender,
        tuple(recipients),
        size or len(original),
        CONTENT_HEADER_8BIT if utf8 else 0,
        smtputf8=utf8,
        dsn_envid=envid,
        dsn_ret=ret,
    )
    tell(ours, Message(envelope))
    assert ours.answers == [None]
    for (commands, got), (our_sender, our_recipient, our_content, _) in zip(theirs, ours.made, strict=True):
        assert commands[0].startswith(f"MAIL FROM:<{our_sender}>")
        assert commands[1].startswith(f"RCPT TO:<{quote_821_local(our_recipient)}>")
        assert undated(our_content) == undated(got)
    mine = [re.sub(r"\[\d+\]", "", line, count=1) for line in told if line.startswith("postfix/bounce")]
    assert mine == ours.lines
    return ours


def undated(notice: bytes) -> str:
    """Without the time in the notice's own header: two processes may be a second apart."""
    header, blank, rest = notice.decode().partition("\r\n\r\n")
    return re.sub(r"\w{3}, [ \d]\d \w{3} \d{4} [\d:]{8} ", "DATE ", header) + blank + rest


def told_of(server: postfix_relay.Postfix, queue_id: str) -> list[str]:
    """What bounce(8) logged of a message, which is gone by then."""
    server.lines(f"{queue_id}: removed")
    return [line for line in server.lines(f"{queue_id}: ") if line.startswith("postfix/bounce")]


def received(queue_id: str, recipients: list[Recipient], arrival: float, utf8: bool) -> bytes:
    single = (recipients[0].orig_to or recipients[0].address) if len(recipients) == 1 else ""
    origin = Origin("localhost", "127.0.0.1", 1, "client.example", "ESMTP")
    return ReceivedMaker("mx.example.org").make(origin, utf8, queue_id, single, arrival)[0]


def bounce(results: list[tuple[int, Bounced | Deferred]]) -> Callable[[OurSide, Message], None]:
    return lambda ours, message: ours.bouncer.bounce(message, results, ours.answers.append)


def test_one_recipient(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    made = compare(
        postfix, sink, bounce([(0, refused("fail1@y.example"))]), recipients=[Recipient("fail1@y.example")]
    ).made
    assert [kind for *_, kind in made] == [KIND_BOUNCE]


def test_several_and_a_long_reply(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    lines = "550-5.1.1 first line 550-5.1.1 second line 550 5.1.1 third"
    many = Bounced("5.1.1", f"host {PEER} said: {lines} (in reply to RCPT TO command)", "127.0.0.1", lines)
    recipients = [Recipient(a) for a in ("fail1@y.example", "ok@y.example", "many@y.example")]
    compare(postfix, sink, bounce([(0, refused("fail1@y.example")), (2, many)]), recipients=recipients)


def test_expanded_address(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    recipients = [Recipient("failing@origin.example", "failing")]
    compare(postfix, sink, bounce([(0, refused("failing@origin.example"))]), recipients=recipients)


def test_quoted_sender(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    recipients = [Recipient("fail1@y.example")]
    compare(postfix, sink, bounce([(0, refused("fail1@y.example"))]), sender="s s@x.example", recipients=recipients)


def test_headers_only_and_original_recipient(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    recipients = [Recipient("fail1@y.example", "", "rfc822;Orig+x@z.example", NOTIFY_FAILURE | NOTIFY_DELAY)]
    compare(
        postfix,
        sink,
        bounce([(0, refused("fail1@y.example"))]),
        recipients=recipients,
        options=" RET=HDRS ENVID=env+2Bid",
        rcpt_options=" NOTIFY=FAILURE,DELAY ORCPT=rfc822;Orig+2Bx@z.example",
        ret=RET_HDRS,
        envid="env+id",
    )


@pytest.mark.parametrize(("notify", "bits"), [("NEVER", NOTIFY_NEVER), ("SUCCESS", NOTIFY_SUCCESS)])
def test_failure_not_wanted(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink, notify: str, bits: int) -> None:
    compare(
        postfix,
        sink,
        bounce([(0, refused("fail1@y.example"))]),
        recipients=[Recipient("fail1@y.example", dsn_notify=bits)],
        rcpt_options=f" NOTIFY={notify}",
        notices=0,
    )


def test_null_sender(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    recipients = [Recipient("fail1@y.example")]
    compare(postfix, sink, bounce([(0, refused("fail1@y.example"))]), sender="", recipients=recipients, notices=0)


def test_big_message(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    content = BODY + (b"x" * 70 + b"\r\n") * 800
    compare(
        postfix,
        sink,
        bounce([(0, refused("fail1@y.example"))]),
        recipients=[Recipient("fail1@y.example")],
        content=content,
        options=" RET=FULL",
        ret=RET_FULL,
    )


def test_utf8(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    address = "fail\u00e9@y.example"
    compare(
        postfix,
        sink,
        bounce([(0, refused(address))]),
        recipients=[Recipient(address)],
        content=b"X: \xc3\xa9\r\n" + BODY,
        options=" SMTPUTF8",
    )


@pytest.mark.parametrize("utf8", ["", " SMTPUTF8"])
def test_success_relayed(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink, utf8: str) -> None:
    sent = Sent("2.0.0", "250 2.0.0 Ok: sunk", "127.0.0.1", "250 2.0.0 Ok: sunk")

    def tell(ours: OurSide, message: Message) -> None:
        relay = f"{PEER}:{SINK_PORT}"
        ours.bouncer.success(message, [(0, sent)], relay, "relayed", ours.answers.append)

    compare(
        postfix,
        sink,
        tell,
        recipients=[Recipient("ok@y.example", dsn_notify=NOTIFY_SUCCESS)],
        options=utf8,
        rcpt_options=" NOTIFY=SUCCESS",
    )


LATER = Deferred(
    "4.2.0", f"host {PEER} said: 450 4.2.0 later (in reply to RCPT TO command)", "127.0.0.1", "450 4.2.0 later"
)


def test_postmaster_copy(noisy: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    compare(
        noisy,
        sink,
        bounce([(0, refused("fail1@y.example"))]),
        recipients=[Recipient("fail1@y.example")],
        notices=2,
        noisy=True,
    )


def test_double_bounce(noisy: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    compare(
        noisy,
        sink,
        bounce([(0, refused("fail1@y.example"))]),
        sender="",
        recipients=[Recipient("fail1@y.example")],
        noisy=True,
    )


def test_delay(noisy: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    def tell(ours: OurSide, message: Message) -> None:
        ours.bouncer.delay_notice(message, [(0, LATER)], ours.answers.append)

    compare(noisy, sink, tell, recipients=[Recipient("defer1@y.example")], notices=2, noisy=True)


def test_expiry(noisy: postfix_relay.Postfix, sink: postfix_relay.Sink) -> None:
    """The delay notice and its copy come first."""
    compare(
        noisy, sink, bounce([(0, LATER)]), recipients=[Recipient("defer2@y.example")], notices=2, skip=2, noisy=True
    )
