"""SMTP smuggling: every way to write a line end around a lone dot, in every mode, cut at every byte.

A smuggled message would show as a second "content" event, or as its commands being answered.
"""

from __future__ import annotations

import itertools

import pytest

from tests.properties.smtpserver_oracle import ALLOWED, MODES, NORMALIZE, NOTE, REJECT, Outcome, read_content, run

BEGIN = b"EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
SMUGGLED = b"MAIL FROM:<evil@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nevil\r\n.\r\n"
ENDS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r\n",
    b"\r\n\n",
    b"\n\r",
    b"\0\r\n",
    b"\r\0\n",
    b" \r\n",
    b"\x85\r\n",
    b"",
]
MIDDLES = [b".", b"..", b". ", b".\0", b"\0.", b".\r", b"x" * 2047 + b".", b"x" * 2048 + b".", b"\xe3\x80\x82"]
TABLE = list(itertools.product(ENDS, MIDDLES, ENDS))


def contents(outcome: Outcome) -> list[bytes]:
    return [event[1] for event in outcome.events if event[0] == "content"]


def senders(outcome: Outcome) -> list[str]:
    return [event[1] for event in outcome.events if event[0] == "mail"]


@pytest.mark.parametrize("mode", [NORMALIZE, REJECT, NOTE])
def test_nothing_but_the_standard_end_lets_a_second_message_through(mode: int) -> None:
    for before, middle, after in TABLE:
        content = b"Subject: x\r\n\r\nhello" + before + middle + after
        standard = b"\r\n.\r\n" in content
        outcome = run([BEGIN, content + SMUGGLED + b"QUIT\r\n"], mode)
        expected = ["a@b.example", "evil@b.example"] if standard else ["a@b.example"]
        if mode == REJECT and after == b"\r\n\n":
            expected = expected[:1]  # what is left of it is a command that ends with a bare newline
        assert senders(outcome) == expected, (before, middle, after)


@pytest.mark.parametrize("mode", MODES)
def test_each_combination_as_the_oracle_says(mode: int) -> None:
    for before, middle, after in TABLE:
        content = b"Subject: x\r\n\r\nhello" + before + middle + after + b"end\r\n.\r\n"
        expected = read_content(content, mode)
        outcome = run([BEGIN, content + SMUGGLED + b"QUIT\r\n"], mode)
        refused = bool(mode & 2 and expected.bare_lf)
        assert contents(outcome)[: 0 if refused else 1] == ([] if refused else [expected.wire]), (before, middle, after)
        if expected.end == len(content):
            assert (b"550 5.5.2 mail.example Error: bare <LF> received" in outcome.output) == refused


@pytest.mark.parametrize("mode", MODES)
def test_cut_at_every_byte(mode: int) -> None:
    for before, middle, after in TABLE:
        if len(middle) > 9:
            continue
        data = b"hello" + before + middle + after + SMUGGLED
        whole = run([BEGIN, data + b"QUIT\r\n"], mode)
        # the places around the would-be end, and the dot of what would be smuggled
        for place in [*range(3, 5 + len(before + middle + after) + 3), *range(len(data) - 6, len(data) + 1)]:
            assert run([BEGIN, data[:place], data[place:] + b"QUIT\r\n"], mode) == whole, (before, middle, after, place)
        assert run([BEGIN, *(bytes([byte]) for byte in data), b"QUIT\r\n"], mode) == whole, (before, middle, after)


@pytest.mark.parametrize("mode", MODES)
def test_long_lines_around_the_end(mode: int) -> None:
    """The dot behind a full record is not at the beginning of a line."""
    for length in (2045, 2046, 2047, 2048, 2049, 4095, 4096, 4097):
        for tail in (b"\r\n.\r\n", b".\r\n", b"\r.\r\n", b"\n.\r\n", b"\r\r\n.\r\n"):
            data = b"x" * length + tail + b"end\r\n.\r\n"
            expected = read_content(data, mode)
            whole = run([BEGIN, data], mode)
            if not (mode & 2 and expected.bare_lf):
                assert contents(whole)[0] == expected.wire, (length, tail)
            for place in range(length - 3, length + len(tail) + 2):
                assert run([BEGIN, data[:place], data[place:]], mode) == whole, (length, tail, place)


def test_end_of_data_at_once() -> None:
    assert contents(run([BEGIN, b".\r\n"])) == [b""]
    assert contents(run([BEGIN, b"\r\n.\r\n"])) == [b"\r\n"]
    assert contents(run([BEGIN, b".\n.\r\n"])) == []
    assert contents(run([BEGIN, b".\n.\r\n"], ALLOWED)) == [b""]
    # the command line's own end does not count
    assert contents(run([BEGIN[:-2] + b"\n", b".\r\n"])) == [b""]


def test_bare_newlines_are_repaired() -> None:
    assert contents(run([BEGIN, b"a\nb\r\nc\rd\r\n.\r\n"])) == [b"a\r\nb\r\nc d\r\n"]
    assert contents(run([BEGIN, b"c\rd\r\n.\r\n"], replace_stray_cr_lf=False)) == [b"c\rd\r\n"]


def test_a_chunk_cannot_smuggle_a_dot() -> None:
    chunk = b"a\r\n.\r\nMAIL FROM:<evil@b.example>\r\n"
    outcome = run([BEGIN[:-6], b"BDAT %d LAST\r\n%b" % (len(chunk), chunk)])
    assert contents(outcome) == [b"a\r\n..\r\nMAIL FROM:<evil@b.example>\r\n"]


def test_nul_passes() -> None:
    assert contents(run([BEGIN, b"a\0b\r\n.\0\r\n.\r\n"])) == [b"a\0b\r\n.\0\r\n"]


def test_what_looks_like_a_mailbox_or_a_body_becomes_a_header_or_a_body() -> None:
    assert contents(run([BEGIN, b"From x\r\n>From y\r\nSubject: z\r\n.\r\n"])) == [
        b"X-Mailbox-Line: From x\r\nX-Mailbox-Line: >From y\r\nSubject: z\r\n"
    ]
    assert contents(run([BEGIN, b" x\r\nSubject: z\r\n.\r\n"])) == [b"\r\n x\r\nSubject: z\r\n"]
    assert contents(run([BEGIN, b"From: x\r\n.\r\n"])) == [b"From: x\r\n"]
