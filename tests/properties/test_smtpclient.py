"""The client machine against its oracle, for servers that say anything; and however the network cuts what they say."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fastmta.model.envelope import Envelope, Recipient
from tests.client_oracle import Oracle, play_machine

REPLIES = b"""220 server ESMTP|250 2.1.0 Ok|250 ok|250-one|354 go|550 5.1.1 no|450 4.2.0 later|421 bye|503 5.5.1 what
250-server|250-PIPELINING|250 PIPELINING|250-SIZE 1000|250 SIZE x|250-AUTH=LOGIN|250 DSN|221 bye|250 5.0.0 odd
|garbage|25|2500 x|250|250\tx|99 x|250 \xc3\xa4\x01\xff|250 2.1.1234 x|354"""
LONG = [b"x" * 3000, b"250 " + b"y" * 2044, b"250 " + b"y" * 2045, b"250-" + b"z" * 1500]
LINES = st.sampled_from(REPLIES.replace(b"\n", b"|").split(b"|") + LONG)
GOOD = [b"220 server ESMTP", b"250-server", b"250-SIZE", b"250 PIPELINING"]
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    begin = draw(st.sampled_from([[], GOOD, [*GOOD[:1], b"250 server"], [*GOOD[:1], b"500 what"]]))
    lines = begin + draw(st.lists(LINES, max_size=14))
    return b"".join(line + draw(ENDS) for line in lines) + draw(
        st.sampled_from([b"", b"250", b"25", b"q" * 2049, b"q" * 2200])
    )


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[Envelope, list[bytes]]]:
    messages = []
    for number in range(draw(st.integers(0, 3))):
        count = draw(st.integers(1, 3))
        recipients = tuple(Recipient(f"r{at}@example.com") for at in range(count))
        content = [b"Subject: %d\r\n" % number, b"\r\nbody\r\n"]
        messages.append((Envelope(f"Q{number}", 0.0, "s@example.org", recipients, 100 + number), content))
    return messages


@settings(max_examples=400, deadline=None)
@given(streams(), scripts(), st.booleans(), st.booleans())
def test_machine_does_what_the_oracle_does(
    data: bytes, messages: list[tuple[Envelope, list[bytes]]], lmtp: bool, prefetch: bool
) -> None:
    assert play_machine([data], messages, lmtp=lmtp, prefetch=prefetch) == Oracle(data, messages, lmtp, prefetch).run()


@settings(max_examples=200, deadline=None)
@given(streams(), scripts(), st.booleans(), st.lists(st.integers(0, 5000), max_size=10))
def test_any_split_gives_the_same_events(
    data: bytes, messages: list[tuple[Envelope, list[bytes]]], prefetch: bool, cuts: list[int]
) -> None:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    pieces = [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True)]
    assert play_machine(pieces, messages, prefetch=prefetch) == play_machine([data], messages, prefetch=prefetch)


@settings(max_examples=50, deadline=None)
@given(streams(), scripts(), st.booleans())
def test_byte_by_byte_gives_the_same_events(
    data: bytes, messages: list[tuple[Envelope, list[bytes]]], prefetch: bool
) -> None:
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert play_machine(pieces, messages, prefetch=prefetch) == play_machine([data], messages, prefetch=prefetch)
