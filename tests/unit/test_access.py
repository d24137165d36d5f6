"""Restriction lists, and who may relay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastmta.access.compiler import AccessCompiler
from fastmta.access.destination import Destinations
from fastmta.access.hostnames import is_fqdn, valid_helo
from fastmta.access.restrictions import compile_checks, report
from fastmta.address.resolve import Resolver, ResolveSettings
from fastmta.address.rewrite import RewriteSettings, canonical
from fastmta.config import Config, ConfigError, load
from fastmta.tables.maps import Tables

REWRITE = RewriteSettings("here.example", "example")


def destinations() -> Destinations:
    resolver = Resolver(
        ResolveSettings(REWRITE, "here.example"),
        lambda name: name in ("here.example", "also.example"),
        lambda name: name == "relay.example" or name.endswith(".relay.example"),
        lambda address: address == "192.0.2.1",
    )
    return Destinations(resolver, lambda address: canonical(address, REWRITE))


class Client(msgspec.Struct):
    client: str = "c.example[192.0.2.9]"
    client_name: str = "c.example"
    client_address: str = "192.0.2.9"
    in_mynetworks: bool = False
    helo_name: str | None = "c.example"
    sender: str | None = "s@c.example"
    recipient: str | None = "r@relay.example"
    recipient_count: int = 0
    esmtp: bool = True
    secure: bool = False
    improper_pipelining: bool = False


def nowhere(address: str) -> None:
    """No address goes to the error transport."""


def config(tmp_path: Path, **parameters: str) -> Config:
    (tmp_path / "main.cf").write_text(
        "compatibility_level = 3.6\n" + "".join(f"{name} = {value}\n" for name, value in parameters.items())
    )
    (tmp_path / "master.cf").write_text("smtp inet n - n - - smtpd\n")
    return load(tmp_path)


def rcpt(tmp_path: Path, client: Client, **parameters: str) -> str | None:
    warnings: list[str] = []
    checks = compile_checks(config(tmp_path, **parameters), destinations().is_authorized, nowhere, warnings.append)
    assert checks.rcpt is not None
    return checks.rcpt(client)


@pytest.mark.parametrize(
    ("recipient", "authorized"),
    [
        ("x@relay.example", True),
        ("x@RELAY.example", True),
        ("x@sub.relay.example", True),
        ("x@here.example", True),
        ("x@here.example.", True),
        ("x@[192.0.2.1]", True),
        ("x", True),
        ("@relay.example", True),
        ("@here.example", True),
        ("x%relay.example", True),
        ("x%relay.example@here.example", True),
        ("x@also.example@here.example", True),
        ("x@other.example", False),
        ("x@[192.0.2.2]", False),
        ("x@notrelay.example", False),
        ("x%other.example", False),
        ("x%other.example@here.example", False),
        ("x%other.example@relay.example", False),
        ("x%relay.example@relay.example", False),
        ("x@other.example@here.example", False),
        ("x@other.example@relay.example", False),
        ("x%other.example%here.example", False),
        ("x%other.example%here.example@here.example", False),
        ('"x@other.example"@here.example', False),
        ('"x%other.example"@here.example', False),
        ('"\\"x@other.example\\""@here.example', False),
        ("other.example!x", False),
        ("other.example!x@here.example", False),
        ("other.example!x@relay.example", False),
        ("here.example!x", True),
        ("@here.example:x@other.example", False),
        ("@here.example,@relay.example:x@other.example", False),
        ("x@", False),
        ("x@-.example", False),
        ("x%@here.example", False),
        ("x@here.example%other.example", False),
    ],
)
def test_destination(recipient: str, authorized: bool) -> None:
    known = destinations()
    for _ in range(2):  # the second answer is from memory
        assert known.is_authorized(recipient) is authorized


def test_memory_of_destinations_has_a_limit() -> None:
    known = destinations()
    for number in range(40_000):
        assert not known.is_authorized(f"x@{number}.other.example")
    assert known.is_authorized("x@relay.example")
    assert len(known._known) <= 16384


@pytest.mark.parametrize(
    ("token", "strict", "utf8", "expected"),
    [
        (b"<>", False, False, ""),
        (b'<"a b"@relay.example>', False, False, "a b@relay.example"),
        (b'<"a\\"b"@relay.example>', True, False, 'a"b@relay.example'),
        (b"<@x,@y:a@relay.example>", True, False, "a@relay.example"),
        (b"a@relay.example", False, False, "a@relay.example"),
        (b"a@relay.example", True, False, None),
        (b"<(c)a@relay.example>", False, False, "a@relay.example"),
        (b"<(c)a@relay.example>", True, False, None),
        (b"<a b@relay.example>", False, False, None),
        (b"<a@b> <c@d>", False, False, None),
        (b"<a@b,c@d>", False, False, None),
        (b"<a@b..c>", False, False, None),
        (b"<a@1.2.3.4>", False, False, None),
        (b"<a@[1.2.3.4]>", False, False, "a@[1.2.3.4]"),
        ("<a@ü.example>".encode(), False, True, "a@ü.example"),
        ("<a@ü.example>".encode(), False, False, None),
        ("<ü@relay.example>".encode(), False, False, "ü@relay.example"),
        (b"<\xff@relay.example>", False, True, None),
        (b"<@foo>", True, False, None),
        (b"<(((>", False, False, ""),
    ],
)
def test_mailbox(token: bytes, strict: bool, utf8: bool, expected: str | None) -> None:
    assert destinations().parse_mailbox(token, strict, utf8) == expected


def test_default_is_no_open_relay(tmp_path: Path) -> None:
    access = AccessCompiler(
        destinations()._resolver, lambda address: canonical(address, REWRITE), Tables(config(tmp_path), print)
    )
    check = access.checks(config(tmp_path), lambda text: None).rcpt
    assert check is not None
    assert check(Client(recipient="x@other.example")) == "454 4.7.1 <x@other.example>: Relay access denied"
    assert check(Client(recipient="x@relay.example")) is None
    assert check(Client(recipient="x@other.example", in_mynetworks=True)) is None


@pytest.mark.parametrize(
    "parameters",
    [
        {"smtpd_relay_restrictions": ""},
        {"smtpd_relay_restrictions": "permit_mynetworks", "smtpd_recipient_restrictions": "permit"},
        {"smtpd_relay_restrictions": "permit", "smtpd_client_restrictions": "reject"},
    ],
)
def test_no_guard_no_start(tmp_path: Path, parameters: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="specify at least one working instance of"):
        rcpt(tmp_path, Client(), **parameters)


def test_guard_in_the_other_list(tmp_path: Path) -> None:
    options = {
        "smtpd_relay_restrictions": "",
        "smtpd_recipient_restrictions": "permit_mynetworks, reject_unauth_destination",
    }
    assert rcpt(tmp_path, Client(recipient="a@b.example"), **options) == "554 5.7.1 <a@b.example>: Relay access denied"


REFUSED: list[tuple[str, str, dict[str, Any], str | None]] = [
    (
        "client",
        "permit_mynetworks, reject",
        {},
        "554 5.7.1 <c.example[192.0.2.9]>: Client host rejected: Access denied",
    ),
    ("client", "permit_mynetworks, reject", {"in_mynetworks": True}, None),
    ("client", "defer", {}, "450 4.3.2 <c.example[192.0.2.9]>: Client host rejected: Try again later"),
    ("client", "permit, reject", {}, None),
    ("client", "permit_sasl_authenticated, permit_tls_clientcerts", {}, None),
    ("helo", "reject", {}, "554 5.7.1 <c.example>: Helo command rejected: Access denied"),
    ("helo", "reject", {"helo_name": None}, None),
    (
        "helo",
        "reject_invalid_helo_hostname",
        {"helo_name": "-x"},
        "501 5.5.2 <-x>: Helo command rejected: Invalid name",
    ),
    (
        "helo",
        "reject_non_fqdn_hostname",
        {"helo_name": "x"},
        "504 5.5.2 <x>: Helo command rejected: need fully-qualified hostname",
    ),
    (
        "sender",
        "reject_non_fqdn_sender",
        {"sender": "a@b"},
        "504 5.5.2 <a@b>: Sender address rejected: need fully-qualified address",
    ),
    ("sender", "reject_non_fqdn_sender", {"sender": ""}, None),
    ("sender", "reject", {"sender": ""}, "554 5.7.1 <>: Sender address rejected: Access denied"),
    (
        "recipient",
        "reject_non_fqdn_recipient",
        {"recipient": "a"},
        "504 5.5.2 <a>: Recipient address rejected: need fully-qualified address",
    ),
    ("recipient", "reject_non_fqdn_recipient", {"recipient": "postmaster"}, None),
    ("recipient", "permit_auth_destination, reject", {}, None),
    (
        "recipient",
        "permit_auth_destination, reject",
        {"recipient": "a@b.example", "in_mynetworks": True},
        "554 5.7.1 <a@b.example>: Recipient address rejected: Access denied",
    ),
    ("recipient", "reject", {"recipient": "PostMaster"}, None),
    (
        "recipient",
        "reject_multi_recipient_bounce",
        {"sender": "", "recipient_count": 1},
        "550 5.5.3 <r@relay.example>: Recipient address rejected: Multi-recipient bounce",
    ),
    (
        "recipient",
        "reject_unauth_pipelining",
        {"improper_pipelining": True},
        "503 5.5.0 <r@relay.example>: Recipient address rejected: Improper use of SMTP command pipelining",
    ),
    ("recipient", "reject_rbl_client zen.example", {}, "451 4.3.5 Server configuration error"),
    ("recipient", "permit, reject_rbl_client zen.example", {}, None),
    ("sender", "check_sender_access hash:/x", {}, "451 4.3.5 Server configuration error"),
]


@pytest.mark.parametrize(("stage", "words", "facts", "refusal"), REFUSED)
def test_refusals(tmp_path: Path, stage: str, words: str, facts: dict[str, Any], refusal: str | None) -> None:
    options = {f"smtpd_{stage}_restrictions": words}
    if stage != "relay":
        options["smtpd_relay_restrictions"] = "permit_mynetworks, reject_unauth_destination"
    assert rcpt(tmp_path, Client(**facts), **options) == refusal


def test_stages_without_delay(tmp_path: Path) -> None:
    options = {
        "smtpd_delay_reject": "no",
        "smtpd_client_restrictions": "permit_mynetworks",
        "smtpd_helo_restrictions": "reject",
        "smtpd_sender_restrictions": "defer",
        "smtpd_data_restrictions": "reject",
        "smtpd_end_of_data_restrictions": "reject_unauth_pipelining",
    }
    checks = compile_checks(config(tmp_path, **options), destinations().is_authorized, nowhere, lambda text: None)
    client = Client(improper_pipelining=True)
    assert checks.connect is not None and checks.connect(client) is None
    assert checks.helo is not None
    assert checks.helo(client) == "554 5.7.1 <c.example>: Helo command rejected: Access denied"
    assert checks.mail is not None
    assert checks.mail(client) == "450 4.3.2 <s@c.example>: Sender address rejected: Try again later"
    assert checks.rcpt is not None and checks.rcpt(client) is None
    assert checks.data is not None
    assert checks.data(client) == "554 5.7.1 <DATA>: Data command rejected: Access denied"
    assert checks.end_of_data is not None
    assert checks.end_of_data(client) == (
        "503 5.5.0 <END-OF-MESSAGE>: End-of-data rejected: Improper use of SMTP command pipelining"
    )


def test_nothing_to_check_costs_nothing(tmp_path: Path) -> None:
    checks = compile_checks(config(tmp_path), destinations().is_authorized, nowhere, lambda text: None)
    assert (checks.connect, checks.helo, checks.mail, checks.data, checks.end_of_data) == (None,) * 5


def test_unknown_words_are_reported_and_warned_of(tmp_path: Path) -> None:
    options = {"smtpd_recipient_restrictions": "permit_mynetworks, no_such_thing, reject"}
    cfg = config(tmp_path, **options)
    assert report(cfg) == [
        f"{tmp_path}/main.cf, line 2: smtpd_recipient_restrictions: restriction no_such_thing is not supported yet: "
        "refuses with 451 4.3.5"
    ]
    warnings: list[str] = []
    check = compile_checks(cfg, destinations().is_authorized, nowhere, warnings.append).rcpt
    assert check is not None and not warnings
    check(Client())
    assert warnings == ['unknown smtpd restriction: "no_such_thing"']
    assert report(config(tmp_path)) == []


def test_codes(tmp_path: Path) -> None:
    options = {"reject_code": "521", "defer_code": "421", "relay_domains_reject_code": "550"}
    guard = {"smtpd_relay_restrictions": "reject_unauth_destination"}
    refusal = rcpt(tmp_path, Client(recipient="a@b.example"), **options, **guard)
    assert refusal == "550 5.7.1 <a@b.example>: Relay access denied"
    refusal = rcpt(tmp_path, Client(), **options, **guard, smtpd_client_restrictions="reject")
    assert refusal == "521 5.7.1 <c.example[192.0.2.9]>: Client host rejected: Access denied"


@pytest.mark.parametrize("name", ["a.b", "a.b.", "[1.2.3.4]", "[IPv6:::1]", "ü.example"])
def test_full_names(name: str) -> None:
    assert is_fqdn(name)


@pytest.mark.parametrize("name", ["", "a", "a.", ".", "a..b", "[x]", "1.2.3.4", "-a.b"])
def test_names_that_are_not_full(name: str) -> None:
    assert not is_fqdn(name)


def test_helo_names() -> None:
    assert all(valid_helo(name) for name in ("a", "a.b", "a_b", "1.2.3.4", "::1", "[1.2.3.4]", "[IPv6:::1]"))
    assert not any(valid_helo(name) for name in ("", "-", "a b", "[::1]", "[1.2.3]", "a..b", "[1.2.3.4"))
