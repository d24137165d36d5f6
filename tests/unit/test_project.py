"""The project as a whole: sizes, names, what is shipped, and that its pages say what is so."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

import fastmta
from fastmta.cli import main
from fastmta.config import load
from fastmta.config.parameters import find

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for folder in ("fastmta", "ext", "bench", "tests") for path in (ROOT / folder).rglob("*") if path.is_file()
)
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_modules_are_small() -> None:
    limits = {".py": 500, ".pyx": 800}
    big = {
        str(path.relative_to(ROOT)): lines(path)
        for path in SOURCES
        if path.suffix in limits and lines(path) > limits[path.suffix]
    }
    assert not big


def test_no_module_is_named_for_nothing() -> None:
    bad = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not [path for path in SOURCES if path.stem in bad or path.parent.name in bad]


def test_every_stub_has_its_compiled_module() -> None:
    """mypy sees to the reverse, for modules that Python imports."""
    stubs = {path.stem for path in (ROOT / "fastmta" / "_ext").glob("*.pyi")}
    assert stubs <= {path.stem for path in (ROOT / "ext").glob("*.pyx")}


def test_sources_have_no_exemptions_from_types() -> None:
    """Neither for a file nor in the settings; a `type: ignore` is for a library's wrong stub and names its error."""
    assert "overrides" not in PYPROJECT["tool"]["mypy"]
    pattern = re.compile(r"# (type: ignore(?!\[)|mypy:)")
    assert not [path for path in (ROOT / "fastmta").rglob("*.py") if pattern.search(path.read_text())]


def test_the_version_is_said_once() -> None:
    assert PYPROJECT["project"]["version"] == fastmta.__version__


@pytest.mark.parametrize("name", sorted(PYPROJECT["project"]["scripts"]))
def test_entry_points_exist(name: str) -> None:
    module, _, function = PYPROJECT["project"]["scripts"][name].partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    assert name == "fastmta" or name in main.PROGRAMS


@pytest.mark.parametrize("name", [*main.COMMANDS.values(), *main.PROGRAMS])
def test_every_command_has_a_module_with_main(name: str) -> None:
    assert callable(importlib.import_module(f"fastmta.cli.{name}").main)


@pytest.mark.parametrize("name", ["main.cf", "master.cf"])
def test_the_default_configuration_is_shipped(name: str) -> None:
    assert "@" in resources.files("fastmta.config").joinpath("default", name).read_text()
    assert "*.cf" in PYPROJECT["tool"]["setuptools"]["package-data"]["*"]


def test_the_default_configuration_has_nothing_in_vain(tmp_path: Path) -> None:
    from fastmta.cli.quickstart import write_config

    write_config(tmp_path, "nobody", "2525")
    config = load(tmp_path)
    assert config.report() == []
    assert list(config.warnings) == []


def test_readme_names_the_commands_and_the_parameters_that_are() -> None:
    text = (ROOT / "README.md").read_text()
    for command in main.COMMANDS:
        assert command == "quickstart" or re.search(rf"\b{command}\b", text), command
    for name in re.findall(r"`(fastmta_\w+)`", text):
        assert find(name) is not None, name
    defaults = dict(re.findall(r"\| `(fastmta_\w+)` \| (\w+) \|", text))
    for name, default in defaults.items():
        row = find(name)
        assert row is not None
        assert row.default == default


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/life-of-a-message.md", "docs/design.md", "docs/services.md"]
)
def test_links_of_the_pages_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_paths_that_the_pages_name_exist() -> None:
    for page in ("CONTRIBUTING.md", "docs/life-of-a-message.md"):
        for name in re.findall(
            r"`((?:fastmta|ext|tests|docs|bench|smtpd|queue|qmgr|deliver)/[\w./]*)`", (ROOT / page).read_text()
        ):
            assert (ROOT / name).exists() or (ROOT / "fastmta" / name).exists(), f"{page}: {name}"


def test_contributing_fits_on_a_page() -> None:
    assert lines(ROOT / "CONTRIBUTING.md") <= 60


def test_nothing_names_the_machine_it_was_made_on() -> None:
    """No absolute path of a checkout, no host to install from."""
    here = str(ROOT)
    files = [
        *SOURCES,
        *ROOT.glob("*.md"),
        *ROOT.glob("*.toml"),
        *ROOT.glob("docs/*"),
        *ROOT.glob(".ci/*"),
        ROOT / "Makefile",
    ]
    texts = (".py", ".pyi", ".pyx", ".pxd", ".h", ".md", ".toml", ".cf", "", ".txt")
    for path in files:
        if path.suffix in texts and path.is_file():
            assert here not in path.read_text(errors="replace"), path


def test_makefile_offers_what_the_readme_says() -> None:
    text = (ROOT / "Makefile").read_text()
    for target in ("run", "test", "bench", "check"):
        assert re.search(rf"^{target}:", text, re.M), target
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
