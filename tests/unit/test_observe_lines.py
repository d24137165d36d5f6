"""Log lines, word for word as Postfix 3.7 wrote them."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmta._ext.loglines import is_complete
from fastmta.address.quote import quote_822_local
from fastmta.address.rewrite import RewriteSettings, canonical
from fastmta.observe import lines

A = "localhost[127.0.0.1]"


def test_session() -> None:
    assert lines.connect(A) == "connect from localhost[127.0.0.1]"
    counters = [("ehlo", 1, 1), ("mail", 7, 7), ("rcpt", 8, 8), ("data", 6, 7), ("quit", 0, 0)]
    assert lines.disconnect(A, counters) == f"disconnect from {A} ehlo=1 mail=7 rcpt=8 data=6/7 commands=22/23"
    assert lines.disconnect(A, []) == f"disconnect from {A} commands=0/0"
    assert lines.lost_connection(lines.LOST_CONNECTION, "RCPT", A) == f"lost connection after RCPT from {A}"
    assert lines.lost_connection(lines.TIMEOUT, "DATA", A, 12) == f"timeout after DATA (12 bytes) from {A}"
    assert (
        lines.improper_pipelining("EHLO", A, "MAIL FROM:<x>\\r\\n")
        == f"improper command pipelining after EHLO from {A}: MAIL FROM:<x>\\r\\n"
    )


def test_message() -> None:
    assert lines.client("4jX", A) == "4jX: client=localhost[127.0.0.1]"
    assert (
        lines.client_extended("4jX", A, sasl_username="u", sasl_method="PLAIN")
        == f"4jX: client={A}, sasl_method=PLAIN, sasl_username=u"
    )
    assert lines.message_id("4jX", "<a@b>") == "4jX: message-id=<a@b>"
    assert lines.resent_message_id("4jX", "<a@b>") == "4jX: resent-message-id=<a@b>"
    assert lines.queue_active("4jX", "a@x.org", 297, 1) == "4jX: from=<a@x.org>, size=297, nrcpt=1 (queue active)"
    assert lines.queue_active("4jX", "", 314, 2) == "4jX: from=<>, size=314, nrcpt=2 (queue active)"
    assert lines.removed("4jX") == "4jX: removed"
    assert lines.expired("4jX", "a@x") == "4jX: from=<a@x>, status=expired, returned to sender"
    assert lines.expired("4jX", "", True) == "4jX: from=<>, status=force-expired, returned to sender"
    assert lines.pickup("4jX", 0, "root") == "4jX: uid=0 from=<root>"


def test_delivery() -> None:
    relay = "127.0.0.1[127.0.0.1]:21401"
    text = "250 2.0.0 Ok: sunk"
    assert (
        lines.delivery("4jX", "b@y.org", "", relay, 1, 0.01, 0.01, 0, 0, "2.0.0", "sent", text)
        == f"4jX: to=<b@y.org>, relay={relay}, delay=0.02, delays=0.01/0.01/0/0, dsn=2.0.0, status=sent ({text})"
    )
    assert (
        lines.delivery("4jX", "u@o.org", "u", relay, 4, 1.04, 0.0049, 30.4, 0.96, "4.4.1", "deferred", "x")
        == f"4jX: to=<u@o.org>, orig_to=<u>, relay={relay}, conn_use=4, delay=32, delays=1/0/30/0.96, "
        "dsn=4.4.1, status=deferred (x)"
    )
    same = lines.delivery("4jX", "u@o.org", "U@O.org", "none", 1, 0, 0, 0, 0, "5.0.0", "bounced", "x")
    assert "orig_to" not in same, "a difference in case is none"
    assert 'to=<"b c"@y.org>' in lines.delivery("4jX", "b c@y.org", "", "none", 1, 0, 0, 0, 0, "2.0.0", "sent", "x")
    back = lines.delivery("4jX", "u@o.org", "", "none", 1, -5, 3, 0, float("nan"), "4.0.0", "deferred", "x")
    assert "delays=0/3/0/0," in back, "a clock that jumped back shows as 0"


def test_delay_resolution() -> None:
    line = lines.delivery("4jX", "u@o", "", "none", 1, 0.00123, 0.00049, 0, 0, "2.0.0", "sent", "x", 6)
    assert "delays=0.0012/0.00049/0/0" in line


def test_reject() -> None:
    text = "554 5.7.1 <x@y>: Relay access denied"
    assert (
        lines.reject("", "RCPT", A, text, "s@x", "x@y", "ESMTP", "h")
        == f"NOQUEUE: reject: RCPT from {A}: {text}; from=<s@x> to=<x@y> proto=ESMTP helo=<h>"
    )
    assert lines.reject("4jX", "CONNECT", A, "554 5.7.1 no") == f"4jX: reject: CONNECT from {A}: 554 5.7.1 no;"
    assert (
        lines.reject_header("4jX", "header", "Subject: x", A, "s@x", "r@y", "ESMTP", "h", "5.7.1 no")
        == f"4jX: reject: header Subject: x from {A}; from=<s@x> to=<r@y> proto=ESMTP helo=<h>: 5.7.1 no"
    )


def test_notifications() -> None:
    assert lines.notification("4jX", "non-delivery", "4jY") == "4jX: sender non-delivery notification: 4jY"
    assert lines.notification("4jX", "delay", "4jY", True) == "4jX: postmaster delay notification: 4jY"


def test_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert (
            lines.statistics_rate("connection", 5, 60, "smtp:192.0.2.1", 1788825904)
            == "statistics: max connection rate 5/60s for (smtp:192.0.2.1) at Sep  8 00:05:04"
        )
        assert (
            lines.statistics_count(2, "smtp:192.0.2.1", 1788825904)
            == "statistics: max connection count 2 for (smtp:192.0.2.1) at Sep  8 00:05:04"
        )
        assert lines.statistics_cache(3, 1788825904) == "statistics: max cache size 3 at Sep  8 00:05:04"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_tls() -> None:
    facts = lines.TlsFacts(
        "TLSv1.3",
        "TLS_AES_256_GCM_SHA384",
        256,
        256,
        key_exchange="X25519",
        server_signature="RSA-PSS",
        server_signature_detail="2048 bits",
        server_digest="SHA256",
    )
    assert (
        lines.tls_summary(facts, "LocalHost[127.0.0.1]", inbound=True)
        == "Anonymous TLS connection established from localhost[127.0.0.1]: TLSv1.3 with cipher "
        "TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 server-signature RSA-PSS (2048 bits) "
        "server-digest SHA256"
    )
    old = lines.TlsFacts("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384", 256, 256, "Untrusted")
    assert (
        lines.tls_summary(old, "mx.x[192.0.2.1]:25", inbound=False, reused=True)
        == "Untrusted TLS connection reused to mx.x[192.0.2.1]:25: TLSv1.2 with cipher "
        "ECDHE-RSA-AES256-GCM-SHA384 (256/256 bits)"
    )


@given(st.text(st.characters(codec="utf-8"), max_size=30) | st.text('ab."@\\ \r\n', max_size=12))
def test_addresses_are_logged_in_external_form(address: str) -> None:
    """The compiled test for what needs quotes agrees with the plain one."""
    wanted = quote_822_local(address)
    assert lines.queue_active("Q", address, 0, 1) == f"Q: from=<{wanted}>, size=0, nrcpt=1 (queue active)"


@given(st.text("a.@[", max_size=8))
def test_complete_addresses_need_no_rewriting(address: str) -> None:
    settings = RewriteSettings("origin.example", "example", append_dot_mydomain=True)
    if is_complete(address):
        assert canonical(address, settings) == address


@given(st.floats(0, 1e7), st.integers(0, 6))
def test_times_are_near(seconds: float, most: int) -> None:
    shown = lines.format_tv(seconds, 2, most)
    assert abs(float(shown) - seconds) <= max(0.5, 0.1 * seconds if seconds < 1 else 0.5)
    if seconds >= 10:
        assert "." not in shown
