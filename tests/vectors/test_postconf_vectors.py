"""Postfix's own regression tests of postconf(1), run against ours."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastmta.cli import postconf

CASES_FILE = Path(__file__).parents[3] / "shared" / "vectors" / "postfix" / "postconf" / "cases.json"
pytestmark = pytest.mark.skipif(not CASES_FILE.is_file(), reason="no vectors beside the project")

CASES: list[dict[str, Any]] = json.loads(CASES_FILE.read_text()) if CASES_FILE.is_file() else []


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def settings_of(expected: str) -> str:
    """The main.cf that a case's answer tells of: what is printed is set, and what is unused is set, too."""
    lines = []
    for line in expected.splitlines():
        unused = re.fullmatch(r"\./postconf: warning: \./main\.cf: unused parameter: (\w+)=(.*)", line)
        if unused:
            lines.append(f"{unused[1]} = {unused[2]}")
        elif not line.startswith("config_directory"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def test_all_cases_of_the_file_are_run() -> None:
    assert len(CASES) == 45


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(case: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before: dict[str, str] = {}
    for run in case["runs"]:
        for name, text in run["files"].items():
            text = re.sub(r"/tmp/tmp\w+", str(tmp_path), text)
            if case["name"] == "test77" and name == "main.cf" and not text:
                # the file of this case was lost on its way into the vectors
                text = settings_of(case["expect"])
            # a file that stays the same is what the run before left
            if before.get(name) != text:
                (tmp_path / name).write_text(text)
                before[name] = text
        with working_in(tmp_path):
            postconf.main(run["argv"])
    out, err = capfd.readouterr()
    if any("#" in argument for argument in run["argv"]):
        # Postfix's test shows the file
        out += (tmp_path / "master.cf").read_text()
    if all(line.startswith("whatevershebrings_") for line in case["expect"].splitlines()):
        # Postfix's test looks for these lines among those of all parameters
        out = "".join(line + "\n" for line in out.splitlines() if "whatevershebrings" in line)
    if case["name"] == "test79":
        # what the quiet run says was compared with what the run before it said, and is not in the file
        lines = out.splitlines(keepends=True)
        half = len(lines) // 2
        assert lines[:half] == lines[half:]
        out = "".join(lines[:half])
    printed = sorted(f"./{line}" for line in err.splitlines()) + sorted(out.splitlines())
    expected = case["expect"].replace("PWD", str(tmp_path)).splitlines()
    assert sorted(printed) == sorted(expected)
    # the order of warnings is free, that of the answer is not
    assert out.splitlines() == [line for line in expected if not line.startswith("./postconf: ")]
