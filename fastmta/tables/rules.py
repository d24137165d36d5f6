"""Tables of regular expressions: the lines of regexp_table(5) and pcre_table(5) made into rules.

    /pattern/flags value      !/pattern/flags value      if /pattern/flags ... endif

PatternTable is the common part; types/regexp.py and types/pcre.py say how a pattern is delimited and compiled. A line
that is wrong is left out with Postfix's warning. Raises TableError where the file is not readable, nothing later.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

from fastmta._ext.patterns import Pattern, Rule, Rules
from fastmta.config.lines import WHITESPACE, LogicalLine
from fastmta.tables.source import FileTable, fold_key, read_value, to_bytes


class Skip(Exception):
    """A line that is left out; the text is the warning."""


class Delimited(NamedTuple):
    """A pattern between its delimiters, its flags, and whether "!" is before it."""

    source: str
    flags: str
    negated: bool


class PatternTable(FileTable):
    """One open table of regular expressions."""

    is_pattern = True
    inline = True
    unclosed = "skipping"
    zero = "out of range"

    @abstractmethod
    def parse_pattern(self, text: str, alone: bool) -> tuple[tuple[Delimited, ...], str]:
        """The pattern at the beginning of a text, and the rest; alone: one only. Raises Skip."""

    @abstractmethod
    def make_pattern(self, pattern: Delimited, groups: bool) -> Pattern:
        """Compile one. groups: the text of its groups is wanted. Raises Skip."""

    def get(self, key: str) -> str | None:
        """The value of the first rule that holds."""
        folded = fold_key(self.name, key, self.flags.fold_pattern, self.flags, self.context)
        return None if folded is None else self._rules.get(to_bytes(folded))

    def compile(self, lines: list[LogicalLine]) -> None:
        """All lines, in order."""
        rules: list[Rule] = []
        open_ifs: list[Rule] = []
        for number, text in lines:
            text = text.rstrip(WHITESPACE)
            try:
                rule = self._line(number, text, rules, open_ifs)
            except Skip as skip:
                self.warn(number, str(skip))
                continue
            if rule is not None:
                rules.append(rule)
        for rule in reversed(open_ifs):
            self.warn(rule.line, "IF has no matching ENDIF")
            rule.jump = len(rules)
        self._rules = Rules(rules, self.warn)

    def _line(self, number: int, text: str, rules: list[Rule], open_ifs: list[Rule]) -> Rule | None:
        word = text[:5].lower()
        if not text[0].isalnum():
            patterns, value = self.parse_pattern(text, False)
            return self._value_rule(number, patterns, value.lstrip(WHITESPACE))
        if word[:2] == "if" and not text[2:3].isalnum():
            patterns, rest = self.parse_pattern(text[2:].lstrip(WHITESPACE), True)
            rest = rest.lstrip(WHITESPACE)
            if rest:
                self.warn(number, f'ignoring extra text after IF statement: "{rest}"')
                self.warn(number, "do not prepend whitespace to statements between IF and ENDIF")
            rule = Rule(number, self.make_pattern(patterns[0], False), patterns[0].negated, "")
            rule.jump = 0  # until its endif is there
            open_ifs.append(rule)
            return rule
        if word == "endif" and not text[5:6].isalnum():
            if not open_ifs:
                raise Skip("ignoring ENDIF without matching IF")
            if text[5:].strip(WHITESPACE):
                self.warn(number, "ignoring extra text after ENDIF")
            open_ifs.pop().jump = len(rules)
            return None
        raise Skip("ignoring unrecognized request")

    def _value_rule(self, number: int, patterns: tuple[Delimited, ...], text: str) -> Rule:
        first = patterns[0]
        if not text:
            self.warn(number, "no replacement text: using empty string")
        if self.flags.from_file:
            content = read_value(text)
            if isinstance(content, tuple):
                raise Skip(f"{content[0]}: skipping this rule")
            text = content
        value = self._template(number, text)
        groups = isinstance(value, tuple)
        if groups and first.negated:
            raise Skip("$number found in negative match replacement text: skipping this rule")
        if groups and not self.flags.substitution:
            raise Skip("regular expression substitution is not allowed: skipping this rule")
        pattern = self.make_pattern(first, groups)
        if isinstance(value, tuple):
            highest = max(piece for piece in value if isinstance(piece, int))
            if highest > pattern.groups:
                raise Skip(f'out of range replacement index "{highest}": skipping this rule')
        if len(patterns) == 1:
            return Rule(number, pattern, first.negated, value)
        other = patterns[1]
        return Rule(number, pattern, first.negated, value, self.make_pattern(other, False), other.negated)

    def _template(self, number: int, text: str) -> str | tuple[bytes | int, ...]:
        """A value with $1 in it as pieces; one without as it is, but for $$."""
        if "$" not in text:
            return text
        pieces: list[bytes | int] = []
        at = 0
        while (dollar := text.find("$", at)) >= 0:
            pieces.append(to_bytes(text[at:dollar]))
            after = text[dollar + 1 : dollar + 2]
            if after == "$":
                pieces.append(b"$")
                at = dollar + 2
                continue
            name, at = self._macro(number, text, dollar + 1)
            if not (name.isascii() and name.isdigit()):
                self.warn(number, f'non-numeric replacement index "{name}"')
                raise Skip("bad replacement syntax: skipping this rule")
            if int(name) < 1:
                self.warn(number, f'{self.zero} replacement index "{int(name)}"')
                raise Skip("bad replacement syntax: skipping this rule")
            pieces.append(int(name))
        pieces.append(to_bytes(text[at:]))
        if any(isinstance(piece, int) for piece in pieces):
            return tuple(pieces)
        return b"".join(p for p in pieces if isinstance(p, bytes)).decode("utf-8", "surrogateescape")

    def _macro(self, number: int, text: str, at: int) -> tuple[str, int]:
        """The name in $name, ${name} or $(name), and the place behind it (mac_parse(3))."""
        closing = {"{": "}", "(": ")"}.get(text[at : at + 1])
        if closing:
            opening, level, end = text[at], 0, at
            while end < len(text):
                level += (text[end] == opening) - (text[end] == closing)
                if level == 0:
                    break
                end += 1
            else:
                self.context.warn(f'truncated macro reference: "{text}"')
                raise Skip("bad replacement syntax: skipping this rule")
            name, after = text[at + 1 : end], end + 1
        else:
            after = at
            while after < len(text) and (text[after] == "_" or (text[after].isascii() and text[after].isalnum())):
                after += 1
            name = text[at:after]
        if not name:
            self.context.warn(f'empty macro name: "{text}"')
            raise Skip("bad replacement syntax: skipping this rule")
        return name, after


def delimited(text: str, unclosed: str) -> tuple[str, str, bool]:
    """The pattern of `!!/pattern/rest`, the rest, and whether it is negated."""
    negated = False
    while text.startswith("!"):
        negated = not negated
        text = text[1:].lstrip(WHITESPACE)
    if not text:
        raise Skip("no regexp: skipping this rule")
    delimiter, at = text[0], 1
    while at < len(text) and text[at] != delimiter:
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise Skip(f'no closing regexp delimiter "{delimiter}": {unclosed} this rule')
    return text[1:at], text[at + 1 :], negated
