"""The one table of parameters: what each is called, how its value is read, its default, whether it does anything here.

Config reads values through it, `fastmta check` reports with it, and postconf(1) and the reference page (reference.py)
print it. The rows of what is read are in rows_*.py, by area; the parameters of Postfix that nothing reads are in
postfix.cf beside this file, and are looked at only when a name is not in the rows.

Source: postconf(5); names and defaults are those of Postfix 3.11, with the paths of Debian.
"""

from __future__ import annotations

from enum import Enum
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple


class Kind(Enum):
    """How a value is read; RAW is text in which $name stays as it is."""

    STR = "string"
    RAW = "raw"
    LIST = "list"
    INT = "integer"
    SIZE = "size"
    BOOL = "boolean"
    TIME = "time"


class State(Enum):
    """Whether setting a parameter changes anything."""

    WORKS = "works"
    NO_EFFECT = "no effect"
    NOT_YET = "not supported yet"


class Parameter(NamedTuple):
    """One row.

    low and high bound a number (or seconds, or a string's length), 0 meaning no bound, as in Postfix's own tables; doc
    says what the parameter does, or, for NO_EFFECT, why it does nothing here.
    """

    name: str
    kind: Kind
    default: str
    low: int = 0
    high: int = 0
    state: State = State.WORKS
    doc: str = ""


# The per-transport families of qmgr(8), pipe(8) and spawn(8): TRANSPORT_suffix, whose default is $base.
FAMILIES: Final[dict[str, str]] = {
    suffix: suffix
    if suffix == "initial_destination_concurrency"
    else "command_time_limit"
    if suffix == "time_limit"
    else f"default_{suffix}"
    for suffix in (
        "delivery_slot_cost",
        "delivery_slot_discount",
        "delivery_slot_loan",
        "destination_concurrency_failed_cohort_limit",
        "destination_concurrency_limit",
        "destination_concurrency_negative_feedback",
        "destination_concurrency_positive_feedback",
        "destination_rate_delay",
        "destination_recipient_limit",
        "extra_recipient_limit",
        "initial_destination_concurrency",
        "minimum_delivery_slots",
        "recipient_limit",
        "recipient_refill_delay",
        "recipient_refill_limit",
        "time_limit",
        "transport_rate_delay",
    )
}

# Set by the program, not by a file: an assignment has no effect, as in Postfix.
READ_ONLY: Final = frozenset({"config_directory", "process_id", "process_name", "service_name"})

# Former names that the defaults of their successors mention: known, but shown only where they are set.
LEGACY: Final = frozenset(
    {
        "authorized_verp_clients",
        "fallback_relay",
        "lmtp_per_record_deadline",
        "postscreen_blacklist_action",
        "postscreen_dnsbl_ttl",
        "postscreen_dnsbl_whitelist_threshold",
        "postscreen_whitelist_interfaces",
        "smtp_per_record_deadline",
        "smtpd_client_connection_limit_exceptions",
        "smtpd_per_record_deadline",
        "tlsproxy_client_level",
        "tlsproxy_client_policy",
        "virtual_maps",
    }
)


@cache
def rows() -> dict[str, Parameter]:
    """Every parameter that something reads, or that knowingly has no effect, by name."""
    from fastmta.config import rows_client, rows_general, rows_server, rows_tables

    return {row.name: row for module in (rows_general, rows_server, rows_client, rows_tables) for row in module.ROWS}


@cache
def unread() -> dict[str, Parameter]:
    """The other parameters of Postfix, by name: not supported yet, or without effect here."""
    table: dict[str, Parameter] = {}
    state, reason = State.NOT_YET, ""
    for line in Path(__file__).with_name("postfix.cf").read_text("utf-8").splitlines():
        if line.startswith("["):
            text, _, reason = line.strip("[]").partition(": ")
            state = State(text)
        elif line and line[0] != "#":
            kind, name, _, *default = line.split(None, 3)
            table[name] = Parameter(name, _KINDS[kind], default[0] if default else "", state=state, doc=reason)
    return table


_KINDS: Final = {
    "str": Kind.STR,
    "raw": Kind.RAW,
    "list": Kind.LIST,
    "int": Kind.INT,
    "size": Kind.SIZE,
    "bool": Kind.BOOL,
    "time": Kind.TIME,
}


def table() -> dict[str, Parameter]:
    """All parameters by name, but for the members of per-transport families."""
    return {**unread(), **rows()}


def find(name: str) -> Parameter | None:
    """The parameter of this name, or the member of a per-transport family, for any transport. None: there is none."""
    row = rows().get(name)
    if row is not None:
        return row
    return unread().get(name) or family_member(name)


def family_member(name: str) -> Parameter | None:
    """The row for TRANSPORT_suffix if name is one, for any transport, else None."""
    for suffix, base in FAMILIES.items():
        if name.endswith(suffix) and len(name) > len(suffix) + 1 and name[-len(suffix) - 1] == "_":
            if name == base:
                return None
            row = find(base)
            if row is not None:
                return row._replace(name=name, default="$" + base)
    return None
