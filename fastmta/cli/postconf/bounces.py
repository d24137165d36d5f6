"""Bounce texts as postconf(1) -b and -t print them: built in, or from a file of the administrator's. See bounce(5).

    failure_template = <<EOF        a template: header fields, an empty line, a text; it ends with the word after <<
    Charset: us-ascii
    ...

Called by __init__.py. What is wrong with a file is a warning, and the built-in texts are taken, as Postfix does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmta.bounce import templates as builtin
from fastmta.cli.postconf.names import Names
from fastmta.config.expand import expand
from fastmta.config.values import to_seconds

Warn = Callable[[str], None]
# kind -> (header lines, text)
Templates = dict[str, tuple[list[str], str]]

_UNITS: Final = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800}
_TIMES: Final = ("bounce_queue_lifetime", "delay_warning_time", "maximal_queue_lifetime")


def _builtin() -> Templates:
    found: Templates = {}
    for kind, template in (
        ("failure", builtin.FAILURE),
        ("delay", builtin.DELAY),
        ("success", builtin.SUCCESS),
        ("verify", builtin.VERIFY),
    ):
        header = [
            "Charset: us-ascii",
            f"From: {builtin.SENDER_NAME} <MAILER-DAEMON>",
            f"Subject: {template.subject}",
        ]
        if template.postmaster_subject:
            header.append(f"Postmaster-Subject: {template.postmaster_subject}")
        found[kind] = (header, template.text)
    return found


def read_templates(path: str, warn: Warn) -> Templates:
    """The built-in templates, with those of a file in their place; path "" means no file."""
    found = _builtin()
    if not path:
        return found
    try:
        lines = Path(path).read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        warn(f"open bounce template file {path}: {error.strerror}")
        return found
    at = 0
    while at < len(lines):
        line = lines[at].rstrip()
        at += 1
        if not line or line.startswith("#"):
            continue
        name, equals, rest = line.partition("=")
        kind = name.strip().removesuffix("_template")
        marker = rest.strip()
        if not equals or not marker.startswith("<<") or not marker[2:].strip():
            warn(f'{path}, line {at}: missing "= <<EOF" style here document near: {line[:30]}')
            return _builtin()
        end = marker[2:].strip()
        body: list[str] = []
        while at < len(lines) and lines[at].rstrip() != end:
            body.append(lines[at])
            at += 1
        if at == len(lines):
            warn(f'{path}, line {at}: missing "{end}" end marker')
            return _builtin()
        at += 1
        if kind not in found or not name.strip().endswith("_template"):
            warn(f"{path}: unknown template name: {name.strip()}")
            continue
        header = _header(body)
        text = body[len(header) :]
        found[kind] = (header or found[kind][0], "".join(line + "\n" for line in (text[1:] if header else text)))
    return found


def _header(body: list[str]) -> list[str]:
    """The header fields at the beginning; none: the text begins at once."""
    count = 0
    while count < len(body) and body[count].strip():
        name, colon, _ = body[count].partition(":")
        if not colon or not name or " " in name:
            return []
        count += 1
    return body[:count]


def as_file(templates: Templates) -> str:
    """The templates as a file of templates has them."""
    parts = []
    for kind, (header, text) in templates.items():
        fields = "".join(line + "\n" for line in header)
        parts.append(f"{kind}_template = <<EOF\n{fields}\n{text}EOF\n")
    return "\n".join(parts)


def expanded(templates: Templates, names: Names) -> str:
    """The texts with every $name filled in, as they go out."""

    def lookup(name: str) -> str | None:
        for parameter in _TIMES:
            unit = name.removeprefix(parameter + "_")
            if unit != name and unit in _UNITS:
                seconds = to_seconds(parameter, names.expand(names.value(parameter) or "0s"))
                return str(int(seconds) // _UNITS[unit])
        return names.value(name)

    parts = []
    for kind, (_, text) in templates.items():
        parts.append(f"expanded_{kind}_text = <<EOF\n{expand(text, lookup).text}EOF\n")
    return "\n".join(parts)
