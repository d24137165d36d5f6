"""What postconf(1) prints: parameters of main.cf, entries, fields and -o settings of master.cf, as text or as JSON.

Called by __init__.py with the names and what the command line asks for. Raises Fatal.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fastmta.cli.postconf.entries import (
    COMMAND,
    FIELDS,
    INDENT,
    LINE_LIMIT,
    Entry,
    format_arguments,
    format_entry,
)
from fastmta.cli.postconf.names import Names
from fastmta.cli.tool import Fatal

ANY: Final = "*"


class Style(NamedTuple):
    """How it is printed: -f, -h, -H, -j, -x; only_set is -n; inherited is -PP: of main.cf, where there is no -o."""

    fold: bool = False
    hide_name: bool = False
    hide_value: bool = False
    json: bool = False
    expand: bool = False
    only_set: bool = False
    inherited: bool = False


class Printer:
    """Prints in a style; write takes text, warn a line."""

    def __init__(self, names: Names, style: Style, write: Callable[[str], object], warn: Callable[[str], None]) -> None:
        """One for a run of the program."""
        self._names = names
        self._style = style
        self._write = write
        self._warn = warn

    def parameters(self, groups: frozenset[str], wanted: Sequence[str]) -> None:
        """The parameters that the command line names, or all of some classes, sorted."""
        if wanted:
            for name in wanted:
                if name in self._names.known:
                    self._parameter(name)
                else:
                    self._warn(f"{name}: unknown parameter")
            return
        for name in sorted(self._names.known, key=_bytes):
            if self._names.known[name].group in groups:
                self._parameter(name)

    def _parameter(self, name: str) -> None:
        value = self._names.value(name, only_set=self._style.only_set)
        if value is None:
            return
        if self._style.expand and not self._names.known[name].raw:
            value = self._names.expand(value)
        self._pair(name, value)

    def entries(self, wanted: Sequence[str]) -> None:
        """Entries of master.cf."""
        requests = [Request(text, 2, "-M option requires service_name[/type]") for text in wanted]
        for entry in self._names.entries:
            for _ in _matching(requests, entry):
                if self._style.json:
                    fields = " ".join(entry.words[:COMMAND])
                    self._json(entry.name, f"{fields} {self._command(entry)}")
                else:
                    text = format_entry(entry, fold=self._style.fold, value=self._expander(entry))
                    self._write(text + "\n")
        self._unmatched(requests)

    def fields(self, wanted: Sequence[str]) -> None:
        """Fields of entries of master.cf."""
        requests = [Request(text, 3, "-F option requires service_name[/type[/field]]") for text in wanted]
        for request in requests:
            field_number(request.last)
        for entry in self._names.entries:
            for asked in _matching(requests, entry):
                field = field_number(asked.last) if asked is not None else None
                for number in range(len(FIELDS)) if field is None else (field,):
                    self._field(entry, number)
        self._unmatched(requests)

    def _field(self, entry: Entry, number: int) -> None:
        name = f"{entry.name}/{FIELDS[number]}"
        word = entry.words[number]
        if self._style.json:
            self._json(name, self._command(entry) if number == COMMAND else word)
            return
        if self._style.hide_value:
            self._write(name + "\n")
            return
        text = "" if self._style.hide_name else f"{name} = "
        length = len(text)
        if text and length + len(word) > LINE_LIMIT:
            text += "\n" + INDENT
            length = len(INDENT)
        text += word
        length += len(word)
        if number == COMMAND:
            text = format_arguments(entry, text, length, fold=self._style.fold, value=self._expander(entry))
        self._write(text + "\n")

    def settings(self, wanted: Sequence[str]) -> None:
        """The -o settings of entries of master.cf."""
        requests = [
            Request(text, 3, "-P option requires service_name[/type[/parameter]]", counts=False) for text in wanted
        ]
        for entry in self._names.entries:
            settings = entry.settings or {}
            for asked in _matching(requests, entry):
                if asked is None or asked.last == ANY:
                    if entry.settings is None:
                        continue
                    for name in sorted(settings, key=_bytes):
                        self._setting(entry, name, settings[name])
                elif asked.last in settings:
                    self._setting(entry, asked.last, settings[asked.last])
                elif self._style.inherited and asked.last in self._names.known:
                    self._setting(entry, asked.last, self._names.value(asked.last, entry) or "")
                else:
                    continue
                if asked is not None:
                    asked.matches += 1
        self._unmatched(requests)

    def _setting(self, entry: Entry, name: str, value: str) -> None:
        self._pair(f"{entry.name}/{name}", self._expanded(value, entry))

    # -- forms

    def _expander(self, entry: Entry) -> Callable[[str], str]:
        return lambda text: self._expanded(text, entry)

    def _expanded(self, text: str, entry: Entry) -> str:
        return self._names.expand(text, entry) if self._style.expand else text

    def _command(self, entry: Entry) -> str:
        return format_arguments(entry, entry.words[COMMAND], LINE_LIMIT, fold=False, value=self._expander(entry))

    def _pair(self, name: str, value: str) -> None:
        if self._style.json:
            self._json(name, " ".join(value.split()))
        elif self._style.hide_name:
            self._line(value)
        elif self._style.hide_value:
            self._line(name)
        else:
            self._line(f"{name} = {value}")

    def _json(self, name: str, value: str) -> None:
        self._write(json.dumps({name: value}, ensure_ascii=False) + "\n")

    def _line(self, text: str) -> None:
        """One blank between words, or a fold where the line would be too long."""
        words = [word for word in text.translate(_TO_BLANK).split(" ") if word]
        if not self._style.fold:
            self._write(" ".join(words) + "\n")
            return
        out = ""
        length = 0
        for word in words:
            if length:
                if length + len(word) < LINE_LIMIT:
                    out += " "
                    length += 1
                else:
                    out += "\n" + INDENT
                    length = len(INDENT)
            out += word
            length += len(word)
        self._write(out + "\n")

    def _unmatched(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if not request.matches:
                self._warn(f'unmatched request: "{request.text}"')


_TO_BLANK: Final = str.maketrans("\t\r\n", "   ")


class Request:
    """A pattern service[/type[/what]] of the command line; * stands for any, and for parts that are left out."""

    __slots__ = ("_parts", "counts", "matches", "text")

    def __init__(self, text: str, most: int, problem: str, *, least: int = 1, counts: bool = True) -> None:
        """Raises Fatal with the problem. counts: that the entry fits is a match."""
        self.text = text
        self.matches = 0
        self.counts = counts
        parts = [part for part in text.split("/") if part]
        bad = any(ANY in part and part != ANY for part in parts)
        if text.startswith("/") or bad or not least <= len(parts) <= most:
            raise Fatal(problem)
        self._parts = parts + [ANY] * (most - len(parts))

    @property
    def last(self) -> str:
        """The part after the type."""
        return self._parts[2]

    def fits(self, service: str, kind: str) -> bool:
        """Whether an entry is meant."""
        return self._parts[0] in (ANY, service) and self._parts[1] in (ANY, kind)


def field_number(name: str) -> int | None:
    """The place of a field; None for *. Raises Fatal."""
    if name == ANY:
        return None
    if name not in FIELDS:
        raise Fatal(f'invalid service attribute name: "{name}"')
    return FIELDS.index(name)


def _matching(requests: Sequence[Request], entry: Entry) -> list[Request | None]:
    """The requests that mean an entry, in their order; one None where nothing is asked for in particular."""
    if not requests:
        return [None]
    found: list[Request | None] = []
    for request in requests:
        if request.fits(entry.words[0], entry.words[1]):
            request.matches += request.counts
            found.append(request)
    return found


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
