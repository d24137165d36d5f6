"""Addresses: quoting, completion, and where their mail goes. The hard cases are asked of a live Postfix as well."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmta.address.hostname import literal_address, valid_utf8_hostname
from fastmta.address.quote import quote_821_local, quote_822_local, unquote_822_local
from fastmta.address.resolve import CLASS_DEFAULT, CLASS_LOCAL, CLASS_RELAY, Resolved, Resolver, ResolveSettings
from fastmta.address.rewrite import RewriteSettings, canonical, canonical_recipient, canonical_sender
from fastmta.model.outcome import Bounced

REWRITE = RewriteSettings("origin.example", "example")
TEXT = st.text('ab"\\ @.%!:,<>\t\u00e9', max_size=12)


def resolver(**settings: object) -> Resolver:
    return Resolver(
        ResolveSettings(REWRITE, "mx.example", local_transport="local:mx.example", **settings),  # type: ignore[arg-type]
        {"mx.example", "here.example"}.__contains__,
        {"relay.example"}.__contains__,
        {"192.0.2.1", "2001:db8::1"}.__contains__,
    )


@given(TEXT, st.sampled_from(["", "x.example", "[192.0.2.1]"]))
def test_quoting_is_undone_by_unquoting(local: str, domain: str) -> None:
    address = f"{local}@{domain}" if domain else local
    if address.startswith("@"):
        return  # the null local part, or a source route
    if not domain and "@" in local:
        return
    assert unquote_822_local(quote_822_local(address)) == address
    assert unquote_822_local(quote_821_local(address)) == address


@given(TEXT)
def test_completion_is_final(address: str) -> None:
    once = canonical(address, REWRITE)
    if "@" in once and not once.startswith("@") and not once.rpartition("@")[2].endswith("."):
        assert canonical(once, REWRITE) == once


@pytest.mark.parametrize(
    ("given", "complete"), [("", ""), ("user", "user@origin.example"), ("u@host", "u@host"), ("u@a.b.", "u@a.b")]
)
def test_completion(given: str, complete: str) -> None:
    assert canonical(given, REWRITE) == complete


def test_null_addresses() -> None:
    assert canonical_sender("mailer-daemon", REWRITE) == ""
    assert canonical_recipient("", REWRITE) == "MAILER-DAEMON@origin.example"
    assert canonical("u@host", RewriteSettings("o", "example", append_dot_mydomain=True)) == "u@host.example"
    assert canonical("u", RewriteSettings("o", append_at_myorigin=False)) == "u"


@given(TEXT)
def test_every_address_resolves(address: str) -> None:
    answer = resolver().resolve(canonical(address, REWRITE))
    if isinstance(answer, Resolved):
        assert answer.transport and answer.recipient
    else:
        assert answer.dsn == "5.1.3"


def test_a_local_part_does_not_smuggle_mail_out() -> None:
    for address in ("a%out.example@here.example", '"a@out.example"@here.example', "out.example!a@here.example"):
        answer = resolver().resolve(unquote_822_local(address))
        assert isinstance(answer, Resolved)
        assert (answer.transport, answer.recipient) == ("smtp", "a@out.example")


def test_literals_of_ours_are_local() -> None:
    for address in ("u@[192.0.2.1]", "u@[IPv6:2001:db8::1]"):
        answer = resolver().resolve(address)
        assert isinstance(answer, Resolved) and answer.transport == "local"
    answer = resolver().resolve("u@[192.0.2.2]")
    assert isinstance(answer, Resolved) and (answer.transport, answer.nexthop) == ("smtp", "[192.0.2.2]")


def test_the_double_bounce_address_swallows() -> None:
    answer = resolver().resolve("Double-Bounce@mx.example")
    assert isinstance(answer, Resolved)
    assert (answer.transport, answer.nexthop) == ("discard", "undeliverable postmaster notification discarded")


def test_bad_domains_bounce() -> None:
    for address in ("u@a..b", "u@-a", "u@[1.2.3]", "u@1.2.3.4", "u@" + "a" * 64 + ".example"):
        assert isinstance(resolver().resolve(address), Bounced)


def test_domain_class() -> None:
    names = resolver()
    assert names.domain_class("HERE.example") == CLASS_LOCAL
    assert names.domain_class("[192.0.2.1]") == CLASS_LOCAL
    assert names.domain_class("relay.example") == CLASS_RELAY
    assert names.domain_class("out.example") == CLASS_DEFAULT


def test_utf8_hostnames_and_literals() -> None:
    assert valid_utf8_hostname("b\u00fccher.example")
    assert not valid_utf8_hostname("\u00fc..example")
    assert literal_address("[IPV6:::1]") == "::1"
    assert literal_address("[::1]") == ""
