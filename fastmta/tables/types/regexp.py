"""regexp: POSIX regular expressions (regexp_table(5)), matched by the C library: leftmost-longest."""

from __future__ import annotations

from fastmta._ext import patterns as ext
from fastmta.config.lines import WHITESPACE
from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.rules import Delimited, PatternTable, Skip, delimited
from fastmta.tables.source import to_bytes

_FLAGS = {"i": ext.ICASE, "m": ext.NEWLINE, "x": ext.EXTENDED}


class RegexpTable(PatternTable):
    """One open table. `/a/!/b/ value` holds where a is found and b is not."""

    zero = "out-of-range"

    def parse_pattern(self, text: str, alone: bool) -> tuple[tuple[Delimited, ...], str]:
        """One pattern, or two."""
        first, rest = self._one(text)
        if alone or not rest.startswith("!"):
            return (first,), rest
        second, rest = self._one(rest)
        return (first, second), rest

    def _one(self, text: str) -> tuple[Delimited, str]:
        source, rest, negated = delimited(text, "skipping")
        end = 0
        while end < len(rest) and rest[end] not in WHITESPACE and rest[end] != "!":
            if rest[end] not in _FLAGS:
                raise Skip(f'unknown regexp option "{rest[end]}": skipping this rule')
            end += 1
        return Delimited(source, rest[:end], negated), rest[end:]

    def make_pattern(self, pattern: Delimited, groups: bool) -> ext.Pattern:
        """A flag switches what is on by default: extended syntax, and any case."""
        bits = ext.EXTENDED | ext.ICASE
        for flag in pattern.flags:
            bits ^= _FLAGS[flag]
        try:
            # Its groups are counted also where their text is not wanted: the index of a group is checked against them.
            return ext.Posix(to_bytes(pattern.source), bits, groups)
        except ValueError as error:
            raise Skip(str(error)) from None


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open regexp:name. Raises TableError."""
    return RegexpTable("regexp", name, flags, context)
