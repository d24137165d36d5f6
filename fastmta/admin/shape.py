"""How the queue is spread over domains and ages: the table that qshape(1) prints.

cli/qshape.py counts every message in and prints the rows. A domain's counts by age are kept, the messages are not. The
outcome is that of Postfix's qshape script, column by column; where its order of rows is left to chance (domains with
equal counts and lengths), here they come in alphabetical order. Raises nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

TOTAL: Final = "TOTAL"
NULL_SENDER: Final = "MAILER-DAEMON"
_DOMAIN_WIDTH: Final = 18  # columns that a domain gets at least


class Buckets(msgspec.Struct, frozen=True):
    """The ages: count buckets; tick minutes is the limit of the first; linear or doubling limits; the last has none."""

    count: int = 10
    tick: int = 5
    linear: bool = False

    def of(self, age: float) -> int:
        """The bucket, from 1, for an age in seconds."""
        ticks = age / (60 * self.tick)
        if ticks < 1:
            return 1
        bucket = int(ticks + 1) if self.linear else 2 + int(math.log(ticks) / math.log(2))
        return min(bucket, self.count)

    def headings(self) -> list[str]:
        """ "T" for the total, then the limits in minutes; the last bucket is named by where it begins, with a plus."""
        names = ["T"]
        limit = 0
        for _ in range(1, self.count):
            limit += limit if limit and not self.linear else self.tick
            names.append(str(limit))
        return [*names, f"{limit}+"]


def domain_of(address: str) -> str:
    """The part that is counted: what follows the last "@", in lower case, without stray dots."""
    address = address.lower() or NULL_SENDER
    domain = address.rpartition("@")[2]
    while ".." in domain:
        domain = domain.replace("..", ".")
    return domain.strip(".") or domain


def parents_of(domain: str) -> Iterator[str]:
    """The parent domains, each with a leading dot, without the top level."""
    while True:
        _, dot, rest = domain.removeprefix(".").partition(".")
        if not dot or "." not in rest:
            return
        domain = f".{rest}"
        yield domain


class Shape:
    """The counts."""

    def __init__(self, buckets: Buckets, *, parents: bool = False, min_subdomains: int = 5) -> None:
        """parents: count into parent domains too, and show those with at least min_subdomains subdomains."""
        self._buckets = buckets
        self._parents = parents
        self._min_subdomains = min_subdomains
        self._counts: dict[str, list[int]] = {TOTAL: [0] * (buckets.count + 1)}
        self._subdomains: dict[str, int] = {}

    def add(self, age: float, addresses: Sequence[str]) -> None:
        """Count a message of that age in seconds, once for each address."""
        bucket = self._buckets.of(age)
        for address in addresses:
            self._count(TOTAL, bucket)
            domain = domain_of(address)
            new = self._count(domain, bucket)
            if not self._parents:
                continue
            for parent in parents_of(domain):
                was_new = self._count(parent, bucket)
                if new:
                    self._subdomains[parent] = self._subdomains.get(parent, 0) + 1
                new = was_new

    def _count(self, name: str, bucket: int) -> bool:
        counts = self._counts.get(name)
        new = counts is None or not counts[0]
        if counts is None:
            counts = self._counts[name] = [0] * (self._buckets.count + 1)
        counts[0] += 1
        counts[bucket] += 1
        return new

    def table(self, width: int = 80, top: int = 0) -> Iterator[str]:
        """The lines: headings, then the domain with most addresses first; top limits the number of rows, 0 = all."""
        headings = self._buckets.headings()
        totals = self._counts[TOTAL]
        widths = [_column(heading, total) for heading, total in zip(headings, totals, strict=True)]
        domain_width = max(width - sum(widths), _DOMAIN_WIDTH)
        yield _row("", headings, widths, domain_width)
        rows = 0
        for name in sorted(self._counts, key=lambda name: (-self._counts[name][0], len(name), name)):
            if name.startswith(".") and self._subdomains.get(name, 0) < self._min_subdomains:
                continue
            rows += 1
            if top and rows > top:
                return
            yield _row(name, [str(count) for count in self._counts[name]], widths, domain_width)


def _column(heading: str, total: int) -> int:
    length = max(len(heading), len(str(total)))
    return length + 1 if length > 2 else 3


def _row(name: str, cells: Sequence[str], widths: Sequence[int], domain_width: int) -> str:
    if len(name) > domain_width:
        dot = "." if name.startswith(".") else ""
        name = f"{dot}+{name[len(name) - domain_width + 1 + len(dot) :]}"
    columns = "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return f"{name:>{domain_width}}{columns}\n"
