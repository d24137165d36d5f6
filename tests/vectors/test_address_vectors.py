"""Postfix's own regression data for addresses and host names, where it lies beside the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastmta._ext.loglines import format_tv
from fastmta.address.hostname import valid_hostaddr, valid_hostname
from fastmta.address.quote import quote_822_local, unquote_822_local

VECTORS = Path(__file__).parents[3] / "shared" / "vectors" / "postfix"

pytestmark = pytest.mark.skipif(not VECTORS.exists(), reason="the vectors are not there")


def test_quote_822_local() -> None:
    count = 0
    questions = (VECTORS / "address/quote_822_local.in").read_text().splitlines()
    answers = (VECTORS / "address/quote_822_local.ref").read_text().splitlines()
    for question, answer in zip((q for q in questions if q), answers, strict=True):
        verb, text = question.split(" ", 1)
        wanted = answer.rsplit(" '", 1)[1][:-1]
        if verb == "quote":
            # The driver quotes the null address as "" in words; nobody here asks for that
            assert quote_822_local("" if text == "<>" else text) == (wanted if text != "<>" else "")
        elif verb == "unquote":
            assert unquote_822_local(text) == wanted
        else:
            continue  # a bare local part is no case of ours
        count += 1
    assert count == 5


def test_valid_hostname() -> None:
    """Each name is followed by what was wrong with it as a name, then as an address."""
    verdicts: dict[str, list[str]] = {}
    name = ""
    for line in (VECTORS / "address/valid_hostname.ref").read_text().splitlines():
        text = line.split(": ", 1)[1]
        if text.startswith("testing: "):
            name = text[10:-1]
            verdicts[name] = []
        else:
            verdicts[name].append(text)
    assert len(verdicts) > 50
    for name, found in verdicts.items():
        as_name = not any("valid_hostname:" in text for text in found)
        as_address = not any("valid_ipv" in text or "valid_hostaddr" in text for text in found)
        assert valid_hostname(name, wildcard=True) == as_name, name
        if "*" not in name:  # those were asked about as names only
            assert valid_hostaddr(name) == as_address, name


def test_format_tv() -> None:
    questions = (VECTORS / "config/format_tv.in").read_text().splitlines()
    answers = (VECTORS / "config/format_tv.ref").read_text().splitlines()
    count = 0
    for index, question in enumerate(answers):
        if question.startswith(">> ") and question[3:4] not in ("", "#"):
            seconds, significant, most = question[3:].split()
            assert format_tv(float(seconds), int(significant), int(most)) == answers[index + 1], question
            count += 1
    assert count == sum(1 for line in questions if line and not line.startswith("#"))
