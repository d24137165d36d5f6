"""Tables as a live Postfix asks them, seen in the replies to RCPT: routes, recipients, networks, tables that fail."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogue.live_postfix import LivePostfix
from tests.dialogue.script import BASE, Script, steps
from tests.dialogue.smtpd_here import SmtpdHere
from tests.dialogue.talk import comparable_reply, run

# Each key routes to an error of its own, so that the reply says which one was found.
MAIN = {
    "recipient_delimiter": "+-",
    "local_recipient_maps": "",
    "alias_maps": "",
    "local_transport": "smtp:[127.0.0.1]:9",
    "transport_maps": "inline:{{u+x@t.example = error:full}, {u@t.example = error:bare}, {t.example = error:domain},"
    " {.t.example = error:below}, {e.example = error:}, {r.example = retry:4.2.1 later}, {n.example = :},"
    " {o.example = error}, {local.example = error:5.7.8 local}}, regexp:{folder}/routes",
    "relocated_maps": "inline:{{moved = a@b.example}, {@gone.example = nowhere}}",
    "relay_recipient_maps": "inline:{{u@relay.example = 1}, {@all.relay.example = 1}}, regexp:{folder}/recipients",
    "sender_dependent_default_transport_maps": "inline:{{s@d.example = error:by sender}, {@d.example = error:any},"
    " {<> = error:by null}}",
}
FILES = {
    "routes": "/^r.*@(.*)$/ error:with $1\n/^p@p.example$/ error:whole\n/^p.example$/ error:part\n",
    "recipients": "/^re@relay/ 1\n/^relay.example$/ 1\n",
}
ADDRESSES = (
    "u+x@t.example",
    "u+y@t.example",
    "u-y@t.example",
    "U@T.example",
    "v@t.example",
    "v@a.t.example",
    "v@a.b.t.example",
    "+x@t.example",
    "owner-u@t.example",
    "v@e.example",
    "v@r.example",
    "v@o.example",
    "p@p.example",
    "q@p.example",
    "r@q.example",
    "u@n.example",
    "moved@yardstick.example",
    "moved+x@yardstick.example",
    "moved@far.example",
    "v@gone.example",
    "u@relay.example",
    "u+z@relay.example",
    "v@relay.example",
    "v@all.relay.example",
    "re@relay.example",
    "v@local.example",
    "postmaster",
)


def dialogue(*senders: str) -> Script:
    lines = [b"EHLO x.example"]
    for sender in senders:
        lines.append(b"MAIL FROM:<%b>" % sender.encode())
        lines += [b"RCPT TO:<%b>" % address.encode() for address in ADDRESSES]
        lines.append(b"RSET")
    return Script("tables", steps(*lines, b"QUIT"))


SERVICES = {
    "found": {},
    "no mynetworks": {"mynetworks": "inline:{{127.0.0.1 = 1}}", "smtpd_recipient_restrictions": "permit_mynetworks"},
    "recipients fail": {"relay_recipient_maps": "fail:x"},
    "networks fail": {"mynetworks": "fail:x"},
    "no codes": {"unknown_relay_recipient_reject_code": "450", "show_user_unknown_table_name": "no"},
}


@pytest.fixture(scope="module")
def postfix() -> Iterator[LivePostfix]:
    if os.getuid():
        pytest.skip("Postfix needs root")
    folder = Path(tempfile.mkdtemp(prefix="pf"))
    with LivePostfix(folder, list(SERVICES.values()), main=parameters(folder)) as server:
        yield server


def parameters(folder: Path) -> dict[str, str]:
    """MAIN, with its tables of patterns in that folder."""
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return {name: value.replace("{folder}", str(folder)) for name, value in MAIN.items()}


def ask(port: int, script: Script) -> list[bytes]:
    replies = [comparable_reply(reply).replace(b"250-ETRN\r\n", b"") for reply in run(port, script)]
    said = [step.send for step in script.steps]
    return [b"%b -> %b" % pair for pair in zip([b"", *said], replies, strict=False)]


@pytest.mark.peer
@pytest.mark.parametrize("name", SERVICES)
def test_asked_as_postfix_does(name: str, tmp_path: Path, postfix: LivePostfix) -> None:
    script = dialogue("s@d.example", "", "x@d.example", "x@y.example")
    theirs = ask(postfix.ports[list(SERVICES).index(name)], script)
    with SmtpdHere(tmp_path, {**BASE, **parameters(tmp_path), **SERVICES[name]}) as server:
        ours = ask(server.port, script)
    assert ours == theirs
