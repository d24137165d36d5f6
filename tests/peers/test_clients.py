"""Real clients send through a real server, in plain text and under STARTTLS; the next hop shows what became of it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer
from tests.peers.aiosmtpd_hop import AiosmtpdHop, Mail
from tests.peers.certificate import Certificate, make_certificate
from tests.peers.clients import CLIENTS, Send, swaks_has_tls
from tests.peers.samples import DOTS, EIGHT_BIT, header, samples, without_trace

pytestmark = pytest.mark.peer
PORT = 21800
TOO_BIG = 10_240_000
CHANGED = {  # what a client does not send as it is given
    "swaks": ["empty", "last_dot"],  # it puts a line there, it takes the dot for its own
    "s-nail": samples(""),  # it writes messages of its own
}


class Relay:
    """A server, and the next hop that it gives everything to."""

    def __init__(self, server: LiveServer, hop: AiosmtpdHop, certificate: Certificate) -> None:
        self.server = server
        self.hop = hop
        self.certificate = certificate


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    folder = tmp_path_factory.mktemp("clients")
    certificate = make_certificate(folder / "tls")
    parameters = {
        "relayhost": f"[127.0.0.1]:{PORT}",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_cert_file": str(certificate.cert),
        "smtpd_tls_key_file": str(certificate.key),
        "smtpd_tls_received_header": "yes",
    }
    with AiosmtpdHop(port=PORT) as hop, LiveServer(folder, parameters) as server:
        yield Relay(server, hop, certificate)


def send(relay: Relay, folder: Path, client: str, tls: bool, content: bytes, *recipients: str, **more: object) -> Send:
    if client == "swaks" and tls and not swaks_has_tls():
        if os.environ.get("FASTMTA_REQUIRE_PEERS"):
            pytest.fail("swaks has no TLS (libnet-ssleay-perl)")
        pytest.skip("swaks has no TLS")
    values = {"sender": "sender@client.test", "utf8": False, **more}
    return Send(
        port=relay.server.port,
        recipients=recipients,
        content=content,
        certificate=relay.certificate if tls else None,
        folder=folder,
        **values,  # type: ignore[arg-type]
    )


def arrived(relay: Relay, token: str, count: int = 1) -> list[Mail]:
    return relay.hop.wait(lambda mail: token.encode() in mail.content, count)


def received(mail: Mail) -> str:
    """Our Received field, unfolded."""
    field = re.match(rb"Received: [^\n]*\n(?:[ \t][^\n]*\n)*", mail.content)
    assert field, mail.content[:300]
    return " ".join(field[0].decode().split())


both_ways = pytest.mark.parametrize("tls", [False, True], ids=["plain", "starttls"])
each_client = pytest.mark.parametrize("client", CLIENTS)


@both_ways
@each_client
def test_mail_arrives_whole_at_every_recipient(relay: Relay, tmp_path: Path, client: str, tls: bool) -> None:
    token = f"whole-{client}-{'tls' if tls else 'plain'}"
    content = header(token) + DOTS + EIGHT_BIT + b".\r\nlast line\r\n"
    recipients = (f"one@{token}.test", f"two@{token}.test", "three+tag@elsewhere.test")
    sent = CLIENTS[client](send(relay, tmp_path, client, tls, content, *recipients))
    assert sent.ok, sent.said

    (mail,) = arrived(relay, token)
    assert mail.sender == "sender@client.test"
    assert sorted(mail.recipients) == sorted(recipients)
    if client == "s-nail":  # it writes the header
        assert mail.content.partition(b"\r\n\r\n")[2] == content.partition(b"\r\n\r\n")[2]
    else:
        assert without_trace(mail.content) == content
    trace = received(mail)
    assert trace.startswith("Received: from client.test (localhost [127.0.0.1])"), trace
    protocol = "SMTP" if client == "s-nail" else "ESMTPS" if tls else "ESMTP"  # s-nail says HELO; RFC 3848 is for EHLO
    assert f"by mail.fastmta.test (Postfix) with {protocol} id " in trace, trace
    assert ("(using TLSv1." in trace) == tls, trace
    assert " for <" not in trace  # there are several recipients


@pytest.mark.parametrize(
    ("client", "name"),
    [(client, name) for client in CLIENTS for name in samples("") if name not in CHANGED.get(client, ())],
)
def test_odd_content_arrives_whole(relay: Relay, tmp_path: Path, client: str, name: str) -> None:
    token = f"odd-{client}"
    content = samples(token)[name]
    sent = CLIENTS[client](send(relay, tmp_path, client, False, content, "one@odd.test"))
    assert sent.ok, sent.said
    (mail,) = arrived(relay, f"{token}-{name}@")
    assert without_trace(mail.content) == content
    assert "for <one@odd.test>;" in received(mail)


@both_ways
@each_client
def test_a_client_learns_that_its_message_is_too_big(relay: Relay, tmp_path: Path, client: str, tls: bool) -> None:
    token = f"big-{client}-{'tls' if tls else 'plain'}"
    content = header(token) + (b"0123456789" * 7 + b"\r\n") * (TOO_BIG // 72 + 1)
    sent = CLIENTS[client](send(relay, tmp_path, client, tls, content, f"one@{token}.test"))
    assert not sent.ok
    said = "maximum message size|5.3.4 (Message size exceeds fixed limit|Error: message file too big)|[Ss]ize"
    assert re.search(said, sent.said), sent.said
    # The server goes on: the same client gets the next message through.
    sent = CLIENTS[client](send(relay, tmp_path, client, tls, header(f"after-{token}") + b"x\r\n", f"one@{token}.test"))
    assert sent.ok, sent.said
    arrived(relay, f"after-{token}")
    assert not [mail for mail in relay.hop.mails if f"one@{token}.test" in mail.recipients and len(mail.content) > 5000]


def test_size_is_refused_before_the_content(relay: Relay, tmp_path: Path) -> None:
    content = header("announced") + b"x" * 990 + b"\r\n" + b"y" * TOO_BIG
    sent = CLIENTS["smtplib"](send(relay, tmp_path, "smtplib", False, content, "one@announced.test"))
    assert not sent.ok
    assert "5.3.4 Message size exceeds fixed limit" in sent.said
    relay.server.wait_log("reject: MAIL from localhost[127.0.0.1]: 552 5.3.4 Message size exceeds fixed limit;")


@pytest.mark.parametrize("client", ["nodemailer", "smtplib"])
def test_utf8_addresses(relay: Relay, tmp_path: Path, client: str) -> None:
    token = f"utf8-{client}"
    recipients = ("дмитрий@пример.test", "müller@straße.test", "plain@ascii.test")
    order = send(
        relay, tmp_path, client, False, header(token) + EIGHT_BIT, *recipients, sender="用户@例子.test", utf8=True
    )
    sent = CLIENTS[client](order)
    assert sent.ok, sent.said
    mails = arrived(relay, token)
    (mail,) = mails
    assert "SMTPUTF8" in mail.mail_options
    # nodemailer turns domains into A-labels
    domains = str.maketrans("", "") if client == "smtplib" else None
    if domains is not None:
        assert sorted(mail.recipients) == sorted(recipients)
        assert mail.sender == "用户@例子.test"
    else:
        assert sorted(one.partition("@")[0] for one in mail.recipients) == ["müller", "plain", "дмитрий"]
        assert mail.sender.startswith("用户@")
    assert without_trace(mail.content) == header(token) + EIGHT_BIT
    assert "with UTF8SMTP id" in received(mail)


def test_clients_at_once(relay: Relay, tmp_path: Path) -> None:
    failed: list[str] = []

    def work(number: int, client: str) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        content = header(f"once-{number}-{client}") + DOTS
        sent = CLIENTS[client](send(relay, folder, client, number % 2 == 1, content, f"r{number}@once.test"))
        if not sent.ok:
            failed.append(f"{client}: {sent.said}")

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate([*CLIENTS] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not failed
    mails = relay.hop.wait(lambda mail: mail.recipients[0].endswith("@once.test"), len(threads))
    assert sorted(mail.recipients[0] for mail in mails) == sorted(
        f"r{number}@once.test" for number in range(len(threads))
    )
