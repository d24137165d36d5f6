"""No open relay: what a client outside mynetworks can have the server send, and what it is told instead."""

from __future__ import annotations

import re
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live import LiveServer

STRANGERS = {
    "mynetworks": "127.0.0.2/32",
    "mydestination": "$myhostname, local.test",
    "relay_domains": "relayed.test",
    "parent_domain_matches_subdomains": "",
    "default_transport": "discard",
    "relay_transport": "discard",
    "local_transport": "discard",
    "smtpd_hard_error_limit": "1000",
    "smtpd_soft_error_limit": "1000",
}

FOREIGN = (
    "victim@foreign.test",
    "victim%foreign.test@mail.fastmta.test",
    "victim%foreign.test@relayed.test",
    "victim%foreign.test@[127.0.0.1]",
    "victim@foreign.test@mail.fastmta.test",
    '"victim@foreign.test"@mail.fastmta.test',
    '"victim@foreign.test"',
    '"victim%foreign.test"@mail.fastmta.test',
    "@mail.fastmta.test:victim@foreign.test",
    "@relayed.test,@local.test:victim@foreign.test",
    "foreign.test!victim",
    "foreign.test!victim@mail.fastmta.test",
    '"foreign.test!victim"@mail.fastmta.test',
    "victim%foreign.test",
    "a%b%foreign.test@mail.fastmta.test",
    "victim@sub.relayed.test",
    "victim@relayed.test.foreign.test",
    "victim@[192.0.2.1]",
    "victim@foreign.test.",
)
OURS = (
    "user@relayed.test",
    "USER@RELAYED.TEST",
    "user@local.test",
    "user@mail.fastmta.test",
    "user@[127.0.0.1]",
    "postmaster",
    "@foreign.test:user@relayed.test",
    "user%relayed.test@mail.fastmta.test",
)

# what hides in local parts of ours, and where it leads, as with Postfix
HIDDEN = {
    "c%elsewhere.test@mail.fastmta.test": ("c@elsewhere.test", "elsewhere.test"),
    '"v@elsewhere.test"@local.test': ("v@elsewhere.test", "elsewhere.test"),
    "elsewhere.test!w@local.test": ("w@elsewhere.test", "elsewhere.test"),
    "postmaster": ("postmaster@mail.fastmta.test", "mail.fastmta.test"),
}


@pytest.fixture(scope="module", params=["default", "reject"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    parameters = dict(STRANGERS)
    if request.param == "reject":
        parameters["smtpd_relay_restrictions"] = "permit_mynetworks, reject_unauth_destination"
    with LiveServer(tmp_path_factory.mktemp("relay"), parameters) as made:
        yield made


def refusal(server: LiveServer) -> tuple[int, str]:
    """What Postfix says with these restrictions."""
    return (554, "5.7.1") if "smtpd_relay_restrictions" in server.parameters else (454, "4.7.1")


def test_a_stranger_cannot_relay(server: LiveServer) -> None:
    code, dsn = refusal(server)
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        client.ehlo("stranger.test")
        for recipient in FOREIGN:
            client.mail("spam@foreign.test")
            said, text = client.docmd(f"RCPT TO:<{recipient}>")
            assert (said, text[:5].decode()) == (code, dsn), (recipient, said, text)
            assert text.endswith(b": Relay access denied"), (recipient, text)
            assert client.docmd("DATA")[0] == 554
            client.rset()
    log = server.wait_log("reject: RCPT from", count=len(FOREIGN))
    assert re.search(
        rf"NOQUEUE: reject: RCPT from localhost\[127.0.0.1\]: {code} {dsn} <victim@foreign.test>: Relay access denied; "
        r"from=<spam@foreign.test> to=<victim@foreign.test> proto=ESMTP helo=<stranger.test>\n",
        log,
    )
    assert "client=" not in log


def test_a_stranger_reaches_what_is_ours(server: LiveServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
        client.ehlo("stranger.test")
        client.mail("friend@foreign.test")
        for recipient in OURS:
            said, text = client.docmd(f"RCPT TO:<{recipient}>")
            assert said == 250, (recipient, said, text)
        # a refused recipient does not spoil the others
        assert client.docmd("RCPT TO:<victim@foreign.test>")[0] == refusal(server)[0]
        code, text = client.data("Subject: x\r\n\r\nx\r\n")
    assert code == 250
    log = server.wait_log(f"{text.decode().rpartition(' ')[2]}: removed")
    assert "to=<user@relayed.test>" in log
    assert "victim@foreign.test>, relay=" not in log


def test_who_is_in_mynetworks_may_relay(server: LiveServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=30, source_address=("127.0.0.2", 0)) as client:
        client.sendmail("a@foreign.test", ["b@elsewhere.test"], "Subject: x\r\n\r\nx")
        code, text = client.docmd("MAIL FROM:<a@foreign.test>")
        for recipient in HIDDEN:
            code, text = client.docmd(f"RCPT TO:<{recipient}>")
            assert code == 250
        code, text = client.data("Subject: x\r\n\r\nx\r\n")
    log = server.wait_log(f"{text.decode().rpartition(' ')[2]}: removed")
    for recipient, (final, nexthop) in HIDDEN.items():
        line = next(line for line in log.splitlines() if f"orig_to=<{recipient}>" in line)
        assert f"to=<{final}>, orig_to=<{recipient}>, relay=none" in line
        assert line.endswith(f"status=sent ({nexthop})")


def test_the_default_configuration_is_no_open_relay(tmp_path: Path) -> None:
    """What a machine with one address and nothing in main.cf but its name allows: its own address, nobody else's."""
    parameters = {"mynetworks_style": "host", "inet_interfaces": "127.0.0.1", "default_transport": "discard"}
    server = LiveServer(tmp_path, parameters)
    del server.parameters["mynetworks"], server.parameters["mydestination"]
    server.write_main_cf()
    with server:
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30, source_address=("127.0.0.3", 0)) as client:
            client.ehlo()
            client.mail("spam@foreign.test")
            code, text = client.rcpt("victim@foreign.test")
            assert (code, text) == (454, b"4.7.1 <victim@foreign.test>: Relay access denied")
            assert client.rcpt("user@mail.fastmta.test")[0] == 250
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            client.ehlo()
            client.mail("friend@foreign.test")
            assert client.rcpt("anybody@foreign.test")[0] == 250
