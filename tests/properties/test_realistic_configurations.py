"""Realistic configuration folders (tests/configurations, and Debian's own files) as Postfix's postconf and we see them.

What postconf prints must be the same; what `fastmta check` says is held against what Debian's postconf says is set:
each setting that is not supported yet is named, with file and line, and no other.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastmta.config import parameters
from fastmta.config.parameters import State
from tests.properties.test_postconf_against_postfix import POSTCONF, WAYS, ours, theirs

HERE = Path(__file__).parents[1] / "configurations"
DEBIAN = Path("/usr/share/postfix")
NAMES = [*sorted(path.name for path in HERE.iterdir()), "debian"]
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not Path(POSTCONF).exists(), reason="Postfix is not installed"),
]
# what depends on who asks
DIFFERENT = ("debugger_command",)
# options of a table that the option of another table names: Postfix uses them, and its postconf calls them unused
USED = ("groups_dbpath", "groups_query")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies, old enough for Postfix to believe in at once."""
    base = tmp_path_factory.mktemp("configurations")
    for path in HERE.iterdir():
        shutil.copytree(path, base / path.name)
    debian = base / "debian"
    debian.mkdir()
    for name in ("main.cf", "master.cf"):
        shutil.copy(DEBIAN / f"{name}.dist", debian / name)
    # the package's scripts fill in what is empty there
    for name in ("sendmail_path", "newaliases_path", "mailq_path", "setgid_group", "manpage_directory"):
        text = (debian / "main.cf").read_text()
        (debian / "main.cf").write_text(re.sub(f"^{name} =$", f"{name} = /usr/x", text, flags=re.M))
    for path in base.rglob("*"):
        if path.is_file():
            os.utime(path, (1e9, 1e9))
    return {path.name: path for path in base.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_postconf_prints_the_same(name: str, folders: dict[str, Path], capfd: pytest.CaptureFixture[str]) -> None:
    for way in WAYS:
        if "-d" in way or "-df" in way or "-dx" in way:
            continue
        answers = [ours(capfd, folders[name], *way), theirs(folders[name], *way)]
        for answer in answers:
            answer.lines = [line for line in answer.lines if not line.startswith(DIFFERENT)]
        assert answers[0] == answers[1], way


def by_postconf(directory: Path, *arguments: str) -> dict[str, str]:
    pairs = (line.partition(" =") for line in printed(directory, *arguments))
    return {name: " ".join(value.split()) for name, _, value in pairs}


def complaints(directory: Path) -> set[str]:
    """The settings that Debian's postconf calls unused."""
    done = subprocess.run(
        [POSTCONF, "-c", str(directory), "-n"], capture_output=True, text=True, timeout=20, check=True
    )
    return set(re.findall(r"unused parameter: (.*)$", done.stderr, re.M))


@pytest.mark.parametrize("name", NAMES)
def test_check_names_what_is_not_supported_and_nothing_else(name: str, folders: dict[str, Path]) -> None:
    directory = folders[name]
    done = subprocess.run(
        [sys.executable, "-m", "fastmta", "-c", str(directory), "check"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    text = done.stderr.replace("fastmta/postfix-script: ", "")
    for line in text.splitlines():
        assert re.match(r"(note|warning|fatal): (\w+:)?/\S+(, line \d+)?: |warning: not owned by root", line), line
    # each entry of master.cf has its line, in the order of the file
    entries = [line.split()[:2] for line in printed(directory, "-M")]
    assert [line.split()[0] for line in done.stdout.splitlines()[:-1]] == ["/".join(entry) for entry in entries]
    assert done.stdout.splitlines()[-1].startswith(("This will behave", "What is named above", "The mail system would"))

    unused = set(re.findall(r"unused parameter: (.*)$", text, re.M))
    assert {line for line in complaints(directory) if not line.startswith(USED)} == unused
    for setting, value in by_postconf(directory, "-nx").items():
        row = parameters.find(setting)
        line = re.search(rf"main\.cf, line \d+: (not supported yet|no effect): {re.escape(setting)}=", text)
        if row is None or row.state is State.WORKS:
            assert line is None, setting
        elif row.state is State.NOT_YET and value and value != unset(directory, setting):
            assert line, setting
        elif line:
            assert line[1] == row.state.value


def unset(directory: Path, setting: str) -> str:
    """What a setting would be without its line, by Postfix's expansion of our default."""
    row = parameters.find(setting)
    assert row is not None
    return by_postconf(directory, "-xo", f"relayhost={row.default}", "relayhost")["relayhost"]


def printed(directory: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [POSTCONF, "-c", str(directory), *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return done.stdout.splitlines()
