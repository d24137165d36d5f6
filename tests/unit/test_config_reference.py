"""The pages of docs/ that are made from tables are current, and tell of everything."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastmta.config import parameters, reference
from fastmta.config.mastercf import parse_master_cf
from fastmta.config.parameters import State
from fastmta.config.served import COMMANDS, served
from fastmta.deliver.agents import UNSUPPORTED

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", reference.PAGES)
def test_pages_are_current(page: str) -> None:
    current = (DOCS / page).read_text("utf-8") == reference.PAGES[page]()
    assert current, f"docs/{page} is old: python -m fastmta.config.reference docs"


def test_every_parameter_is_on_the_page_once() -> None:
    names = re.findall(r"^\| `([a-zA-Z0-9]\w+)` \|", reference.parameters_page(), re.M)
    assert sorted(names) == sorted(parameters.table())


def test_what_has_no_effect_says_why() -> None:
    assert not [row.name for row in parameters.table().values() if row.state is State.NO_EFFECT and not row.doc]


def test_delivery_that_is_not_supported_is_said_to_be_so() -> None:
    assert {name for name in UNSUPPORTED if COMMANDS[name].state is not State.NOT_YET} == set()


@pytest.mark.parametrize("kind", ["inet", "unix", "pass"])
def test_smtpd_is_served_at_inet_services_only(kind: str) -> None:
    (service,) = parse_master_cf(f"x {kind} n - n - - /usr/lib/postfix/smtpd\n", "master.cf", [])
    assert (served(service).state is State.WORKS) is (kind == "inet")
