"""What postconf(1) changes: settings of main.cf; entries, fields and -o settings of master.cf.

Text goes in and text comes out: comments, blank lines, and all entries that are not asked for stay as they are. Called
by __init__.py, which puts the result in the place of the file. Raises Fatal.

Different from Postfix: a file that does not end with a newline gets one before something is added; comments that follow
a changed entry of master.cf stay behind it, where Postfix moves them in front of it; braces around the first argument
of a changed entry stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final

from fastmta.cli.postconf.entries import BLANKS, COMMAND, BadEntry, Entry, format_entry
from fastmta.cli.postconf.show import ANY, Request, field_number
from fastmta.cli.tool import Fatal
from fastmta.config.lines import WHITESPACE, split_name_value

Warn = Callable[[str], None]


class Change(Enum):
    """What becomes of what is named."""

    SET = "-e"
    COMMENT = "-#"
    REMOVE = "-X"


class What(Enum):
    """What of master.cf is named."""

    ENTRY = "-M"
    FIELD = "-F"
    SETTING = "-P"


# -- main.cf


def main_requests(change: Change, arguments: Sequence[str], warn: Warn) -> dict[str, str]:
    """Names with their new values ("" where there is none) from a command line."""
    requests: dict[str, str] = {}
    for argument in arguments:
        if "\n" in argument:
            raise Fatal("-e, -X, or -# accepts no multi-line input")
        text = argument.lstrip(WHITESPACE)
        if text.startswith("#"):
            raise Fatal("-e, -X, or -# accepts no comment input")
        value = ""
        if change is Change.SET:
            pair = split_name_value(text)
            if isinstance(pair, str):
                raise Fatal(f'{pair}: "{text}"')
            name, value = pair
        else:
            if not text:
                raise Fatal("-X or -# requires non-blank parameter names")
            if "=" in text:
                raise Fatal("-X or -# requires parameter names without value")
            name = text.rstrip(WHITESPACE)
        if name in requests:
            warn(f"ignoring earlier request: '{name} = {requests.pop(name)}'")
        requests[name] = value
    return requests


def edit_main(text: str, path: str, change: Change, requests: dict[str, str], warn: Warn) -> str:
    """main.cf with the settings changed; those that are not in it are added at its end, sorted."""
    found: dict[str, int] = {}
    out: list[str] = []
    asked = False
    for line in _lines(text):
        if _is_comment(line):
            out.append(line)
        elif line[0] in WHITESPACE:
            if not asked:
                out.append(line)
            elif change is Change.COMMENT:
                out.append("#" + line)
        else:
            name = _name(line)
            asked = name in requests
            if not asked:
                out.append(line)
                continue
            found[name] = found.get(name, 0) + 1
            if found[name] == 2:
                warn(f'{path}: multiple entries for "{name}"')
            if change is Change.SET:
                out.append(f"{name} = {requests[name]}\n")
            elif change is Change.COMMENT:
                out.append("#" + line)
    if change is Change.SET:
        for name in sorted(requests.keys() - found.keys()):
            _finish(out)
            out.append(f"{name} = {requests[name]}\n")
    return "".join(out)


# -- master.cf


class _Order:
    """One change of master.cf that the command line asks for."""

    def __init__(self, what: What, change: Change, argument: str, warn: Warn) -> None:
        self.text = argument
        self.matches = 0
        self.value = ""
        self.field = COMMAND
        self._what = what
        self._change = change
        self._warn = warn
        if "\n" in argument:
            raise Fatal(f"{_OPTIONS} accept no multi-line input")
        text = argument.lstrip(WHITESPACE)
        if text.startswith("#"):
            raise Fatal(f"{_OPTIONS} accept no comment input")
        if change is Change.SET:
            pair = split_name_value(text)
            if isinstance(pair, str):
                raise Fatal(f'{pair}: "{argument}"')
            pattern, self.value = pair
        elif "=" in text:
            raise Fatal("-X or -# requires names without value")
        else:
            pattern = text.rstrip(WHITESPACE)
        parts = 2 if what is What.ENTRY else 3
        self.request = Request(pattern, parts, _SYNTAX[what], least=parts)
        if what is What.FIELD:
            field = field_number(self.request.last)
            if field is None:
                raise Fatal("-Fe does not accept wild-card field name")
            self.field = field
            if field < COMMAND and self._has_blank():
                raise Fatal("-Fe does not accept whitespace in non-command field")
        elif what is What.SETTING:
            if self.request.last == ANY:
                raise Fatal("-Pe does not accept wild-card parameter name")
            if change is Change.SET and self._has_blank():
                raise Fatal("-Pe does not accept whitespace in parameter value")

    def _has_blank(self) -> bool:
        return any(blank in self.value for blank in BLANKS)

    def new_entry(self) -> Entry:
        """The whole entry that is asked for."""
        try:
            return Entry(self.value, self._warn)
        except BadEntry as error:
            raise Fatal(f'{error}: "{self.text}"') from None

    def apply(self, entry: Entry) -> None:
        """Change a field or a setting of an entry."""
        if self._what is What.FIELD:
            entry.set_field(self.field, self.value, self._warn)
        else:
            entry.set_setting(self.request.last, self.value if self._change is Change.SET else None)


_OPTIONS: Final = "-Me, -Fe, -Pe, -X, or -#"
_SYNTAX: Final = {
    What.ENTRY: "-Me, -MX or -M# requires service_name/type",
    What.FIELD: "-Fe or -FX requires service_name/type/field_name",
    What.SETTING: "-Pe or -PX requires service_name/type/parameter",
}


def master_orders(what: What, change: Change, arguments: Sequence[str], warn: Warn) -> list[_Order]:
    """The changes of a command line."""
    return [_Order(what, change, argument, warn) for argument in arguments]


def edit_master(text: str, path: str, what: What, change: Change, orders: list[_Order], warn: Warn) -> str:
    """master.cf with the entries changed; whole entries that are not in it are added at its end."""
    out: list[str] = []
    for number, block in _blocks(text):
        if _is_comment(block[0]) or block[0][0] in WHITESPACE:
            out += block
            continue
        service, kind = _service(block[0], path, number)
        asked = [order for order in orders if order.request.fits(service, kind)]
        for order in asked:
            order.matches += 1
        if what is What.ENTRY:
            out += _changed_entry(block, service, kind, change, orders, asked)
        elif not asked:
            out += block
        else:
            out += [line for line in block if _is_comment(line)]
            try:
                entry = Entry("".join(line for line in block if not _is_comment(line)), warn)
            except BadEntry as error:
                raise Fatal(f"file {path}: line {number}: {error}") from None
            for order in asked:
                order.apply(entry)
            out.append(_printed(entry))
    for order in orders:
        if order.matches:
            continue
        if what is not What.ENTRY:
            warn(f'unmatched service_name/type: "{order.text}"')
        elif change is Change.SET:
            _finish(out)
            out.append(_printed(order.new_entry()))
    return "".join(out)


def _changed_entry(
    block: list[str], service: str, kind: str, change: Change, orders: list[_Order], asked: list[_Order]
) -> list[str]:
    """What is in the place of an entry: itself, comments, nothing, or the entry that is asked for in its place."""
    if change is not Change.SET:
        if not asked:
            return block
        return [
            line if _is_comment(line) else "#" + line for line in block if change is Change.COMMENT or _is_comment(line)
        ]
    replacement: Entry | None = None
    touched = False
    for order in orders:
        entry = order.new_entry()
        if order not in asked:
            if (entry.words[0], entry.words[1]) != (service, kind):
                continue
            # the new entry's own name: there must be but one of it
            order.matches += 1
        touched = True
        if order.matches == 1:
            replacement = entry
    if not touched:
        return block
    comments = [line for line in block if _is_comment(line)]
    return comments if replacement is None else [_printed(replacement), *comments]


def _service(line: str, path: str, number: int) -> tuple[str, str]:
    words = line.split(None, 2)
    if len(words) < 2:
        raise Fatal(f"file {path}: line {number}: specify service name and type on the same line")
    service, kind = words[:2]
    if "=" in service:
        raise Fatal(f'file {path}: line {number}: service name syntax "{service}" is unsupported with {_OPTIONS}')
    if "=" in kind or "/" in kind:
        raise Fatal(f'file {path}: line {number}: service type syntax "{kind}" is unsupported with {_OPTIONS}')
    return service, kind


def _printed(entry: Entry) -> str:
    return format_entry(entry, fold=True, whole=True) + "\n"


# -- lines


def _lines(text: str) -> list[str]:
    """Lines with their newlines; only a newline ends one."""
    lines = [line + "\n" for line in text.split("\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number, lines) of each logical line, with the comments between its parts, and of the comments between them."""
    block: list[str] = []
    between: list[str] = []
    start = 1
    for number, line in enumerate(_lines(text), 1):
        if _is_comment(line):
            between.append(line)
        elif line[0] in WHITESPACE and block:
            block += between
            block.append(line)
            between = []
        else:
            if block:
                yield start, block
            if between:
                yield start, between
            block, between, start = [line], [], number
    if block:
        yield start, block
    if between:
        yield start, between


def _is_comment(line: str) -> bool:
    """Whether a line says nothing: blank, or its first visible character is #."""
    visible = line.lstrip(WHITESPACE)
    return not visible or visible[0] == "#"


def _name(line: str) -> str:
    end = 0
    while end < len(line) and line[end] not in WHITESPACE and line[end] != "=":
        end += 1
    return line[:end]


def _finish(out: list[str]) -> None:
    """The last line may lack its newline."""
    if out and not out[-1].endswith("\n"):
        out[-1] += "\n"
