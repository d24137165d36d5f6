"""The pages of docs/ that are made from tables: parameters.md and services.md.

    python -m fastmta.config.reference docs         writes them; a test sees that they are current

Also counts the parameters by state, for `fastmta check --coverage`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmta.config.parameters import FAMILIES, LEGACY, READ_ONLY, Kind, Parameter, State, table
from fastmta.config.served import COMMANDS, FIELDS

_STATES: Final = (
    (State.WORKS, "works"),
    (State.NO_EFFECT, "accepted, no effect here"),
    (State.NOT_YET, "not yet"),
)
_COMPUTED: Final = {
    "myhostname": "the system's name, with mydomain if it has no dot",
    "mydomain": "myhostname without its first label, else localdomain",
    "mynetworks": "from mynetworks_style and the interfaces",
    "mail_version": "the version of FastMTA",
}


def parameters_page() -> str:
    """docs/parameters.md."""
    rows = table()
    out = [
        "# Parameters",
        "",
        "The parameters of main.cf: those of Postfix 3.11 with their defaults, and our own (`fastmta_*`). What each "
        "does is in Postfix's [postconf(5)](https://www.postfix.org/postconf.5.html). This page is made from the table "
        "that the program reads: `python -m fastmta.config.reference docs`.",
        "",
        *(f"- {line}" for line in coverage()),
        "",
        "`postconf` shows the value of each, `fastmta check` names what is set and does nothing.",
    ]
    for state, title in _STATES:
        chosen = sorted((row for row in rows.values() if row.state is state), key=lambda row: row.name)
        out += ["", f"## {title[0].upper()}{title[1:]}", ""]
        last = {State.WORKS: "what it is", State.NO_EFFECT: "because"}.get(state)
        out += [
            f"| parameter | type | default |{f' {last} |' if last else ''}",
            f"|---|---|---|{'---|' if last else ''}",
        ]
        for row in chosen:
            line = f"| `{row.name}` | {_type(row)} | {_default(row)} |"
            out.append(f"{line} {_cell(row.doc)} |" if last else line)
    out += [
        "",
        "## For each transport",
        "",
        "`TRANSPORT_suffix`, for the name of any delivery service of master.cf (`time_limit`: for pipe and spawn):",
        "",
        "| suffix | default |",
        "|---|---|",
        *(f"| `_{suffix}` | `${base}` |" for suffix, base in sorted(FAMILIES.items())),
        "",
        "## Set by the program",
        "",
        ", ".join(f"`{name}`" for name in sorted(READ_ONLY)) + ": an assignment has no effect.",
        "",
        "## Former names",
        "",
        "Known because the defaults of their successors mention them: "
        + ", ".join(f"`{n}`" for n in sorted(LEGACY))
        + ".",
    ]
    return "\n".join(out) + "\n"


def services_page() -> str:
    """docs/services.md."""
    out = [
        "# The services of master.cf",
        "",
        "One program does the work of Postfix's many: `master` binds the sockets, and each worker accepts, keeps, "
        "schedules and delivers. An entry of master.cf says where mail is accepted (`inet`, smtpd), which transports "
        "there are (`unix`), and with which settings. `fastmta check` prints what becomes of the entries of a given "
        "file. This page is made from the table that it uses: `python -m fastmta.config.reference docs`.",
        "",
        "| command | here | by |",
        "|---|---|---|",
    ]
    words = {State.WORKS: "works", State.NO_EFFECT: "works, without a process of its own", State.NOT_YET: "not yet"}
    for command, (state, by) in COMMANDS.items():
        out.append(f"| `{command}` | {words[state]} | {_cell(by)} |")
    out += [
        "",
        "smtpd at a `unix`, `pass`, `fifo` or `unix-dgram` service, and programs that are no part of Postfix, are not "
        "started.",
        "",
        "## The other fields",
        "",
        "| field | here |",
        "|---|---|",
        *(f"| {field} | {_cell(text)} |" for field, text in FIELDS.items()),
    ]
    return "\n".join(out) + "\n"


PAGES: Final[dict[str, Callable[[], str]]] = {"parameters.md": parameters_page, "services.md": services_page}


def coverage() -> list[str]:
    """How many parameters there are in each state, Postfix's and ours apart."""
    rows = list(table().values())
    lines = []
    for own, title in ((False, "of Postfix"), (True, "of FastMTA")):
        chosen = [row for row in rows if row.name.startswith("fastmta_") is own]
        counts = [(sum(row.state is state for row in chosen), word) for state, word in _STATES]
        parts = ", ".join(f"{count} {word}" for count, word in counts if count)
        lines.append(f"{len(chosen)} parameters {title}: {parts}")
    lines.append(f"{len(FAMILIES)} families of parameters that each transport has; {len(LEGACY)} former names")
    return lines


def _type(row: Parameter) -> str:
    text = row.kind.value if row.kind is not Kind.RAW else "text, in which $name is expanded when it is used"
    if row.low and row.high:
        return f"{text}, {row.low} to {row.high}"
    if row.low and row.kind not in (Kind.STR, Kind.LIST, Kind.RAW):
        return f"{text}, from {row.low}"
    return f"{text}, to {row.high}" if row.high else text


def _default(row: Parameter) -> str:
    if row.name in _COMPUTED:
        return _COMPUTED[row.name]
    return f"`{_cell(row.default)}`" if row.default else "(empty)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the pages into a folder."""
    (folder,) = arguments
    for name, make in PAGES.items():
        (Path(folder) / name).write_text(make(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
