"""More servers that misbehave: with a second host to go to, with LMTP, with STARTTLS. ALL is every scenario."""

from __future__ import annotations

from tests.client_scenarios import (
    PIPE,
    SCENARIOS,
    data_451,
    dot_554,
    good,
    greeting_554,
    lost_at_dot,
    rcpt_450,
    scenario,
)
from tests.delivery import Peer


@scenario(
    "sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    second=good,
    relay="P2",
    info=["host H1 said: 450 4.2.0 greylisted (in reply to RCPT TO command)"],
)
async def second_host_after_450(peer: Peer) -> None:
    await rcpt_450(peer)


@scenario(
    "sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    second=good,
    relay="P2",
    info=["host H1 refused to talk to me: 554 5.7.1 you are listed"],
)
async def second_host_after_554_greeting(peer: Peer) -> None:
    await greeting_554(peer)


@scenario(
    "sent 2.0.0 250 2.0.0 Ok: queued as 12345",
    second=good,
    relay="P2",
    info=["lost connection with H1 while sending end of data -- message may be sent more than once"],
)
async def second_host_after_lost_at_dot(peer: Peer) -> None:
    await lost_at_dot(peer)


@scenario("bounced 5.6.0 host H1 said: 554 5.6.0 spam (in reply to end of DATA command)", second=good)
async def no_second_host_after_554(peer: Peer) -> None:
    await dot_554(peer)


@scenario("deferred 4.3.0 host H2 said: 451 4.3.0 disk full (in reply to DATA command)", second=data_451, relay="P2")
async def both_hosts_fail(peer: Peer) -> None:
    await rcpt_450(peer)


@scenario("sent 2.1.5 250 2.1.5 delivered", lmtp=True)
async def lmtp_plain(peer: Peer) -> None:
    await peer.say("220 lmtp")
    await peer.expect("LHLO", "250-lmtp", "250 PIPELINING")
    await peer.accept("250 2.1.5 delivered")


@scenario(
    [
        "sent 2.1.5 250 2.1.5 one",
        "bounced 5.1.1 host H1 said: 550 5.1.1 unknown (in reply to RCPT TO command)",
        "deferred 4.2.2 host H1 said: 452 4.2.2 full (in reply to end of DATA command)",
        "bounced 5.2.0 host H1 said: 550 5.2.0 no (in reply to end of DATA command)",
    ],
    lmtp=True,
)
async def lmtp_mixed(peer: Peer) -> None:
    await peer.say("220 lmtp")
    await peer.expect("LHLO", "250-lmtp", "250-PIPELINING", "250 8BITMIME")
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("RCPT", "550 5.1.1 unknown")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA", "354 go")
    await peer.content()
    await peer.say("250 2.1.5 one", "452 4.2.2 full", "550 5.2.0 no")


@scenario(
    [
        "sent 2.1.5 250 2.1.5 one",
        "deferred 4.4.2 lost connection with H1 while sending end of data -- message may be sent more than once",
    ],
    lmtp=True,
)
async def lmtp_lost_after_first(peer: Peer) -> None:
    await peer.say("220 lmtp")
    await peer.expect("LHLO", "250-lmtp", "250-PIPELINING", "250 8BITMIME")
    await peer.expect("MAIL", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("RCPT", "250 ok")
    await peer.expect("DATA", "354 go")
    await peer.content()
    await peer.say("250 2.1.5 one")


@scenario("deferred 4.4.2 lost connection with H1 while performing the LHLO handshake", lmtp=True)
async def lmtp_lost_at_lhlo(peer: Peer) -> None:
    await peer.say("220 lmtp")
    await peer.expect("LHLO")


@scenario("deferred 4.3.0 host H1 refused to talk to me: 451 4.3.0 no LHLO for you", lmtp=True)
async def lmtp_lhlo_451(peer: Peer) -> None:
    await peer.say("220 lmtp")
    await peer.expect("LHLO", "451 4.3.0 no LHLO for you")


TLS_PIPE = (*PIPE, "STARTTLS")


@scenario("deferred 4.7.4 TLS is required, but was not offered by host H1", tls="encrypt")
async def tls_not_offered(peer: Peer) -> None:
    await peer.greet(*PIPE)
    await peer.expect("QUIT")


@scenario("deferred 4.7.0 TLS is required, but host H1 refused to start TLS: 454 4.7.0 not now", tls="encrypt")
async def tls_refused(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS", "454 4.7.0 not now")
    await peer.expect("QUIT")


@scenario("bounced 5.7.0 TLS is required, but host H1 refused to start TLS: 554 5.7.0 never", tls="encrypt")
async def tls_refused_for_good(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS", "554 5.7.0 never")
    await peer.expect("QUIT")


@scenario("sent 2.0.0 250 2.0.0 Ok: queued as 12345", tls="may")
async def tls_refused_but_not_needed(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS", "454 4.7.0 not now")
    await peer.accept()
    await peer.expect("QUIT")


@scenario("deferred 4.7.5 Cannot start TLS: handshake failure", tls="encrypt")
async def tls_garbage(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS", "220 go", "this is no TLS")
    await peer.reader.read(100)


@scenario("deferred 4.7.5 Cannot start TLS: handshake failure", tls="may")
async def tls_garbage_at_first_attempt(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS", "220 go")
    await peer.reader.read(100)
    await peer.say("this is no TLS")


@scenario("deferred 4.7.5 Cannot start TLS: handshake failure", tls="encrypt")
async def tls_lost_in_handshake(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS", "220 go")
    await peer.reader.read(100)


@scenario("deferred 4.4.2 lost connection with H1 while receiving the STARTTLS response", tls="may")
async def tls_lost_at_starttls(peer: Peer) -> None:
    await peer.greet(*TLS_PIPE)
    await peer.expect("STARTTLS")


ALL = SCENARIOS
