"""What is wrong with a configuration, and where.

Raised by everything under config/ and by the modules that compile parameters into settings; caught by the commands,
which print it and exit, and by a reload, which keeps the old configuration.
"""

from __future__ import annotations


class ConfigError(Exception):
    """One error: file "" and line 0 mean that the value came from no file (a default, the machine)."""

    def __init__(self, file: str, line: int, parameter: str, message: str) -> None:
        """All four are kept; parameter is "" when a line could not be read at all."""
        super().__init__(file, line, parameter, message)
        self.file = file
        self.line = line
        self.parameter = parameter
        self.message = message

    def __str__(self) -> str:
        """File, line, parameter (unless the message names it) and message, as a command prints it."""
        where = f"{self.file}, line {self.line}: " if self.line else f"{self.file}: " if self.file else ""
        what = f"parameter {self.parameter}: " if self.parameter and self.parameter not in self.message else ""
        return where + what + self.message


def printable(text: str) -> str:
    """A text to be shown on a terminal, with ? for what cannot be printed: values are anybody's."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
