"""master.cf as postconf(1) sees it: entries of words, with the fields as written and the arguments in one form.

Unlike config/mastercf.py, which makes services of them: "-" stays "-", nothing is converted, and what is odd is kept.
Used by show.py (printing), names.py (the -o settings) and edit.py (a changed entry is printed in place of the old one).
Raises Fatal with postconf's words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from fastmta.cli.tool import Fatal
from fastmta.config.lines import WHITESPACE, split_name_value
from fastmta.config.mastercf import TYPES, split_words

Warn = Callable[[str], None]

FIELDS: Final = ("service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command")
COMMAND: Final = 7
LINE_LIMIT: Final = 80
INDENT: Final = "    "
BLANKS: Final = " \t\r\n"
# Where the fields are printed.
_COLUMNS: Final = (0, 11, 17, 25, 33, 41, 49, 57)
_DIGITS: Final = "0123456789"


class BadEntry(Exception):
    """An entry that lacks fields; who knows where it stands says so."""


class Entry:
    """One entry. words: the eight fields, then the arguments; settings: the -o ones by name, None where it has none.

    valid: the settings that something uses; read_only: what a program that serves the entry knows of itself.
    """

    __slots__ = ("read_only", "settings", "valid", "words")

    def __init__(self, text: str, warn: Warn) -> None:
        """An entry of a file or of a command line."""
        words = split_words(text)
        if len(words) < len(FIELDS):
            raise BadEntry("bad field count")
        check_fields(words, text)
        self.words = words
        self._normalize(warn)
        self.settings: dict[str, str] | None = None
        self.valid: set[str] = set()
        self.read_only = {"process_name": words[COMMAND], "service_name": words[0]}

    @property
    def name(self) -> str:
        """Service/type."""
        return f"{self.words[0]}/{self.words[1]}"

    def read_settings(self, shared: dict[str, dict[str, str]]) -> None:
        """Fill settings from the arguments. shared: what entries of the same name before this one have, and keep."""
        self.settings = shared.get(self.name)
        for at in self.options():
            if self.words[at] == "-o":
                pair = split_name_value(self.words[at + 1])
                if not isinstance(pair, str):
                    if self.settings is None:
                        self.settings = shared.setdefault(self.name, {})
                    self.settings[pair[0]] = pair[1]

    def options(self) -> Iterator[int]:
        """Where the options with a value stand, up to the first word that is no option."""
        at = COMMAND + 1
        while at < len(self.words) and is_option(self.words[at]):
            if self.words[at][1:2] == "o" and at + 1 < len(self.words):
                yield at
                at += 1
            at += 1

    def set_field(self, field: int, value: str, warn: Warn) -> None:
        """Another value for a field; for the command, with all its arguments."""
        if field == COMMAND:
            self.words[COMMAND:] = split_words(value)
            self._normalize(warn)
        else:
            self.words[field] = value
        check_fields(self.words, value)

    def set_setting(self, name: str, value: str | None) -> None:
        """Another value for an -o setting, which is added if it is not there; None takes it away."""
        found = [at for at in self.options() if self.words[at] == "-o" and self.words[at + 1].startswith(name + "=")]
        if value is None:
            for at in reversed(found):
                del self.words[at : at + 2]
        elif found:
            for at in found:
                self.words[at + 1] = f"{name}={value}"
        else:
            at = COMMAND + 1
            while at < len(self.words) and is_option(self.words[at]):
                at += 2 if self.words[at][1:2] == "o" and at + 1 < len(self.words) else 1
            self.words[at:at] = ["-o", f"{name}={value}"]

    def _normalize(self, warn: Warn) -> None:
        """Options one by one ("-vo a=b" is "-v -o a=b"), and { text } without its braces."""
        words = self.words
        at = COMMAND + 1
        while at < len(words) and is_option(words[at]):
            o = words[at].find("o", 2)
            if o > 0 and words[at][1:2] != "o":
                words[at : at + 1] = [words[at][:o], "-" + words[at][o:]]
            if words[at][1:2] == "o":
                if len(words[at]) > 2:
                    words[at : at + 1] = ["-o", words[at][2:]]
                at += 1
                if at < len(words) and words[at].startswith("{"):
                    words[at] = _name_value(unbraced(words[at], warn), warn)
            at += 1
        for place in range(at, len(words)):
            if words[place].startswith("{"):
                words[place] = unbraced(words[place], warn)


def is_option(word: str) -> bool:
    """Whether a word among the arguments is an option; arguments proper begin at the first that is none."""
    return word.startswith("-") and word != "--"


def unbraced(word: str, warn: Warn) -> str:
    """{ text } as text, with a warning where the braces are not right."""
    level = 0
    for at, character in enumerate(word):
        if character == "{":
            level += 1
        elif character == "}":
            level -= 1
            if not level:
                if at + 1 < len(word):
                    warn(f"master.cf: syntax error after '}}' in \"{word}\"")
                return word[1:at].strip(WHITESPACE)
    warn(f"master.cf: missing '}}' in \"{word}\"")
    return word[1:].strip(WHITESPACE)


def _name_value(text: str, warn: Warn) -> str:
    pair = split_name_value(text)
    if isinstance(pair, str):
        warn(f'master.cf: {pair}: "{text}"')
        return text
    return f"{pair[0]}={pair[1]}"


def check_fields(words: list[str], text: str) -> None:
    """Raise Fatal for a field that master(8) would not take; text is what was read, for the message."""

    def wrong(field: int) -> Fatal:
        shown = f'invalid {FIELDS[field]} field "{words[field]}" in "{text}"'
        return Fatal(shown.replace("\n", " "))

    if words[1] not in TYPES:
        raise wrong(1)
    for field in (2, 3, 4):
        if words[field] not in ("y", "n", "-"):
            raise wrong(field)
    wakeup = words[5].removesuffix("?")
    if wakeup != "-" and wakeup.strip(_DIGITS):
        raise wrong(5)
    if words[6] != "-" and words[6].strip(_DIGITS):
        raise wrong(6)


def format_entry(entry: Entry, *, fold: bool, value: Callable[[str], str] = str, whole: bool = False) -> str:
    """The entry as one line, or folded; value is applied to the -o settings.

    whole: to be read again. postconf(1) prints the first argument without braces, even where it has blanks, and also
    when it edits; there we keep the braces, which would be lost.
    """
    out = ""
    for field, column in enumerate(_COLUMNS):
        if field:
            out = out.ljust(max(column, len(out) + 1))
        out += entry.words[field]
    return format_arguments(entry, out, len(out), fold=fold, value=value, slack=3, whole=whole)


def format_arguments(
    entry: Entry,
    out: str,
    length: int,
    *,
    fold: bool,
    value: Callable[[str], str] = str,
    slack: int = 1,
    whole: bool = False,
) -> str:
    """Append the arguments to what has been printed of the entry, length characters on the last line."""
    words = entry.words
    at = COMMAND + 1
    options = True
    while at < len(words):
        shown = words[at]
        width = len(shown)
        setting = False
        if options and is_option(shown):
            setting = shown[1:2] == "o" and at + 1 < len(words)
            if setting:
                # it has a line of its own
                length = LINE_LIMIT
                text = value(words[at + 1])
                braces = _has_blank(text)
                width += len(text) + slack + (2 if braces else 0)
                shown += f" {{{text}}}" if braces else f" {text}"
                at += 1
        else:
            if _has_blank(shown) and (whole or not options):
                shown = f"{{{shown}}}"
            options = False
        if length > len(INDENT):
            if not fold or length + 1 + width < LINE_LIMIT:
                out += " "
                length += 1
            else:
                out += "\n" + INDENT
                length = len(INDENT)
        out += shown
        length = LINE_LIMIT if setting else length + len(shown)
        at += 1
    return out


def _has_blank(text: str) -> bool:
    return any(blank in text for blank in BLANKS)
