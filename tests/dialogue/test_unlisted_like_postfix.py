"""Addresses whose mail the error transport gets: refused at RCPT as a live Postfix does, with the same log."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogue.live_postfix import LivePostfix
from tests.dialogue.script import BASE, Script, steps
from tests.dialogue.smtpd_here import SmtpdHere
from tests.dialogue.talk import comparable_log, comparable_reply, run

MAIN = {
    "local_transport": "error:local mail delivery is disabled",
    "relay_transport": "error:5.7.9 no relaying today",
    "default_transport": "error:4.2.2 far is far",
}
SERVICES = {
    "default": {},
    "not asked for": {"smtpd_reject_unlisted_recipient": "no"},
    "senders too": {"smtpd_reject_unlisted_sender": "yes"},
    "senders at once": {"smtpd_reject_unlisted_sender": "yes", "smtpd_delay_reject": "no"},
    "soft bounce": {"soft_bounce": "yes"},
    "in the list": {
        "smtpd_recipient_restrictions": "reject_unlisted_recipient, reject_unlisted_sender, permit",
        "smtpd_reject_unlisted_recipient": "no",
    },
    "strangers": {"mynetworks": "192.0.2.1"},
}
DIALOGUE = steps(
    b"EHLO x.example",
    b"MAIL FROM:<s@local.example>",
    b"RSET",
    b"MAIL FROM:<>",
    b"RCPT TO:<u@relay.example>",
    b"RSET",
    b"MAIL FROM:<s@other.example>",
    b"RCPT TO:<u@local.example>",
    b"RCPT TO:<postmaster>",
    b"RCPT TO:<postmaster@local.example>",
    b"RCPT TO:<u@relay.example>",
    b"RCPT TO:<u@far.example>",
    b"RCPT TO:<u%far.example@local.example>",
    b"VRFY u@local.example",
    b"VRFY u@far.example",
    b"QUIT",
)


@pytest.fixture(scope="module")
def postfix() -> Iterator[LivePostfix]:
    if os.getuid():
        pytest.skip("Postfix needs root")
    with LivePostfix(Path(tempfile.mkdtemp(prefix="pf")), list(SERVICES.values()), main=MAIN) as server:
        yield server


@pytest.mark.peer
@pytest.mark.parametrize("name", SERVICES)
def test_refused_as_postfix_does(name: str, tmp_path: Path, postfix: LivePostfix) -> None:
    script = Script(name, DIALOGUE)
    theirs = [comparable_reply(reply) for reply in run(postfix.ports[list(SERVICES).index(name)], script)]
    theirs = [reply.replace(b"250-ETRN\r\n", b"") for reply in theirs]
    with SmtpdHere(tmp_path, {**BASE, **MAIN, **SERVICES[name]}) as server:
        ours = [comparable_reply(reply) for reply in run(server.port, script)]
    assert ours == theirs
    assert comparable_log(server.log.lines) == comparable_log(postfix.new_lines(1))
