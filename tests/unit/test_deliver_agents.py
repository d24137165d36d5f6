"""Agents from master.cf; and those that answer without delivering."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fastmta.config import load
from fastmta.config.machine import Interface
from fastmta.deliver.agents import build_agents
from fastmta.deliver.error import DiscardAgent, ErrorAgent, RetryAgent
from fastmta.deliver.nexthop import NexthopError, Site, numeric_address, parse_site, split_sites
from fastmta.deliver.settings import only_address
from fastmta.deliver.smtp import SmtpAgent
from fastmta.model.outcome import Bounced, Deferred, Result, Sent, split_dsn
from tests.delivery import Harness, Request, Slot, message, run

MASTER = """
smtp      inet  n       -       y       -       -       smtpd
smtp      unix  -       -       y       -       -       smtp
relay     unix  -       -       y       -       -       smtp
        -o syslog_name=${multi_instance_name?{$multi_instance_name}:{postfix}}/$service_name
        -o smtp_helo_timeout=5 -o smtp_tls_security_level=may -o smtp_helo_name=relay.example
lmtp      unix  -       -       y       -       -       lmtp
error     unix  -       -       y       -       -       error
retry     unix  -       -       y       -       -       error
discard   unix  -       -       y       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
maildrop  unix  -       n       n       -       -       pipe flags=DRXhu user=vmail argv=/usr/bin/maildrop
cleanup   unix  n       -       y       -       0       cleanup
"""


def test_agents_of_master_cf(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("myhostname = mail.example\nsmtp_discard_ehlo_keywords = dsn, silent-discard\n")
    (tmp_path / "master.cf").write_text(MASTER)

    async def main() -> None:
        harness = Harness()
        agents = build_agents(load(tmp_path), harness.context)
        assert {name: agent.ident for name, agent in agents.items()} == {
            "smtp": "postfix/smtp",
            "relay": "postfix/relay/smtp",
            "lmtp": "postfix/lmtp",
            "error": "postfix/error",
            "retry": "postfix/error",
            "discard": "postfix/discard",
            "local": "postfix/local",
            "virtual": "postfix/virtual",
            "maildrop": "postfix/pipe",
        }
        smtp, relay, lmtp = agents["smtp"], agents["relay"], agents["lmtp"]
        assert isinstance(smtp, SmtpAgent)
        assert isinstance(relay, SmtpAgent)
        assert isinstance(lmtp, SmtpAgent)
        assert (smtp.settings.helo_timeout, relay.settings.helo_timeout) == (300, 5)
        assert (smtp.settings.helo_name, relay.settings.helo_name) == ("mail.example", "relay.example")
        assert (smtp.client_tls is None, relay.client_tls is None) == (True, False)
        assert (smtp.settings.skip_quit_response, lmtp.settings.skip_quit_response) == (True, False)
        assert smtp.settings.discard_ehlo == 32
        request = Request(message("a@example.com", "b@example.com"), "mail.example")
        agents["local"].slot(Slot([request]))
        assert request.results == [Deferred("4.3.0", "local delivery is not supported yet")] * 2

    run(main)


@pytest.mark.parametrize(
    ("agent", "nexthop", "result"),
    [
        (ErrorAgent("e"), "5.1.1 no such user", Bounced("5.1.1", "no such user")),
        (ErrorAgent("e"), "mailbox is gone", Bounced("5.0.0", "mailbox is gone")),
        (ErrorAgent("e"), "4.2.2 full", Bounced("5.0.0", "full")),
        (RetryAgent("e"), "4.4.1 later", Deferred("4.4.1", "later")),
        (RetryAgent("e"), "later", Deferred("4.0.0", "later")),
        (DiscardAgent("d"), "junk", Sent("2.0.0", "junk")),
    ],
)
def test_answers_without_delivery(agent: ErrorAgent, nexthop: str, result: Result) -> None:
    async def main() -> None:
        requests = [Request(message("a@b.c", "d@e.f"), nexthop), Request(message(), nexthop)]
        slot = Slot(list(requests))
        agent.slot(slot)
        assert slot.over.is_set()
        assert requests[0].results == [result, result]
        assert requests[1].results == [result]
        assert requests[0].attempt.relay == "none"

    run(main)


def test_split_dsn() -> None:
    assert split_dsn("5.0.0", "5.1.2") == ("5.1.2", "")
    assert split_dsn("5.0.0", "5.1 x") == ("5.0.0", "5.1 x")
    assert split_dsn("5.0.0", "5.1234.1 x") == ("5.0.0", "5.1234.1 x")


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("example.com", Site("example.com", "example.com", 25, False)),
        ("example.com:587", Site("example.com:587", "example.com", 587, False)),
        ("example.com:submission", Site("example.com:submission", "example.com", 587, False)),
        ("[example.com]", Site("[example.com]", "example.com", 25, True)),
        ("[127.0.0.1]:2525", Site("[127.0.0.1]:2525", "127.0.0.1", 2525, True)),
        ("[IPv6:::1]", Site("[IPv6:::1]", "::1", 25, True)),
        ("[::1]:26", Site("[::1]:26", "::1", 26, True)),
        ("[127.0.0.1]:", Site("[127.0.0.1]:", "127.0.0.1", 25, True)),
        ("example.com:", Site("example.com:", "example.com", 25, False)),
        ("A_b.Example", Site("A_b.Example", "A_b.Example", 25, False)),
        ("127.0.0.1:26", Site("127.0.0.1:26", "127.0.0.1", 26, False)),
    ],
)
def test_sites(text: str, site: Site) -> None:
    assert parse_site(text, "smtp") == site


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a", 'missing "]" in server description: [a'),
        ("[a]b", 'garbage after "]" in server description: [a]b'),
        ("a:0", "bad network port: 0 for destination: a:0"),
        ("a:65536", "bad network port: 65536 for destination: a:65536"),
        ("a:nothing", "unknown service: nothing/tcp"),
        ("a:25x", "garbage after numerical service in server description: a:25x"),
        (":25", "missing host information in server description: :25"),
        *(
            (text, f"valid hostname or network address required in server description: {text}")
            for text in ("[]", "[bad..name]:25", "[-bad]", "[1.2.3]", "[127.1]:25", "2130706433:25")
        ),
    ],
)
def test_sites_that_make_no_sense(text: str, words: str) -> None:
    """The words are Postfix's."""
    with pytest.raises(NexthopError) as raised:
        parse_site(text, "smtp")
    assert str(raised.value) == words


def test_an_ipv4_address_in_an_ipv6_one_is_written_as_the_c_library_does() -> None:
    assert numeric_address("::FFFF:127.0.0.1") == (socket.AF_INET6, "::ffff:127.0.0.1")
    assert numeric_address("127.1") is None


def test_lists_of_sites() -> None:
    assert split_sites(" a, [b]:1 c ,") == ["a", "[b]:1", "c"]


def test_best_mx_transport_hands_mail_to_another_agent(tmp_path: Path) -> None:
    (tmp_path / "main.cf").write_text("myhostname = mail.example\n")
    (tmp_path / "master.cf").write_text(MASTER)

    async def main() -> None:
        harness = Harness()
        smtp = build_agents(load(tmp_path), harness.context)["smtp"]
        assert isinstance(smtp, SmtpAgent)
        assert smtp.context.pass_on is not None
        for target, result in (
            ("local", Deferred("4.3.0", "local delivery is not supported yet")),
            ("error:5.1.1 not here", Bounced("5.1.1", "not here")),
            ("discard", Sent("2.0.0", "example.com")),
            ("nothing", Deferred("4.3.5", "mail transport unavailable: nothing")),
        ):
            request = Request(message(), "example.com")
            smtp.context.pass_on(request, target)
            assert request.result == result

    run(main)


def test_a_host_with_one_address_sends_from_it() -> None:
    def interface(address: str) -> Interface:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return Interface(family, socket.inet_pton(family, address), b"\xff" * 4)

    two, six = interface("192.0.2.1"), interface("2001:db8::1")
    assert only_address([two, six], socket.AF_INET) == "192.0.2.1"
    assert only_address([two, six], socket.AF_INET6) == "2001:db8::1"
    assert only_address([two, interface("127.0.0.1")], socket.AF_INET) == ""
    assert only_address([interface("127.0.0.1")], socket.AF_INET) == ""
