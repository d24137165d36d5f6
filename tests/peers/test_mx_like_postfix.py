"""Mail for every kind of domain through a live Postfix, in a network namespace: the log must say what
test_deliver_mx.py expects of us.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mx_zone import DOMAINS, expected


def namespaces() -> bool:
    return (
        os.geteuid() == 0
        and all(map(shutil.which, ("unshare", "knotd", "postfix", "ip")))
        and subprocess.run(["unshare", "-n", "-m", "true"], capture_output=True).returncode == 0
    )


pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(not namespaces(), reason="needs Postfix, Knot, namespaces"),
]


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, list[str]]]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        done = subprocess.run(
            ["unshare", "-n", "-m", sys.executable, "-m", "tests.peers.mx_in_namespace", folder],
            capture_output=True,
            timeout=120,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == 0, done.stderr.decode()
        yield json.loads(done.stdout)


@pytest.mark.parametrize("nexthop", DOMAINS)
def test_postfix_says_the_same(nexthop: str, outcomes: dict[str, list[str]]) -> None:
    assert tuple(outcomes[nexthop]) == expected(nexthop)
