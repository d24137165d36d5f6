"""The same scripts against a live Postfix and against FastMTA: the same replies, the same log.

`golden.json` is what Postfix said and logged: it holds FastMTA to it where no Postfix is installed. After a change of
the scripts: python -m tests.dialogue.test_smtpd_like_postfix (as root, with Postfix installed) writes it anew.

Deviations that hold for all scripts: ETRN is not offered, since there is no fast flush service yet.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dialogue.live_postfix import LivePostfix
from tests.dialogue.script import BASE, Script
from tests.dialogue.scripts import SCRIPTS
from tests.dialogue.smtpd_here import SmtpdHere
from tests.dialogue.talk import comparable_log, comparable_reply, run

GOLDEN = Path(__file__).with_name("golden.json")
BY_NAME = {script.name: script for script in SCRIPTS}


def expected(script: Script, replies: list[bytes]) -> list[bytes]:
    """What Postfix said, with our deviations."""
    replies = [reply.replace(b"250-ETRN\r\n", b"") for reply in replies]
    first = len(replies) - len(script.steps)
    for number, step in enumerate(script.steps):
        if step.send in script.deviations:
            replies[first + number] = script.deviations[step.send][0]
    return replies


@pytest.fixture(scope="module")
def golden() -> dict[str, tuple[list[str], list[str]]]:
    loaded: dict[str, tuple[list[str], list[str]]] = json.loads(GOLDEN.read_text())
    return loaded


def test_every_script_has_its_own_name() -> None:
    assert len(BY_NAME) == len(SCRIPTS)


@pytest.mark.parametrize("name", BY_NAME)
def test_as_postfix_did(name: str, tmp_path: Path, golden: dict[str, tuple[list[str], list[str]]]) -> None:
    script = BY_NAME[name]
    replies, log = golden[name]
    with SmtpdHere(tmp_path, {**BASE, **script.options}) as server:
        said = [comparable_reply(reply) for reply in run(server.port, script)]
    assert said == expected(script, [reply.encode("latin-1") for reply in replies])
    if not script.log_differs:
        assert comparable_log(server.log.lines) == log


@pytest.fixture(scope="module")
def postfix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePostfix]:
    if os.getuid():
        pytest.skip("Postfix needs root")
    with LivePostfix(Path(tempfile.mkdtemp(prefix="pf")), [script.options for script in SCRIPTS]) as server:
        yield server


@pytest.mark.peer
@pytest.mark.parametrize("name", BY_NAME)
def test_postfix_still_does(name: str, postfix: LivePostfix, golden: dict[str, tuple[list[str], list[str]]]) -> None:
    replies, log = record(postfix, name)
    assert [replies, log] == list(golden[name])


def record(postfix: LivePostfix, name: str) -> tuple[list[str], list[str]]:
    """Run a script against Postfix."""
    script = BY_NAME[name]
    port = postfix.ports[list(BY_NAME).index(name)]
    said = [comparable_reply(reply).decode("latin-1") for reply in run(port, script)]
    return said, comparable_log(postfix.new_lines(1))


def main() -> None:
    """Write golden.json."""
    with LivePostfix(Path(tempfile.mkdtemp(prefix="pf")), [script.options for script in SCRIPTS]) as server:
        recorded = {name: record(server, name) for name in BY_NAME}
    GOLDEN.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
