"""Dependencies point down: a package imports those below it, never one above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# From the top. Steps of a message come in the reverse of their order: what consumes may know what produces.
LAYERS = (
    "cli",
    "master",
    "admin",
    "bounce",
    "deliver",
    "qmgr",
    "queue",
    "cleanup",
    "access",
    "smtpd",
    "net",
    "tables",
    "observe",
    "_ext",
    "address",
    "config",
    "model",
)
RANK = {name: len(LAYERS) - place for place, name in enumerate(LAYERS)}
CYTHON_IMPORT = re.compile(r"^\s*(?:from|cimport|import)\s+fastmta\.(\w+)", re.M)


def imported_by(text: str) -> Iterator[str]:
    """The packages of ours that a Python source imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["relative"]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "fastmta" and rest:
                yield rest.partition(".")[0]
            elif name == "relative":
                yield name


def upward(package: str, imported: Iterator[str]) -> set[str]:
    return {name for name in imported if name == "relative" or (name in RANK and RANK[name] > RANK[package])}


def packages() -> list[Path]:
    return sorted(path for path in (ROOT / "fastmta").iterdir() if (path / "__init__.py").exists())


def test_every_package_has_a_layer() -> None:
    assert {path.name for path in packages()} == set(LAYERS)


@pytest.mark.parametrize("package", packages(), ids=lambda path: path.name)
def test_no_import_runs_upward(package: Path) -> None:
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in sorted(package.rglob("*.py*"))
        if path.suffix in (".py", ".pyi") and (found := upward(package.name, imported_by(path.read_text())))
    }
    assert not wrong


def test_no_compiled_module_imports_upward() -> None:
    wrong = {}
    for path in sorted((ROOT / "ext").glob("*.p[yx][xd]")):
        found = {name for name in CYTHON_IMPORT.findall(path.read_text()) if RANK.get(name, 0) > RANK["_ext"]}
        if found:
            wrong[path.name] = found
    assert not wrong


def test_only_the_master_and_the_commands_are_not_imported() -> None:
    """Nobody but the top knows how the parts are put together."""
    for package in packages():
        if package.name in ("cli", "master"):
            continue
        for path in package.rglob("*.py"):
            assert not {"cli", "master"} & set(imported_by(path.read_text())), path


@pytest.mark.parametrize(
    ("package", "source", "found"),
    [
        ("queue", "from fastmta.deliver.smtp import SmtpAgent", {"deliver"}),
        ("queue", "def f():\n    import fastmta.cli.main", {"cli"}),
        ("queue", "from fastmta import master", {"master"}),
        ("queue", "from fastmta.model.message import Message", set()),
        ("queue", "from . import shard", {"relative"}),
        ("deliver", "from fastmta.queue.shard import Shard", set()),
    ],
)
def test_the_check_itself(package: str, source: str, found: set[str]) -> None:
    assert upward(package, imported_by(source)) == found
