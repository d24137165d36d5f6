"""Servers that misbehave, as scripts: what the SMTP client must make of each is in test_deliver_smtp.py (the expected
outcome) and in tests/peers/test_client_like_postfix.py (the same outcome as a live Postfix's).

A scenario is named; `talks` are the scripts of one or two servers, in the order of the next hop's hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from tests.delivery import Peer, Talk


class Scenario(msgspec.Struct):
    """dsn, status and text are what the log must say of each recipient; H1, H2 stand for the peers "host[address]",
    P1, P2 with port.
    """

    name: str
    hosts: list[Talk]
    outcome: list[tuple[str, str, str]]  # (status, dsn, text) for each recipient
    relay: str = "P1"
    recipients: int = 1
    lmtp: bool = False
    fast: bool = False  # with short timeouts
    tls: str = ""  # smtp_tls_security_level
    size: int = 0  # bytes of body, about
    info: list[str] = []  # lines that are logged before


SCENARIOS: list[Scenario] = []


def scenario(outcome: str | list[str], **more: Any) -> Callable[[Talk], Talk]:
    """Register a script; an outcome is "status dsn text"."""

    def register(talk: Talk) -> Talk:
        outcomes = [outcome] if isinstance(outcome, str) else outcome
        second = more.pop("second", None)
        SCENARIOS.append(
            Scenario(
                talk.__name__,
                [talk, second] if second else [talk],
                [tuple(text.split(" ", 2)) for text in outcomes],  # type: ignore[misc]
                recipients=len(outcomes),
                **more,
            )
        )
        return talk

    return register


PIPE = ("PIPELINING", "8BITMIME", "SIZE 10240000")


async def good(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.accept()
    await peer.expect("QUIT")


@scenario("sent 2.0.0 250 2.0.0 Ok: queued as 12345")
async def plain(peer: Peer) -> None:
    await good(peer)


@scenario("sent 2.0.0 250 2.0.0 Ok: queued as 12345")
async def no_pipelining(peer: Peer) -> None:
    await peer.greet()
    await peer.accept()
    await peer.expect("QUIT")


@scenario("sent 2.0.0 250-first line 250 2.0.0 second line")
async def multi_line_reply(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250-2.1.0 some", "250 2.1.0 Ok")
    await peer.expect("RCPT", "250 2.1.5 Ok")
    await peer.expect("DATA", "354-go", "354 ahead")
    await peer.content()
    await peer.say("250-first line", "250 2.0.0 second line")


@scenario("sent 2.0.0 250 thanks")
async def no_enhanced_code(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.accept("250 thanks")


@scenario("sent 2.0.0 250 5.1.1 wrong class")
async def enhanced_code_of_another_class(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.accept("250 5.1.1 wrong class")


@scenario("sent 2.0.0 250 ok?with?controls")
async def controls_in_reply(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.accept("250 ok\twith\x01controls")


@scenario("bounced 5.1.1 host H1 said: 550 5.1.1 no such user (in reply to RCPT TO command)")
async def rcpt_550(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "550 5.1.1 no such user")
    await peer.expect("DATA", "554 5.5.1 no valid recipients")
    await peer.expect("RSET", "250 ok")


@scenario("bounced 5.1.1 host H1 said: 550 5.1.1 no such user (in reply to RCPT TO command)")
async def rcpt_550_then_354(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "550 5.1.1 no such user")
    await peer.expect("DATA", "354 well")
    await peer.expect(".", "554 no valid recipients")


@scenario("bounced 5.0.0 host H1 said: 550 no such user (in reply to RCPT TO command)")
async def rcpt_550_without_pipelining(peer: Peer) -> None:
    await peer.greet()
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "550 no such user")
    await peer.expect("RSET", "250 ok")


@scenario("deferred 4.2.0 host H1 said: 450 4.2.0 greylisted (in reply to RCPT TO command)")
async def rcpt_450(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "450 4.2.0 greylisted")
    await peer.expect("DATA", "503 no")
    await peer.expect("RSET", "250 ok")


@scenario("deferred 4.0.0 host H1 said: 451-one 451 two (in reply to MAIL FROM command)")
async def mail_451(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "451-one", "451 two")
    await peer.expect("RCPT", "503 bad sequence")
    await peer.expect("DATA", "503 bad sequence")
    await peer.expect("RSET", "250 ok")


@scenario("bounced 5.7.1 host H1 said: 554 5.7.1 go away (in reply to MAIL FROM command)")
async def mail_554(peer: Peer) -> None:
    await peer.greet()
    await peer.expect("MAIL", "554 5.7.1 go away")
    await peer.expect("RSET", "250 ok")


@scenario("deferred 4.3.2 host H1 said: 421 4.3.2 shutting down (in reply to MAIL FROM command)")
async def mail_421_and_gone(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "421 4.3.2 shutting down")


@scenario("deferred 4.3.2 host H1 said: 421 4.3.2 shutting down (in reply to RCPT TO command)")
async def rcpt_421_and_gone(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "421 4.3.2 shutting down")


@scenario("bounced 5.5.0 host H1 said: 350 what (in reply to MAIL FROM command)")
async def mail_350(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "350 what")
    await peer.expect("RCPT", "503 bad sequence")
    await peer.expect("DATA", "503 bad sequence")
    await peer.expect("RSET", "250 ok")


@scenario("bounced 5.5.0 Protocol error: host H1 said: 250 what (in reply to DATA command)")
async def data_250(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA", "250 what")
    await peer.expect("RSET", "250 ok")


@scenario("deferred 4.3.0 host H1 said: 451 4.3.0 disk full (in reply to DATA command)")
async def data_451(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA", "451 4.3.0 disk full")
    await peer.expect("RSET", "250 ok")


@scenario("bounced 5.6.0 host H1 said: 554 5.6.0 spam (in reply to end of DATA command)")
async def dot_554(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.accept("554 5.6.0 spam")


@scenario("deferred 4.6.0 host H1 said: 452 4.6.0 later (in reply to end of DATA command)")
async def dot_452(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.accept("452 4.6.0 later")


@scenario(
    [
        "sent 2.0.0 250 2.0.0 Ok: queued as 12345",
        "bounced 5.1.1 host H1 said: 550 5.1.1 unknown (in reply to RCPT TO command)",
        "deferred 4.2.2 host H1 said: 452 4.2.2 full (in reply to RCPT TO command)",
    ]
)
async def mixed_recipients(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("RCPT", "550 5.1.1 unknown")
    await peer.expect("RCPT", "452 4.2.2 full")
    await peer.expect("DATA", "354 go")
    await peer.content()
    await peer.say("250 2.0.0 Ok: queued as 12345")


@scenario("deferred 4.4.2 lost connection with H1 while receiving the initial server greeting")
async def lost_at_connect(peer: Peer) -> None:
    pass


@scenario("deferred 4.4.2 lost connection with H1 while performing the EHLO handshake")
async def lost_at_ehlo(peer: Peer) -> None:
    await peer.say("220 hello")
    await peer.expect("EHLO")


@scenario("deferred 4.4.2 lost connection with H1 while performing the HELO handshake")
async def lost_at_helo(peer: Peer) -> None:
    await peer.say("220 hello")
    await peer.expect("EHLO", "502 what")
    await peer.expect("HELO")


@scenario("deferred 4.4.2 lost connection with H1 while sending MAIL FROM")
async def lost_at_mail(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL")
    await peer.expect("RCPT")
    await peer.expect("DATA")


@scenario("deferred 4.4.2 lost connection with H1 while sending RCPT TO")
async def lost_at_rcpt(peer: Peer) -> None:
    await peer.greet()
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT")


@scenario("deferred 4.4.2 lost connection with H1 while sending DATA command")
async def lost_at_data(peer: Peer) -> None:
    await peer.greet()
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA")


@scenario("deferred 4.4.2 lost connection with H1 while sending end of data -- message may be sent more than once")
async def lost_at_dot(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA", "354 go")
    await peer.content()


@scenario(
    [
        "bounced 5.1.1 host H1 said: 550 5.1.1 unknown (in reply to RCPT TO command)",
        "deferred 4.4.2 lost connection with H1 while sending RCPT TO",
    ]
)
async def lost_between_recipients(peer: Peer) -> None:
    await peer.greet()
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "550 5.1.1 unknown")
    await peer.expect("RCPT")


@scenario("sent 2.0.0 250 2.0.0 Ok: queued as 12345")
async def helo_only(peer: Peer) -> None:
    await peer.say("220 old server")
    await peer.expect("EHLO", "500 what")
    await peer.expect("HELO", "250 old server")
    await peer.accept()


@scenario("deferred 4.0.0 host H1 refused to talk to me: 421 busy")
async def greeting_421(peer: Peer) -> None:
    await peer.say("421 busy")


@scenario("deferred 4.7.1 host H1 refused to talk to me: 554 5.7.1 you are listed")
async def greeting_554(peer: Peer) -> None:
    await peer.say("554 5.7.1 you are listed")


@scenario("deferred 4.3.2 host H1 refused to talk to me: 421 4.3.2 not now")
async def ehlo_421(peer: Peer) -> None:
    await peer.say("220 hello")
    await peer.expect("EHLO", "421 4.3.2 not now")


@scenario("bounced 5.7.0 host H1 refused to talk to me: 550 5.7.0 bad name")
async def helo_550(peer: Peer) -> None:
    await peer.say("220 hello")
    await peer.expect("EHLO", "550 5.7.0 bad name")
    await peer.expect("HELO", "550 5.7.0 bad name")


@scenario("bounced 5.3.4 message size SIZE exceeds size limit 100 of server H1", size=2000)
async def too_big(peer: Peer) -> None:
    await peer.greet("PIPELINING", "SIZE 100")
    await peer.expect("QUIT")


@scenario("deferred 4.4.2 conversation with H1 timed out while receiving the initial server greeting", fast=True)
async def silent_at_connect(peer: Peer) -> None:
    await asyncio.sleep(15)


@scenario("deferred 4.4.2 conversation with H1 timed out while performing the EHLO handshake", fast=True)
async def silent_at_ehlo(peer: Peer) -> None:
    await peer.say("220 hello")
    await asyncio.sleep(15)


@scenario("deferred 4.4.2 conversation with H1 timed out while sending MAIL FROM", fast=True)
async def silent_at_mail(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await asyncio.sleep(15)


@scenario("deferred 4.4.2 conversation with H1 timed out while sending RCPT TO", fast=True)
async def silent_at_rcpt(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await asyncio.sleep(15)


@scenario("deferred 4.4.2 conversation with H1 timed out while sending DATA command", fast=True)
async def silent_at_data(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await asyncio.sleep(15)


@scenario(
    "deferred 4.4.2 conversation with H1 timed out while sending end of data -- message may be sent more than once",
    fast=True,
)
async def silent_at_dot(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA", "354 go")
    await peer.content()
    await asyncio.sleep(15)
