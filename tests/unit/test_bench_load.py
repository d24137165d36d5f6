"""The bench's own generator and sink: what they count is what happened, also when the other side misbehaves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from bench import generator, sink
from bench.account import Arrived, Sent, complaints, numbers, ranges
from bench.generator import Generator
from bench.message import Maker, address, identify, recipient_of
from bench.sink import Fault, Sink

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


async def meet(
    faults: tuple[str, ...] = (),
    expect: int = 0,
    tls: tuple[str, str] | None = None,
    offer: bool = True,
    again: int = 1,
    **settings: Any,
) -> tuple[Sent, Arrived]:
    """The generator straight to the sink; `again` times the same run."""
    there = sink.Settings((("127.0.0.1", 0),), expect, 30.0, offer, tuple(map(Fault.parse, faults)), tls=tls)
    receiver = Sink(there)
    await receiver.open()
    for _ in range(again):
        here = generator.Settings("127.0.0.1", receiver.ports[0], run="r", **{"seconds": 20.0, **settings})
        sent = await Generator(here).run()
    if expect:
        await asyncio.wait_for(receiver.done, 10)
    return sent, await receiver.close()


def test_all_arrives_once() -> None:
    sent, arrived = run(meet(messages=200, sessions=7, expect=200))
    assert sent.messages == 200
    assert sent.acknowledged == arrived.whole["r"] == "0-199"
    assert (arrived.transactions, arrived.deliveries, sent.sessions) == (200, 200, 7)
    assert complaints(sent, arrived) == []
    assert sent.latency["p50"] <= sent.latency["p99"] <= sent.latency["max"] < 20_000
    assert sum(sent.histogram.values()) == 200


def test_a_session_for_each_message() -> None:
    sent, arrived = run(meet(messages=50, sessions=5, per_session=1))
    assert sent.messages == arrived.deliveries == 50
    assert arrived.sessions == sent.sessions >= 50
    assert sent.lost == 0


def test_recipients_are_spread_over_domains_and_each_is_accounted_for() -> None:
    sent, arrived = run(meet(messages=40, recipients=3, domains=4, expect=120))
    assert sent.replies["RCPT"] == {"250": 120}
    assert arrived.deliveries == 120
    assert arrived.whole == {"r": "0-39"}


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_pipelining_only_where_it_is_offered(offered: bool, wanted: bool) -> None:
    sent, arrived = run(meet(messages=30, sessions=2, offer=offered, pipelining=wanted))
    assert sent.messages == 30
    assert arrived.unasked == 0


def test_the_open_loop_keeps_its_rate_though_the_server_is_slow() -> None:
    """40 sessions wait 50 ms each, so that 300 a second fit; a closed loop would send as fast as it can."""
    sent, _ = run(meet(("DOT=delay:1:0.05",), messages=150, sessions=40, rate=300.0, arrivals="even"))
    assert sent.messages == 150
    assert 0.45 < sent.seconds < 5
    assert sent.latency["p50"] >= 49  # the sink's timer may be early by its resolution
    assert sent.from_due["p50"] >= sent.latency["p50"] * 0.9


def test_waiting_for_a_session_counts_from_when_a_message_was_due() -> None:
    sent, _ = run(meet(("DOT=delay:1:0.02",), messages=20, sessions=1, rate=1000.0, arrivals="even"))
    assert sent.from_due["max"] > 200  # twenty messages of 20 ms, all due within 20 ms
    assert sent.latency["p50"] < sent.from_due["max"] / 2


def test_refusals_are_counted_by_command_and_code() -> None:
    sent, arrived = run(meet(("DOT=reject:1",), messages=10))
    assert (sent.messages, sent.refused) == (0, "0-9")
    assert sent.replies["DOT"] == {"550": 10}
    assert arrived.transactions == 0
    assert complaints(sent, arrived) == []


def test_chance_is_the_same_for_the_same_seed() -> None:
    def once() -> dict[str, int]:
        return run(meet(("RCPT=tempfail:0.2",), messages=200, sessions=1))[1].replies["RCPT"]

    first = once()
    assert once() == first
    assert 10 < first["450"] < 90


@pytest.mark.parametrize("pipelining", [True, False])
def test_some_recipients_refused(pipelining: bool) -> None:
    faults = ("RCPT=tempfail:0.3", "MAIL=tempfail:0.1", "DOT=tempfail:0.1")
    sent, arrived = run(meet(faults, messages=200, recipients=3, domains=2, pipelining=pipelining))
    refused = len(numbers(sent.refused))
    assert sent.messages + refused == 200
    assert 0 < refused < 100
    assert sent.messages == arrived.transactions
    assert complaints(sent, arrived) == []


def test_connections_that_drop_are_made_anew() -> None:
    sent, arrived = run(meet(("DOT=drop:0.1",), messages=200, sessions=4))
    assert sent.lost == arrived.replies["DOT"]["dropped"] > 5
    assert len(numbers(sent.unknown)) == sent.lost
    assert sent.messages + sent.lost == 200
    assert complaints(sent, arrived) == []


def test_a_host_that_says_421_is_tried_again() -> None:
    sent, arrived = run(meet(("CONNECT=tempfail:0.5",), messages=20, sessions=4))
    assert sent.messages == 20
    assert arrived.replies["CONNECT"]["421"] > 0


def test_a_dead_host_ends_with_the_time() -> None:
    sent, arrived = run(meet(("CONNECT=delay:1:600",), messages=5, seconds=0.3))
    assert (sent.messages, arrived.transactions) == (0, 0)
    assert sent.seconds < 5


def test_faults_of_one_domain_leave_the_others_alone() -> None:
    sent, _ = run(meet(("d1.example.org/RCPT=reject:1",), messages=40, domains=4))
    assert numbers(sent.refused) == set(range(1, 40, 4))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sink.bench.example")])
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(chain), str(secret)


def test_starttls(certificate: tuple[str, str]) -> None:
    sent, arrived = run(meet(messages=50, sessions=3, starttls=True, tls=certificate))
    assert sent.messages == 50
    assert sent.replies["STARTTLS"] == arrived.replies["STARTTLS"] == {"220": 3}


def test_starttls_that_is_not_offered_is_no_success() -> None:
    sent, arrived = run(meet(messages=5, sessions=1, starttls=True, seconds=0.5))
    assert sent.messages == arrived.transactions == 0
    assert "not offered" in sent.replies["STARTTLS"]


def test_what_comes_twice_is_reported() -> None:
    sent, arrived = run(meet(messages=10, again=2))
    assert arrived.duplicates == 10
    assert complaints(sent, arrived) == [f"10 came twice: {', '.join(arrived.duplicate)}"]


# Messages


@given(st.integers(0, 5000), st.integers(0, 10**6), st.integers(0, 2**32), st.data())
def test_a_changed_byte_is_noticed(size: int, number: int, seed: int, data: st.DataObject) -> None:
    wire = Maker("r", size, 1, "a@example.com", seed).make(number)
    assert wire.endswith(b"\r\n.\r\n")
    assert b"\r\n.\r\n" not in wire[:-5]
    assert max(map(len, wire.split(b"\r\n"))) <= 998
    content = b"Received: from x\r\n\tby y\r\n" + wire[:-3]
    found = identify(content)
    assert found is not None
    assert (found.run, found.number, found.recipients, found.whole) == ("r", number, 1, True)
    begin = content.index(b"X-Bench-Sum: ") + len(b"X-Bench-Sum: ")
    place = data.draw(st.integers(begin, len(content) - 1))
    bad = bytearray(content)
    bad[place] ^= 1
    changed = identify(bytes(bad))
    assert changed is None or not changed.whole
    cut = identify(content[:place])
    assert cut is None or not cut.whole


def test_a_dot_more_or_less_is_noticed() -> None:
    wire = Maker("r", 5000, 1, "a@example.com").make(3)[:-3]
    assert b"\r\n.." in wire
    for bad in (wire.replace(b"\r\n..", b"\r\n.", 1), wire.replace(b"\r\n..", b"\r\n...", 1), wire + b"\r\n"):
        found = identify(bad)
        assert found is not None
        assert not found.whole


@pytest.mark.parametrize(
    "wire", [b"", b"\r\n\r\n", b"Subject: x\r\n\r\nX-Bench-Sum: 1\r\n", b"X-Bench-Sum: 1\r\n\r\nx"]
)
def test_strange_mail_is_nobodys(wire: bytes) -> None:
    assert identify(wire) is None


def test_addresses_say_which_recipient_they_are() -> None:
    made = address(7, 2, 3, 5, "example.org")
    assert re.fullmatch(r"r7\.2@d3\.example\.org", made)
    assert recipient_of(made.partition("@")[0].encode()) == 2
    assert address(7, 0, 1, 1, "example.org") == "r7.0@example.org"
    assert [recipient_of(local) for local in (b"", b"bob", b"r.1", b"rx.1", b"r1.x", b"1.2")] == [-1] * 6


# Accounts


@given(st.sets(st.integers(0, 300)))
def test_ranges_come_back(wanted: set[int]) -> None:
    assert numbers(ranges(sorted(wanted))) == wanted


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda sent, arrived: None, ""),
        (lambda sent, arrived: arrived.whole.update(r="0-3,5-9"), "1 acknowledged messages did not arrive: 4"),
        (lambda sent, arrived: setattr(arrived, "damaged", 1), "1 were not whole: "),
        (lambda sent, arrived: setattr(arrived, "unnumbered", 2), "2 messages are nobody's"),
        (lambda sent, arrived: setattr(sent, "refused", "2"), "1 refused messages arrived: 2"),
    ],
)
def test_complaints(change: Callable[[Sent, Arrived], None], complaint: str) -> None:
    sent = Sent("r", 1, acknowledged="0-9")
    arrived = Arrived(whole={"r": "0-9"})
    change(sent, arrived)
    assert complaints(sent, arrived) == ([complaint] if complaint else [])


def test_a_recipient_that_was_refused_is_not_missed_and_another_is() -> None:
    sent = Sent("r", 2, acknowledged="0-1", refused_recipients={"0": [1], "1": [1]})
    arrived = Arrived(partial={"r": {"0": [0], "1": [1]}})
    assert complaints(sent, arrived) == ["1 acknowledged messages did not arrive: 1"]


@pytest.mark.parametrize("text", ["RCPT", "NOOP=reject:1", "RCPT=explode", "RCPT=delay:1:2:3", "RCPT=tempfail:often"])
def test_faults_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        Fault.parse(text)


def test_faults_are_read() -> None:
    assert Fault.parse("DOT=reject") == Fault("DOT", "reject", 1.0)
    assert Fault.parse("D3.example.org/RCPT=delay:0.5:2") == Fault("RCPT", "delay", 0.5, 2.0, "d3.example.org")


@given(st.lists(st.floats(0, 10), min_size=1))
def test_the_histogram_counts_all(seconds: list[float]) -> None:
    from array import array

    assert sum(generator.histogram(array("d", seconds)).values()) == len(seconds)
