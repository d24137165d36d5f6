"""pcre: Perl-compatible regular expressions (pcre_table(5)), matched by the library PCRE2 where it is installed."""

from __future__ import annotations

from fastmta._ext import patterns as ext
from fastmta.config.lines import WHITESPACE
from fastmta.tables.lookup import Context, Flags, Table, TableError
from fastmta.tables.rules import Delimited, PatternTable, Skip, delimited
from fastmta.tables.source import to_bytes

_CASELESS = 0x8
_DOTALL = 0x20
# pcre2api(3); X, of the first PCRE, has no meaning in PCRE2 and is taken without one
_FLAGS = {"i": _CASELESS, "m": 0x400, "s": _DOTALL, "x": 0x80, "A": 0x80000000, "E": 0x10, "U": 0x40000, "X": 0}


class PcreTable(PatternTable):
    """One open table."""

    def parse_pattern(self, text: str, alone: bool) -> tuple[tuple[Delimited, ...], str]:
        """One pattern."""
        source, rest, negated = delimited(text, "ignoring")
        end = 0
        while end < len(rest) and rest[end] not in WHITESPACE:
            if rest[end] not in _FLAGS:
                raise Skip(f'unknown regexp option "{rest[end]}": skipping this rule')
            end += 1
        return (Delimited(source, rest[:end], negated),), rest[end:]

    def make_pattern(self, pattern: Delimited, groups: bool) -> ext.Pattern:
        """A flag switches what is on by default: any case, and a dot that matches a newline."""
        bits = _CASELESS | _DOTALL
        for flag in pattern.flags:
            bits ^= _FLAGS[flag]
        try:
            return ext.Pcre(to_bytes(pattern.source), bits)
        except ValueError as error:
            raise Skip(str(error)) from None


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open pcre:name. Raises TableError, also where PCRE2 is not installed."""
    if not ext.pcre_available():
        raise TableError("unsupported dictionary type: pcre. Is the library libpcre2-8 installed?")
    return PcreTable("pcre", name, flags, context)
