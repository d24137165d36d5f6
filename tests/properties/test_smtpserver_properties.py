"""The machine: any cut of the input gives the same events and replies; content is what the oracle says."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.properties.smtpserver_oracle import ALLOWED, MODES, Outcome, cut, read_content, run

BEGIN = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"

crumb = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b".", b"\r\n.\r\n", b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"..", b"\0", b"a", b" "),
        *(b"\xc3\xa9", b"From ", b">", b"Subject: x\r\n"),
        *(b"x" * length for length in (15, 16, 17, 130, 1000, 2047, 2048)),
    ]
)
soup = st.lists(crumb, max_size=14).map(b"".join)
command = st.sampled_from(
    [
        *(
            b"EHLO x\r\n",
            b"HELO y\r\n",
            b"MAIL FROM:<a@b.example>\r\n",
            b"MAIL FROM:<> SIZE=3\r\n",
            b"mail from:<a@b\r\n",
        ),
        *(
            b"RCPT TO:<c@d.example>\r\n",
            b"RCPT TO:<no@d.example> NOTIFY=NEVER\r\n",
            b"DATA\r\n",
            b"RSET\r\n",
            b"NOOP\n",
        ),
        *(
            b"BDAT 3\r\nabc",
            b"BDAT 5 LAST\r\n.\r\nab",
            b"BDAT 0 LAST\r\n",
            b"BDAT 4\r\n\r\n.\r",
            b"VRFY <x@y.example>\r\n",
        ),
        *(
            b".\r\n",
            b"\r\n.\r\n",
            b"hello\r\n",
            b"FOO\r\n",
            b"STARTTLS\r\n",
            b"HELP\r\n",
            b"ETRN x.example\r\n",
            b"\r\n",
        ),
        *(b"NOOP " + b"x" * 2100 + b"\r\n", b"\xff\r\n", b"NO\0OP\r\n", b"QUIT\r\n"),
    ]
)
stream = st.lists(command | soup, max_size=16).map(b"".join)
places = st.lists(st.integers(0, 1 << 16), max_size=12)
mode = st.sampled_from(MODES)


@settings(max_examples=300, deadline=None)
@given(stream, places, mode, st.booleans(), st.booleans())
@example(BEGIN + b"DATA\r\nx\r\n.\r\n", list(range(80)), ALLOWED, True, True)
def test_any_cut_gives_the_same(data: bytes, marks: list[int], bare_lf: int, later: bool, through_buffer: bool) -> None:
    whole = run([data], bare_lf)
    assert run(cut(data, marks), bare_lf, later=later, through_buffer=through_buffer) == whole


@settings(max_examples=60, deadline=None)
@given(stream, mode)
def test_byte_by_byte(data: bytes, bare_lf: int) -> None:
    assert run([bytes([byte]) for byte in data], bare_lf) == run([data], bare_lf)


@settings(max_examples=60, deadline=None)
@given(stream, mode, st.integers(0, 300))
def test_any_cut_with_small_limits(data: bytes, bare_lf: int, size: int) -> None:
    small = {"line_length_limit": 64, "message_size_limit": size, "recipient_limit": 1, "junk_command_limit": 1}
    whole = run([data], bare_lf, **small)
    assert run([bytes([byte]) for byte in data], bare_lf, **small) == whole


def content_of(outcome: Outcome) -> tuple[object, ...] | None:
    return next((event for event in outcome.events if event[0] == "content"), None)


@settings(max_examples=400, deadline=None)
@given(soup, soup, mode, places)
def test_content_is_what_the_oracle_says(head: bytes, tail: bytes, bare_lf: int, marks: list[int]) -> None:
    data = head + b"\r\n.\r\n" + tail
    expected = read_content(data, bare_lf)
    outcome = run([BEGIN, b"DATA\r\n", *cut(data, marks)], bare_lf)
    found = content_of(outcome)
    if (bare_lf & 2 and expected.bare_lf) or expected.end < 0:
        assert found is None
    else:
        assert found is not None
        assert found[1] == expected.wire
        assert found[2] == expected.size
        assert found[4] == expected.flags


@settings(max_examples=300, deadline=None)
@given(st.lists(soup, min_size=1, max_size=4), mode, places)
def test_chunks_are_what_the_oracle_says(chunks: list[bytes], bare_lf: int, marks: list[int]) -> None:
    data = b"".join(chunks)
    sent = b""
    for number, chunk in enumerate(chunks):
        last = number == len(chunks) - 1
        if chunk or last:
            sent += b"BDAT %d%b\r\n%b" % (len(chunk), b" LAST" if last else b"", chunk)
    expected = read_content(data, bare_lf, chunked=True)
    outcome = run([BEGIN, *cut(sent, marks)], bare_lf)
    found = content_of(outcome)
    if bare_lf & 2 and expected.bare_lf:
        assert found is None
    else:
        assert found is not None
        assert (found[1], found[2], found[4]) == (expected.wire, expected.size, expected.flags)


@settings(max_examples=300, deadline=None)
@given(soup)
def test_only_crlf_dot_crlf_ends_content(data: bytes) -> None:
    """The one rule against smuggling, said without the oracle: unless bare newlines are allowed."""
    place = (b"\r\n" + data).find(b"\r\n.\r\n")
    outcome = run([BEGIN, b"DATA\r\n", data + b"NOOP\r\n"])
    assert (content_of(outcome) is None) == (place < 0)


@settings(max_examples=200, deadline=None)
@given(soup, mode)
def test_what_comes_out_cannot_smuggle(data: bytes, bare_lf: int) -> None:
    """Wire form has no bare CR or LF, and no line that is a lone dot: whatever a next hop takes for the end."""
    found = content_of(run([BEGIN, b"DATA\r\n", data + b"\r\n.\r\n"], bare_lf))
    if found is not None:
        wire = found[1]
        assert isinstance(wire, bytes)
        assert wire == b"" or wire.endswith(b"\r\n")
        assert b"\r" not in wire.replace(b"\r\n", b"") and b"\n" not in wire.replace(b"\r\n", b"")
        assert b"." not in wire.split(b"\r\n")


@settings(max_examples=100, deadline=None)
@given(soup, mode, st.integers(1, 400))
def test_size_limit(data: bytes, bare_lf: int, limit: int) -> None:
    expected = read_content(data + b"\r\n.\r\n", bare_lf)
    outcome = run([BEGIN, b"DATA\r\n", data + b"\r\n.\r\n"], bare_lf, message_size_limit=limit)
    if expected.end >= 0 and not (bare_lf & 2 and expected.bare_lf):
        assert (content_of(outcome) is None) == (expected.size > limit)
        assert (b"552 5.3.4 Error: message file too big" in outcome.output) == (expected.size > limit)
