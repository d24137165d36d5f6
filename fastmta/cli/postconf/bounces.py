"""Bounce texts as postconf(1) -b and -t print them: built in, or from a file of the administrator's. See bounce(5).

    failure_template = <<EOF        a template: header fields, an empty line, a text; it ends with the word after <<
    Charset: us-ascii
    ...

Called by __init__.py. A template with a mistake in it is left out with a warning, and the built-in one is taken; a file
that cannot be split into templates, and a $name without value, are Fatal: all as in Postfix.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from fastmta.bounce import templates as builtin
from fastmta.cli.postconf.names import Names
from fastmta.cli.tool import Fatal
from fastmta.config.expand import expand
from fastmta.config.lines import WHITESPACE, split_name_value
from fastmta.config.values import to_seconds

Warn = Callable[[str], None]


class Template(NamedTuple):
    """header: the values of Charset, From, Subject and, where it applies, Postmaster-Subject, in this order."""

    header: dict[str, str]
    text: str


# by kind
Templates = dict[str, Template]

_UNITS: Final = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "weeks": 604800}
_TIMES: Final = ("delay_warning_time", "maximal_queue_lifetime")
_MOST: Final = 999  # of a unit: more is hard to read
_ASCII: Final = "us-ascii"
_POSTMASTER: Final = "Postmaster-Subject"
_FIELD: Final = re.compile(r"([!-9;-~]+)[ \t]*:(.*)")


def _builtin() -> Templates:
    found: Templates = {}
    for kind, template in (
        ("failure", builtin.FAILURE),
        ("delay", builtin.DELAY),
        ("success", builtin.SUCCESS),
        ("verify", builtin.VERIFY),
    ):
        header = {
            "Charset": _ASCII,
            "From": f"{builtin.SENDER_NAME} <MAILER-DAEMON>",
            "Subject": template.subject,
        }
        if template.postmaster_subject:
            header[_POSTMASTER] = template.postmaster_subject
        found[kind] = Template(header, template.text)
    return found


def read_templates(path: str, warn: Warn) -> Templates:
    """The built-in templates, with those of a file in their place; path "" means no file."""
    found = _builtin()
    if not path:
        return found
    try:
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise Fatal(f"open {path}: {error.strerror}") from None
    lines = text.removesuffix("\n").split("\n") if text else []
    bodies: dict[str, list[str]] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if not line.strip(WHITESPACE) or line.lstrip(WHITESPACE).startswith("#"):
            continue
        pair = split_name_value(line)
        if isinstance(pair, str):
            raise Fatal(f'{path}, line {at + 1}: {pair}: "{line}"')
        name, value = pair
        if value.startswith("<<"):
            end = value[2:].strip(WHITESPACE)
            if not end:
                raise Fatal(f"{path}, line {at + 1}: missing end marker after <<")
            if not end[0].isalnum():
                raise Fatal(f"{path}, line {at + 1}: malformed end marker after <<")
            body = lines[at : lines.index(end, at)] if end in lines[at:] else lines[at:]
            at += len(body) + 1
            if at > len(lines):
                at -= 1
                warn(f'{path}, line {at + 1}: missing "{end}" end marker')
        else:
            body = [value] if value else []
        kind = name.removesuffix("_template")
        if kind == name or kind not in found:
            warn(f"{path}, line {at + 1}: unknown template name: {name} -- ignoring this template")
        else:
            bodies[kind] = [line.partition("\0")[0] for line in body]
    for kind in [kind for kind in found if kind in bodies]:
        try:
            found[kind] = _parse(bodies[kind], found[kind], kind)
        except ValueError as error:
            what, *more = error.args
            for line in (f"{path}: {what}", *more):
                warn(line)
    return found


def _parse(lines: list[str], default: Template, kind: str) -> Template:
    """One template, the header fields that it does not have from the default. Raises ValueError."""
    header = dict(default.header)
    labels = {name.lower(): name for name in (*header, _POSTMASTER)}
    at = 0
    while at < len(lines) and (field := _FIELD.fullmatch(lines[at])):
        label, value = field[1], field[2].lstrip(WHITESPACE)
        name = labels.get(label.lower(), "")
        if not name:
            raise ValueError(f'unknown "{label}" header label in {kind} template -- ignoring this template')
        if not value:
            raise ValueError(f'empty "{label}" header value in {kind} template -- ignoring this template')
        if not value.isascii():
            raise ValueError(f'non-ASCII "{label}" header value in {kind} template -- ignoring this template')
        if name not in header:
            raise ValueError(f'inapplicable "{label}" header label in {kind} template -- ignoring this template')
        header[name] = value
        at += 1
    while at < len(lines) and not lines[at].strip(WHITESPACE):
        at += 1
    text = "".join(line + "\n" for line in lines[at:])
    if not text:
        raise ValueError(f"missing message text in {kind} template -- ignoring this template")
    if header["Charset"].lower() == _ASCII and not text.isascii():
        raise ValueError(
            f"8-bit message text in {kind} template",
            f"please specify a charset value other than {_ASCII}",
            "-- ignoring this template for now",
        )
    return Template(header, text)


def as_file(templates: Templates) -> str:
    """The templates as a file of templates has them."""
    parts = []
    for kind, (header, text) in templates.items():
        fields = "".join(f"{name}: {value}\n" for name, value in header.items())
        parts.append(f"{kind}_template = <<EOF\n{fields}\n{text}EOF\n")
    return "\n".join(parts)


def expanded(templates: Templates, names: Names, path: str, warn: Warn) -> str:
    """The texts with every $name filled in, as they go out; path is the file to blame."""
    parts = []
    for kind, (_, text) in templates.items():
        lookup = _lookup(names, path, kind, warn)
        lines = []
        for line in text.removesuffix("\n").split("\n"):
            found = expand(line, lookup)
            if found.error:
                warn(found.error)
                raise Fatal(f"{path}: bad $name syntax in {kind} template: {line}")
            if found.undefined:
                raise Fatal(f"{path}: undefined $name in {kind} template: {line}")
            lines.append(found.text + "\n")
        parts.append(f"expanded_{kind}_text = <<EOF\n{''.join(lines)}EOF\n")
    return "\n".join(parts)


def _lookup(names: Names, path: str, kind: str, warn: Warn) -> Callable[[str], str | None]:
    """Parameters, and TIME_UNIT: the value of a parameter that is a time, in that unit."""

    def lookup(name: str) -> str | None:
        parameter = next((time for time in _TIMES if name.startswith(time + "_")), "")
        if not parameter:
            return names.value(name)
        unit = name[len(parameter) + 1 :]
        if unit not in _UNITS:
            raise Fatal(f'{path}: unrecognized suffix "{unit}" in parameter "{name}"')
        seconds = to_seconds(parameter, names.expand(names.value(parameter) or "0s"))
        result = int(seconds) // _UNITS[unit]
        wrong, change = f'excessive result "{result}"', "increase"
        if seconds and not result:
            wrong, change = "zero result", "reduce"
        if result > _MOST or (seconds and not result):
            warn(f'{path}: {wrong} in {kind} template conversion of parameter "{name}"')
            warn(f'please {change} time unit "{unit}" of "{name}" in {kind} template')
            warn("for instructions see the bounce(5) manual")
        return str(result)

    return lookup
