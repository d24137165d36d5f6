"""Logical lines: what Postfix's readlline(3) makes of a text file.

A logical line starts with text in the first column; a physical line that starts with white space continues it. Empty
lines, blank lines and lines whose first visible character is "#" are left out, between the parts of a logical line too.
The newline goes, the white space that follows it stays. A null byte ends a logical line, as it does there. Used for
main.cf, master.cf, and the tables and lists in files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastmta.config.errors import ConfigError

WHITESPACE = " \t\r\n\v\f"


class LogicalLine(NamedTuple):
    """line is the number of its first physical line, from 1."""

    line: int
    text: str


def logical_lines(text: str, file: str, warnings: list[str]) -> Iterator[LogicalLine]:
    """The logical lines of a text in order. A continuation of nothing is left out, with a warning, as Postfix does."""
    first = 0
    parts: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        visible = line.lstrip(WHITESPACE)
        if not visible or visible[0] == "#":
            continue
        if line[0] not in WHITESPACE:
            if parts:
                yield _joined(first, parts, file, warnings)
            first, parts = number, [line]
        elif parts:
            parts.append(line)
        else:
            shown = line[:30] + "..." if len(line) > 30 else line
            warnings.append(f'{file}, line {number}: logical line must not start with whitespace: "{shown}"')
    if parts:
        yield _joined(first, parts, file, warnings)


def _joined(first: int, parts: list[str], file: str, warnings: list[str]) -> LogicalLine:
    text, null, _ = "".join(parts).partition("\0")
    if null:
        warnings.append(f"{file}, line {first}: the logical line ends at a null byte")
    return LogicalLine(first, text)


def read_text(path: Path) -> str:
    """A configuration file as text; bytes that are not UTF-8 survive a round trip. Raises ConfigError."""
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise ConfigError("", 0, "", f"open {path}: {error.strerror}") from None


def split_name_value(text: str) -> tuple[str, str] | str:
    """`name = value` as a pair, or what is wrong with it, in split_nameval(3)'s words."""
    name, equals, value = text.partition("=")
    name = name.strip(WHITESPACE)
    if not name and (equals or not text.strip(WHITESPACE)):
        return "missing attribute name"
    if not equals or any(blank in name for blank in WHITESPACE):
        return "missing '=' after attribute name"
    return name, value.strip(WHITESPACE)
