"""The same messages through a live Postfix and through our intake: the same content, size= and log lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from fastmta.address.rewrite import RewriteSettings
from fastmta.cleanup.intake import Intake, IntakeSettings
from fastmta.model.envelope import Origin, Recipient
from fastmta.model.message import Message
from fastmta.smtpd.transaction import Transaction
from tests.peers import postfix_relay

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not postfix_relay.AVAILABLE, reason="needs Postfix and root"),
]

PORT, REMOTE_PORT, SINK_PORT = 21430, 21431, 21432

REWRITE = RewriteSettings("origin.example")
HEADER = (
    b"Received: from a (b [192.0.2.1]) by c; Mon, 23 Nov 2026 08:40:04 +0000\r\nFrom: a@b.example\r\n"
    b"To: c@d.example\r\nDate: Mon, 23 Nov 2026 08:40:04 +0000\r\nMessage-Id: <1@b.example>\r\nSubject: s\r\n"
)
CONTENTS: dict[str, bytes] = {
    "plain": HEADER + b"\r\nbody\r\n",
    "nothing": b"",
    "no header": b"\r\nbody\r\n",
    "header only": HEADER,
    "nothing but a field": b"Subject: hi\r\n",
    "body without header": b"this is no header\r\n\r\nbody\r\n",
    "no blank line": HEADER + b"this is no header\r\nbody\r\n",
    "begins with space": b" leading: space\r\nbody\r\n",
    "begins with tab": b"\tleading: tab\r\nbody\r\n",
    "no name": b"Subject: x\r\n: y\r\nz\r\n",
    "mbox": b"From foo Mon\r\n>From bar\r\n" + HEADER + b"\r\nFrom here\r\n>From there\r\n",
    "mbox quoted": b">>From foo\r\n\r\nbody\r\n",
    "bcc": b"Bcc: secret@x.example,\r\n\tother@x.example\r\n" + HEADER + b"\r\nBcc: not\r\n",
    "return path": HEADER + b"RETURN-PATH: <x>\r\nContent-Length: 5\r\nResent-Bcc: y\r\n\r\nb\r\n",
    "space before colon": b"X-Foo  \t: bar\r\n" + HEADER + b"Subject : x\r\n\r\nb : c\r\n",
    "folded id": b"Message-Id:\r\n <folded@x.example>  \r\nFrom: x@x.example\r\n\r\nb\r\n",
    "id over three lines": b"Message-Id: <a\r\n\tb\r\n  c>\r\nFrom: x@x.example\r\n\r\nb\r\n",
    "two ids": b"Message-Id: <a@b>\r\nmessage-ID: <c@d>\r\n\r\nb\r\n",
    "empty id": b"Message-Id:\r\nFrom: x@x.example\r\n\r\nb\r\n",
    "resent": HEADER + b"Resent-From: x@y.example\r\n\r\nb\r\n",
    "resent in full": HEADER + b"Resent-Date: x\r\nResent-From: x@y.example\r\nResent-Message-Id: <r@y>\r\n\r\nb\r\n",
    "resent, no id": b"Resent-To: x@y.example\r\n\r\nb\r\n",
    "resent id only": b"Resent-Message-Id: <r@y>\r\n\r\nb\r\n",
    "dots": HEADER + b"\r\n..\r\n...\r\n..dot\r\nno. dot\r\n",
    "8bit": HEADER + b"X: \xc3\xa9\r\n\r\n\xe9\xff\r\n",
    "nul-free control": HEADER + b"\r\n\x01\x07\x7f\r\n",
    "126 to 130": HEADER + b"\r\n" + b"".join(b"x" * n + b"\r\n" for n in range(126, 131)),
    "dotted 126 to 130": HEADER + b"\r\n" + b"".join(b"." * 2 + b"x" * n + b"\r\n" for n in range(124, 130)),
    "header lines 126 to 130": b"".join(b"X: " + b"x" * n + b"\r\n" for n in range(122, 130)) + HEADER + b"\r\nb\r\n",
    "long lines": HEADER + b"\r\n" + b"".join(b"x" * n + b"\r\n" for n in (998, 999, 2046, 2047, 2048, 2049, 2050)),
    "very long lines": HEADER + b"\r\n" + b"".join(b"x" * n + b"\r\n" for n in (4095, 4096, 4097, 2175, 2176, 9000)),
    "long dotted lines": HEADER
    + b"\r\n"
    + b"".join(b".." + b"x" * n + b"\r\n" for n in (2045, 2046, 2047, 2173, 2174)),
    "long header lines": b"".join(b"X: " + b"x" * n + b"\r\n" for n in (2044, 2045, 2046, 4093, 4094, 2171, 2172, 2173))
    + HEADER
    + b"\r\nb\r\n",
    "4 KB": HEADER + b"\r\n" + (b"x" * 70 + b"\r\n") * 57,
    "100 KB": HEADER + b"\r\n" + b"".join(b"%d " % n + b"x" * (n % 300) + b"\r\n" for n in range(600)),
    "mime": HEADER
    + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n'
    + b"--b\r\nContent-Type: text/plain\r\nX-Y: z\r\n\r\ntext\r\n--b--\r\n",
}


@pytest.fixture(scope="module")
def sink() -> Iterator[postfix_relay.Sink]:
    sink = postfix_relay.Sink(SINK_PORT)
    yield sink
    sink.close()


@pytest.fixture(scope="module")
def postfix(sink: postfix_relay.Sink) -> Iterator[postfix_relay.Postfix]:
    remote = f"127.0.0.1:{REMOTE_PORT} inet n - n - 20 smtpd\n  -o local_header_rewrite_clients=\n"
    server = postfix_relay.Postfix(PORT, SINK_PORT, services=remote)
    yield server
    server.stop()


class OurSide:
    """An intake whose queue remembers the last message."""

    def __init__(self, rewrites: bool) -> None:
        self.lines: list[str] = []
        self.message: Message | None = None
        self.reply = b""
        settings = IntakeSettings("mx.example.org", rewrite=REWRITE)
        self.intake = Intake(settings, self, self, lambda message: None, lambda error: False, lambda address: rewrites)

    def new_queue_id(self, now: float) -> str:
        raise AssertionError("the test chooses it")

    def append(self, message: Message, done: Callable[[BaseException | None], None]) -> None:
        self.message = message
        done(None)

    def write(self, service: str, line: str) -> None:
        self.lines.append(f"postfix/{service}: {line}")

    def warning(self, service: str, text: str) -> None:
        self.write(service, "warning: " + text)

    def accept(self, transaction: Transaction) -> None:
        def done(reply: bytes) -> None:
            self.reply = reply

        self.intake.accept(transaction, done)


def clean(line: str) -> str:
    """A log line without the process id, as both logs write control characters."""
    line = re.sub(r"^(postfix/\w+)\[\d+\]", r"\1", line)
    return "".join("?" if char < " " else char for char in line)


def compare(
    postfix: postfix_relay.Postfix,
    sink: postfix_relay.Sink,
    content: bytes,
    *,
    local: bool = True,
    sender: str = "s@x.example",
    recipients: tuple[str, ...] = ("r@y.example",),
    options: str = "",
    helo: str = "EHLO client.example",
    chunk: int = 0,
) -> None:
    client = postfix.connect(0 if local else REMOTE_PORT)
    if helo:
        client.send(helo)
    reply = client.mail(sender, list(recipients), content, options)
    client.close()
    queue_id = postfix_relay.queue_id(reply)
    _, theirs = sink.wait(lambda commands, got: queue_id.encode() in got.split(b"Subject", 1)[0][:600])
    postfix.lines(f"{queue_id}: removed")
    date = re.search(rb"; (.{25,40})\r\n|;\r\n\t(.{25,40})\r\n", theirs)
    assert date
    arrival = parsedate_to_datetime((date[1] or date[2]).decode()).timestamp()

    ours = OurSide(local)
    protocol = "ESMTP" if helo.startswith("EHLO") else "SMTP"
    origin = Origin("localhost", "127.0.0.1", 1, helo[5:], protocol)
    cut = [content[i : i + chunk] for i in range(0, len(content), chunk)] if chunk else [content] if content else []
    ours.accept(
        Transaction(
            queue_id, arrival, sender, [Recipient(r) for r in recipients], cut, origin, smtputf8="SMTPUTF8" in options
        )
    )
    assert ours.reply.decode() == reply
    assert ours.message is not None and ours.message.content is not None
    assert b"".join(ours.message.content) == theirs
    envelope = ours.message.envelope
    told = [clean(line) for line in postfix.lines(f"{queue_id}: ")]
    assert [line for line in told if line.startswith("postfix/cleanup")] == [clean(line) for line in ours.lines]
    active = f"from=<{envelope.sender}>, size={envelope.size}, nrcpt={len(envelope.recipients)} (queue active)"
    assert f"postfix/qmgr: {queue_id}: {active}" in told


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("local", [True, False], ids=["local", "remote"])
def test_content_size_and_log(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink, name: str, local: bool) -> None:
    compare(postfix, sink, CONTENTS[name], local=local)


@pytest.mark.parametrize("chunk", [1, 3, 64, 1000])
def test_chunks_make_no_difference(postfix: postfix_relay.Postfix, sink: postfix_relay.Sink, chunk: int) -> None:
    compare(postfix, sink, CONTENTS["long dotted lines"] + CONTENTS["100 KB"], chunk=chunk)


@pytest.mark.parametrize(
    ("sender", "recipients", "options", "helo"),
    [
        ("", ("r@y.example",), "", "EHLO client.example"),
        ("s", ("user", "r@y.example", "R@y.example"), "", "EHLO client.example"),
        ("MAILER-DAEMON", ("r@y.example.",), "", "EHLO client.example"),
        ("s@x.example", ("r@y.example",), "", "HELO foo<bar>(\x01)"),
        ("s@x.example", ("r@y.example",), "", ""),
        ("s@x.example", ("r@y.example",), "", "EHLO [192.0.2.7]"),
        ("s@x.example", ("r@y.example",), "", "EHLO " + "long." * 40 + "example"),
        ("s@x.example", ("\u00e9@y.example",), " SMTPUTF8", "EHLO client.example"),
        ("s@x.example", ("long" * 15 + "@" + "long." * 30 + "example",), "", "EHLO client.example"),
    ],
)
def test_envelopes(
    postfix: postfix_relay.Postfix,
    sink: postfix_relay.Sink,
    sender: str,
    recipients: tuple[str, ...],
    options: str,
    helo: str,
) -> None:
    compare(postfix, sink, CONTENTS["plain"], sender=sender, recipients=recipients, options=options, helo=helo)


@pytest.mark.parametrize("received", [48, 49, 50])
def test_too_many_hops(postfix: postfix_relay.Postfix, received: int) -> None:
    content = b"Received: x\r\n" * received + b"Message-Id: <1@x>\r\n\r\n"
    client = postfix.connect()
    client.send("EHLO client.example")
    reply = client.mail("s@x.example", ["r@y.example"], content)
    client.close()
    ours = OurSide(False)
    ours.accept(Transaction("4X", 0.0, "s", [Recipient("r@y")], [content], Origin("localhost", "127.0.0.1")))
    assert ours.reply.decode().split(" queued")[0] == reply.split(" queued")[0]
    if not reply.startswith("250"):
        (line,) = postfix.lines("hopcount exceeded")[-1:]
        assert re.sub(r": \w+:", ": 4X:", clean(line).replace("warning: ", "", 1)) == ours.lines[-1].replace(
            "warning: ", "", 1
        )


def test_folder_is_clean(postfix: postfix_relay.Postfix) -> None:
    """Nothing that Postfix complained about explains a difference away."""
    assert "fatal:" not in Path(postfix.log).read_text()
