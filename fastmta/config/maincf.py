"""Reads main.cf: logical lines of the form `name = value`; the last definition of a name wins, with a warning.

Called by Config's loader. Values stay as they are: $name is expanded at the first use. Raises ConfigError. See
postconf(5).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fastmta.config.errors import ConfigError
from fastmta.config.lines import logical_lines, read_text, split_name_value


class Definition(NamedTuple):
    """A value as written, and where."""

    value: str
    file: str
    line: int


def read_main_cf(path: Path, warnings: list[str]) -> dict[str, Definition]:
    """The definitions of a file by name, in the order of the file."""
    return parse_main_cf(read_text(path), str(path), warnings)


def parse_main_cf(text: str, file: str, warnings: list[str]) -> dict[str, Definition]:
    """The same for a text that came from a file."""
    definitions: dict[str, Definition] = {}
    for line, content in logical_lines(text, file, warnings):
        pair = split_name_value(content)
        if isinstance(pair, str):
            raise ConfigError(file, line, "", f'{pair}: "{content}"')
        name, value = pair
        earlier = definitions.get(name)
        if earlier is not None and earlier.value != value:
            warnings.append(f"{file}, line {line}: overriding earlier entry: {name}={earlier.value}")
        definitions[name] = Definition(value, file, line)
    return definitions
