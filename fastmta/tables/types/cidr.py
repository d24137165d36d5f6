"""cidr: networks (cidr_table(5)).

Between two `if`, `endif` or `!` lines, networks are looked up by their length in a dictionary each: what a lookup costs
grows with the number of different lengths, not of rules. The first rule in the file's order wins.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

from fastmta.config.lines import WHITESPACE, LogicalLine
from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.matchlist import PatternError, parse_network
from fastmta.tables.source import FileTable, fold_key, read_value

_Known = dict[int, dict[int, tuple[int, str]]]


class _Networks:
    """Rules in a row with neither "!" nor "if": by address size, by prefix length, by network: place and value."""

    def __init__(self) -> None:
        self.known: dict[int, _Known] = {32: {}, 128: {}}
        self.count = 0

    def add(self, bits: int, length: int, network: int, value: str) -> None:
        self.known[bits].setdefault(length, {}).setdefault(network, (self.count, value))
        self.count += 1

    def get(self, bits: int, number: int) -> str | None:
        best: tuple[int, str] | None = None
        for length, networks in self.known[bits].items():
            found = networks.get(number >> (bits - length))
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return None if best is None else best[1]


class _Test:
    """An `if` (jump is the place after its endif) or a rule with "!" (jump is -1)."""

    def __init__(self, line: int, bits: int, length: int, network: int, negated: bool, value: str) -> None:
        self.line, self.bits, self.length, self.network = line, bits, length, network
        self.negated, self.value, self.jump = negated, value, -1

    def holds(self, bits: int, number: int) -> bool:
        """A rule for the other kind of address does not hold, negated or not."""
        return bits == self.bits and (number >> (bits - self.length) == self.network) is not self.negated


class _Pattern(NamedTuple):
    text: str
    negated: bool


class CidrTable(FileTable):
    """One open table."""

    is_pattern = True
    inline = True

    def get(self, key: str) -> str | None:
        """The value of the first network that an address is in; None for what is no address."""
        if fold_key(self.name, key, False, self.flags, self.context) is None:
            return None
        bits = 128 if ":" in key else 32
        try:
            number = int.from_bytes(socket.inet_pton(socket.AF_INET6 if bits == 128 else socket.AF_INET, key))
        except (OSError, ValueError):
            return None
        steps = self._steps
        at, count = 0, len(steps)
        while at < count:
            step = steps[at]
            at += 1
            if isinstance(step, _Networks):
                value = step.get(bits, number)
                if value is not None:
                    return value
            elif step.jump < 0:
                if step.holds(bits, number):
                    return step.value
            elif not step.holds(bits, number):
                at = step.jump
        return None

    def compile(self, lines: list[LogicalLine]) -> None:
        """All lines, in order."""
        steps: list[_Networks | _Test] = []
        open_ifs: list[_Test] = []
        for number, text in lines:
            try:
                self._line(number, text.rstrip(WHITESPACE), steps, open_ifs)
            except PatternError as error:
                self.warn(number, f"{error}: skipping this rule")
        for test in reversed(open_ifs):
            self.warn(test.line, "IF has no matching ENDIF")
            test.jump = len(steps)
        self._steps = steps

    def _line(self, number: int, text: str, steps: list[_Networks | _Test], open_ifs: list[_Test]) -> None:
        if text[:2].lower() == "if" and not text[2:3].isalnum():
            pattern = _negation(text[2:].lstrip(WHITESPACE))
            if not pattern.text:
                raise PatternError("no address pattern")
            network = parse_network(pattern.text)
            test = _Test(number, network.bits, network.length, network.network, pattern.negated, "")
            test.jump = 0  # until its endif is there
            open_ifs.append(test)
            steps.append(test)
            return
        if text[:5].lower() == "endif" and not text[5:6].isalnum():
            if not open_ifs:
                raise PatternError("ENDIF without IF")
            if text[5:].strip(WHITESPACE):
                raise PatternError("garbage after ENDIF")
            open_ifs.pop().jump = len(steps)
            steps.append(_Networks())  # what follows is no part of the rules within
            return
        pattern = _negation(text)
        if not pattern.text:
            raise PatternError("no address pattern")
        words = pattern.text.split(None, 1)
        network = parse_network(words[0])
        if len(words) < 2:
            raise PatternError("no lookup result")
        value = words[1]
        if self.flags.from_file:
            content = read_value(value)
            if isinstance(content, tuple):
                raise PatternError(content[0])
            value = content
        if pattern.negated:
            steps.append(_Test(number, network.bits, network.length, network.network, True, value))
            return
        last = steps[-1] if steps else None
        if not isinstance(last, _Networks):
            last = _Networks()
            steps.append(last)
        last.add(network.bits, network.length, network.network, value)


def _negation(text: str) -> _Pattern:
    negated = False
    while text.startswith("!"):
        negated = not negated
        text = text[1:].lstrip(WHITESPACE)
    return _Pattern(text, negated)


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open cidr:name. Raises TableError."""
    return CidrTable("cidr", name, flags, context)
