"""What the client says on the wire: parameters of MAIL and RCPT, what it leaves out, and long lines."""

from __future__ import annotations

import msgspec
import pytest

from fastmta._ext.smtpclient import FEATURE_DSN, FEATURE_PIPELINING, FEATURE_SIZE
from fastmta.model.envelope import CONTENT_LONG_LINE, Recipient
from fastmta.model.outcome import Bounced, Sent
from tests.delivery import Harness, Peer, Server, many, message, play

FULL = ("PIPELINING", "8BITMIME", "SIZE 10240000", "DSN", "SMTPUTF8")
DSN = {"dsn_envid": "a+b=c", "dsn_ret": 2}


@pytest.mark.parametrize(
    ("offers", "recipient", "more", "mail", "rcpt"),
    [
        (FULL, Recipient("r@b.c"), {}, "<s@example.org> SIZE=24", "<r@b.c> ORCPT=rfc822;r@b.c"),
        (FULL, Recipient("r@b.c"), {"sender": ""}, "<> SIZE=24", "<r@b.c> ORCPT=rfc822;r@b.c"),
        (FULL, Recipient("r@b.c"), {"body": "7BIT"}, "<s@example.org> SIZE=24 BODY=7BIT", "<r@b.c> ORCPT=rfc822;r@b.c"),
        (
            FULL,
            Recipient("r@b.c"),
            {"body": "8BITMIME"},
            "<s@example.org> SIZE=24 BODY=8BITMIME",
            "<r@b.c> ORCPT=rfc822;r@b.c",
        ),
        (FULL, Recipient("a b@b.c"), {}, "<s@example.org> SIZE=24", '<"a b"@b.c> ORCPT=rfc822;"a+20b"@b.c'),
        (FULL, Recipient("a+b=c@b.c"), {}, "<s@example.org> SIZE=24", "<a+b=c@b.c> ORCPT=rfc822;a+2Bb+3Dc@b.c"),
        (FULL, Recipient('q"x@b.c'), {}, "<s@example.org> SIZE=24", r'<"q\"x"@b.c> ORCPT=rfc822;"q\"x"@b.c'),
        (FULL, Recipient("d@b.c", orig_to="o@x"), {}, "<s@example.org> SIZE=24", "<d@b.c> ORCPT=rfc822;o@x"),
        (
            FULL,
            Recipient("d@b.c", dsn_orcpt="rfc822;x+y@z", dsn_notify=2 + 4 + 8),
            DSN,
            "<s@example.org> SIZE=24 ENVID=a+2Bb+3Dc RET=HDRS",
            "<d@b.c> ORCPT=rfc822;x+2By@z NOTIFY=SUCCESS,FAILURE,DELAY",
        ),
        (
            FULL,
            Recipient("d@b.c", dsn_notify=1),
            {"dsn_ret": 1},
            "<s@example.org> SIZE=24 RET=FULL",
            "<d@b.c> ORCPT=rfc822;d@b.c NOTIFY=NEVER",
        ),
        (FULL, Recipient("ä@b.c"), {"smtputf8": True}, "<s@example.org> SIZE=24 SMTPUTF8", "<ä@b.c> ORCPT=utf-8;ä@b.c"),
        ((), Recipient("d@b.c", dsn_orcpt="rfc822;x@z", dsn_notify=2), DSN, "<s@example.org>", "<d@b.c>"),
        (
            ("DSN",),
            Recipient("d@b.c", dsn_notify=8),
            {"body": "8BITMIME"},
            "<s@example.org>",
            "<d@b.c> ORCPT=rfc822;d@b.c NOTIFY=DELAY",
        ),
    ],
)
def test_commands_on_the_wire(
    offers: tuple[str, ...], recipient: Recipient, more: dict[str, object], mail: str, rcpt: str
) -> None:
    """As a live Postfix sends them (compared by hand)."""

    async def talk(peer: Peer) -> None:
        await peer.greet(*offers)
        await peer.accept()

    async def main(harness: Harness, server: Server) -> None:
        item = message("x@y", content=b"Subject: hi\r\n\r\nhello..\r\n", **more)  # type: ignore[arg-type]
        item.envelope = msgspec.structs.replace(item.envelope, recipients=(recipient,))
        await harness.one(item, server.nexthop)
        heard = [line for line in server.peers[0].heard if line[:4] in ("MAIL", "RCPT")]
        assert heard == [f"MAIL FROM:{mail}", f"RCPT TO:{rcpt}"]

    play(main, talk)


@pytest.mark.parametrize(("offers", "relayed"), [(("DSN", "PIPELINING"), False), (("PIPELINING",), True), ((), True)])
def test_who_reports_success(offers: tuple[str, ...], relayed: bool) -> None:
    async def talk(peer: Peer) -> None:
        await peer.greet(*offers)
        await peer.accept()

    async def main(harness: Harness, server: Server) -> None:
        request = await harness.one(message(), server.nexthop)
        assert request.attempt.relayed == relayed

    play(main, talk)


def test_offers_that_are_to_be_ignored() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greet("PIPELINING", "SIZE 10", "DSN")
        await peer.accept()

    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(), server.nexthop)
        assert server.peers[0].heard[1:3] == ["MAIL FROM:<s@example.org>", "RCPT TO:<r@example.com>"]

    play(main, talk, discard_ehlo=FEATURE_DSN | FEATURE_PIPELINING | FEATURE_SIZE)


def test_smtputf8_that_is_not_offered() -> None:
    async def main(harness: Harness, server: Server) -> None:
        plain = await harness.one(message(smtputf8=True), server.nexthop)
        assert isinstance(plain.result, Sent)
        needed = await harness.one(message("ä@example.com", smtputf8=True), server.nexthop)
        text = "SMTPUTF8 is required, but was not offered by host 127.0.0.1[127.0.0.1]"
        assert needed.result == Bounced("5.6.7", text)
        assert len(server.peers) == 1

    play(main, many)


def test_long_lines_are_broken_as_postfix_breaks_them() -> None:
    content = (
        b"Subject: long\r\n\r\n"
        + b"x" * 998
        + b"\r\n"
        + b"y" * 999
        + b"\r\n.."
        + b"z" * 998
        + b"\r\n"
        + b"w" * 3000
        + b"\r\n"
    )

    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(content=content, content_flags=CONTENT_LONG_LINE), server.nexthop)
        lines = server.peers[0].contents[0].split(b"\r\n")[2:]
        # as a live Postfix sent it
        assert [(line[:3], len(line)) for line in lines] == [
            (b"xxx", 998),
            (b"yyy", 998),
            (b" y", 2),
            (b"..z", 999),
            (b" z", 2),
            (b"www", 998),
            (b" ww", 998),
            (b" ww", 998),
            (b" ww", 9),
            (b"", 0),
        ]

    harness = play(main, many)
    assert "postfix/smtp: QUEUEID: breaking line > 998 bytes with <CR><LF>SPACE" in harness.log.lines
