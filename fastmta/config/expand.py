"""$name in parameter values: what Postfix's mac_expand(3) makes of them.

    $name  ${name}  $(name)             the value, expanded in turn; empty where it has none
    $$                                  a dollar sign
    ${name?text}  ${name?{text}}        text if the value is not empty
    ${name:text}  ${name:{text}}        text if it is
    ${name?{text1}:{text2}}             one or the other
    ${{left} OP {right} ? {text1} : {text2}}
                                        OP: == != < <= >= >. It compares numbers if both sides are all digits, else
                                        text; with the suffix "length", lengths; with the suffix "level",
                                        compatibility levels (3.10 is more than 3.2)
    ${function{text}}                   what a function makes of the text, see FUNCTIONS

Called by Config for every value at its first use. A syntax error is not raised here: Expansion says it, and what was
made so far.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

Lookup = Callable[[str], str | None]

_BLANKS: Final = " \t\r\n"
_OPERATOR_CHARACTERS: Final = "<>!=?+-*/~&|%"
_OPERATORS: Final = ("==", "!=", "<", "<=", ">=", ">")
_OPERATOR_EXPECTED: Final = '"==" or "!="" or "<"" or "<="" or ">="" or ">" expected at: "...{}}}>>>{:.20}"'
_MAX_DEPTH: Final = 100
# A value is made of less. Ten names that each mention the next one ten times would need more than a machine has.
_MAX_STEPS: Final = 100_000
_MAX_LENGTH: Final = 50_000_000
_LONG_MAX: Final = 2**63 - 1
# As strtol(3) reads them: major, minor, patch; all three have to fit in a long, with ten bits each for the last two.
_LEVEL: Final = re.compile(r"\s*([+-]?[0-9]{1,30})(?:\.\s*([+-]?[0-9]{1,30})(?:\.\s*([+-]?[0-9]{1,30}))?)?", re.ASCII)
_MOST: Final = (_LONG_MAX >> 20, 1023, 1023)


def _domain_to_ascii(text: str) -> str:
    """A domain name as it stands in DNS; what is none stays as it is."""
    if text.isascii():
        return text
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError:
        return text


FUNCTIONS: Final[Mapping[str, Callable[[str], str]]] = {"domain_to_ascii": _domain_to_ascii}


class _ExpansionError(Exception):
    """Ends the expansion of one value; its text is the warning."""


class Expansion:
    """The result of one expansion: text; undefined: some $name had no value; error: what is wrong with the syntax."""

    __slots__ = ("_functions", "_length", "_lookup", "_out", "_scan", "_steps", "error", "undefined")

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        *,
        scan: bool = False,
        functions: Mapping[str, Callable[[str], str]] = FUNCTIONS,
    ) -> None:
        """Expands text; lookup gives the unexpanded value of a name, or None. scan: every branch is looked at."""
        self._lookup = lookup
        self._scan = scan
        self._functions = functions
        self._out: list[str] = []
        self._steps = 0
        self._length = 0
        self.undefined = False
        self.error = ""
        try:
            self._parse(text, self._out, 0)
        except _ExpansionError as problem:
            self.error = str(problem)

    @property
    def text(self) -> str:
        """What came out, up to the error if there is one."""
        return "".join(self._out)

    def _parse(self, text: str, out: list[str], depth: int) -> None:
        at = 0
        self._length += len(text)
        while True:
            dollar = text.find("$", at)
            if dollar < 0:
                out.append(text[at:])
                return
            out.append(text[at:dollar])
            following = text[dollar + 1 : dollar + 2]
            if following == "$":
                out.append("$")
                at = dollar + 2
                continue
            if following == "{" or following == "(":
                end = _closing(text, dollar + 1, following, "}" if following == "{" else ")")
                if end < 0:
                    raise _ExpansionError(f'truncated macro reference: "{text}"')
                inside = text[dollar + 2 : end]
                at = end + 1
            else:
                at = _end_of_name(text, dollar + 1)
                inside = text[dollar + 1 : at]
            if not inside:
                raise _ExpansionError(f'empty macro name: "{text}"')
            self._steps += 1
            if depth > _MAX_DEPTH or self._steps > _MAX_STEPS or self._length > _MAX_LENGTH:
                raise _ExpansionError(f'unreasonable macro call nesting: "{inside}"')
            self._expression(inside, out, depth + 1)

    def _expression(self, text: str, out: list[str], depth: int) -> None:
        """One ${...}: text is what is between the braces."""
        start = _skip_blanks(text, 0)
        value: str | None
        if text[start : start + 1] == "{":
            value, at = self._comparison(text, start, depth)
            if at < len(text) and text[at] not in "?:":
                raise _ExpansionError(f'"?" or ":" expected at: "...}}>>>{text[at:]:.20}"')
        else:
            end = _end_of_name(text, start)
            at = _skip_blanks(text, end)
            if text[at : at + 1] == "{" and text[start:end] in self._functions:
                self._call(text[start:end], text, at, out, depth)
                return
            if at < len(text) and text[at] not in "?:":
                raise _ExpansionError(f'attribute name syntax error at: "...{text[:end]}>>>{text[end:]:.20}"')
            value = self._lookup(text[start:end])
        if at == len(text):
            if value is None:
                self.undefined = True
            elif value and text[start : start + 1] == "{":
                out.append(value)
            elif value:
                self._parse(value, out, depth)
            return
        if text[at] == "?":
            chosen, at = self._operand(text, at + 1)
            if value or self._scan:
                self._parse(chosen, out, depth)
            if at == len(text):
                return
            if text[at] != ":":
                raise _ExpansionError(f'":" expected at: "...{chosen}}}>>>{text[at:]:.20}"')
        chosen, at = self._operand(text, at + 1)
        if not value or self._scan:
            self._parse(chosen, out, depth)
        if at < len(text):
            raise _ExpansionError(f'unexpected input at: "...{chosen}}}>>>{text[at:]:.20}"')

    def _call(self, name: str, text: str, at: int, out: list[str], depth: int) -> None:
        """${name{argument}}, the brace at a position."""
        argument, at = self._braced(text, at)
        if at < len(text):
            raise _ExpansionError(f'unexpected input at: "...{argument}}}>>>{text[at:]:.20}"')
        inner: list[str] = []
        self._parse(argument.strip(_BLANKS), inner, depth)
        if not self._scan:
            out.append(self._functions[name]("".join(inner)))

    def _operand(self, text: str, at: int) -> tuple[str, int]:
        """What follows ? or : at a position: {text}, with blanks around it, or the whole rest as it is."""
        brace = _skip_blanks(text, at)
        if text[brace : brace + 1] == "{":
            return self._braced(text, brace)
        return text[at:], len(text)

    def _braced(self, text: str, at: int) -> tuple[str, int]:
        """The inside of the {} at a position, and the position after it and the blanks that follow."""
        end = _closing(text, at, "{", "}")
        if end < 0:
            raise _ExpansionError(f'unbalanced {{}} in attribute expression: "{text[at:]}"')
        return text[at + 1 : end], _skip_blanks(text, end + 1)

    def _comparison(self, text: str, at: int, depth: int) -> tuple[str, int]:
        """{left} OP {right}: "true" or "", and the position after it."""
        left, at = self._braced(text, at)
        end = at
        while end < len(text) and text[end] in _OPERATOR_CHARACTERS:
            end += 1
        operator = text[at:end]
        if operator not in _OPERATORS:
            raise _ExpansionError(_OPERATOR_EXPECTED.format(left, text[at:]))
        word_end = _end_of_name(text, end)
        suffix = text[end:word_end]
        if suffix not in ("", "level", "length"):
            raise _ExpansionError(f'bad operator suffix at: "...{operator}>>>{suffix:.20}"')
        at = _skip_blanks(text, word_end)
        if text[at : at + 1] != "{":
            raise _ExpansionError(f'"{{expression}}" expected at: "...{{{left}}} {operator}{suffix}>>>{text[at:]:.20}"')
        right, at = self._braced(text, at)
        sides: list[str] = []
        for side in (left, right):
            out: list[str] = []
            self._parse(side, out, depth)
            sides.append("".join(out))
        if self._scan:
            return "", at
        return "true" if _compare(sides[0], sides[1], operator, suffix) else "", at


def expand(text: str, lookup: Lookup) -> Expansion:
    """Expand every $name of a value."""
    return Expansion(text, lookup)


def scan(text: str, see: Callable[[str], None]) -> str:
    """Tell of every name that a value mentions, in any branch, as often as it does; returns what is wrong, or ""."""

    def lookup(name: str) -> None:
        see(name)

    return Expansion(text, lookup, scan=True).error


def names_in(text: str) -> set[str]:
    """All names that a value mentions, in any branch of a condition, whether the syntax is right or not."""
    names: set[str] = set()
    at = text.find("$")
    while at >= 0:
        start = at + 1
        if text[start : start + 1] == "$":
            at = text.find("$", start + 1)
            continue
        if text[start : start + 1] in ("{", "("):
            start = _skip_blanks(text, start + 1)
        end = _end_of_name(text, start)
        if end > start:
            names.add(text[start:end])
        at = text.find("$", max(end, at + 1))
    return names


def compatibility_level(text: str) -> tuple[int, int, int]:
    """A level such as "3.6" as numbers that compare; raises ValueError with Postfix's words."""
    found = _LEVEL.fullmatch(text)
    numbers = tuple(int(part or 0) for part in found.groups()) if found else ()
    if len(numbers) != 3 or not all(0 <= number <= most for number, most in zip(numbers, _MOST, strict=True)):
        raise ValueError(f'malformed compatibility level syntax: "{text}"')
    return numbers


def _compare(left: str, right: str, operator: str, suffix: str) -> bool:
    order: int
    if suffix == "level":
        try:
            levels = compatibility_level(left), compatibility_level(right)
        except ValueError as error:
            raise _ExpansionError(str(error)) from None
        order = (levels[0] > levels[1]) - (levels[0] < levels[1])
    elif suffix == "length":
        order = len(left) - len(right)
    elif _is_number(left) and _is_number(right):
        order = _number(left) - _number(right)
    else:
        order = (left > right) - (left < right)
    if operator == "==":
        return order == 0
    if operator == "!=":
        return order != 0
    if operator == "<":
        return order < 0
    if operator == "<=":
        return order <= 0
    if operator == ">=":
        return order >= 0
    return order > 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _number(text: str) -> int:
    number = int(text) if len(text) < 40 else _LONG_MAX + 1
    if number > _LONG_MAX:
        raise _ExpansionError(f"mac_exp_eval: bad conversion: {text}")
    return number


def _closing(text: str, at: int, opening: str, closing: str) -> int:
    """The position of what closes the bracket at a position, or -1."""
    level = 0
    for position in range(at, len(text)):
        character = text[position]
        if character == opening:
            level += 1
        elif character == closing:
            level -= 1
            if not level:
                return position
    return -1


def _end_of_name(text: str, at: int) -> int:
    while at < len(text) and (text[at] == "_" or (text[at].isascii() and text[at].isalnum())):
        at += 1
    return at


def _skip_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at
