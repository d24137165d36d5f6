"""Lists of hosts, networks and domains: mynetworks, relay_domains, mydestination and their kind.

A list is compiled once, at load; a question is answered from a cache or by a few dictionary look-ups, however long the
list is. The first pattern that matches decides, and "!" before it makes the answer no (match_list(3)):

    example.com     that name; with parent=True (parent_domain_matches_subdomains) every name below it too
    .example.com    without parent: every name below it
    192.0.2.1  [2001:db8::1]                    that address
    192.0.2.0/24  [2001:db8::]/32               that network
    /file/name      the patterns in that file, "#" beginning a comment line
    type:name       a table: a key that it has matches, whatever the value. It is asked with the name and the names
                    above it (tables.keys.domain_keys), or with the whole address

Called by smtpd/, access/, address/ and deliver/ with names in any case and addresses in text form. Raises PatternError
while compiling: what Postfix finds wrong with a pattern when it first gets to it is an error at load here. Later it
raises TempFail where a table cannot say, and Pending (tables.maps), and that only where there are tables; nothing is
kept in the cache of such a list.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from fastmta.config.errors import ConfigError
from fastmta.config.values import before_comment
from fastmta.tables.keys import Key, domain_keys
from fastmta.tables.lookup import Table, TableError, TempFail

if TYPE_CHECKING:
    from fastmta.config.configuration import Config
    from fastmta.tables.maps import Tables

_ADDRESS_CHARACTERS: Final = frozenset("0123456789.abcdefABCDEF:")
_PATTERN_CHARACTERS: Final = _ADDRESS_CHARACTERS | frozenset("[]/")
_CACHE_LIMIT: Final = 16384
_MAX_FILE_DEPTH: Final = 10


class PatternError(ValueError):
    """A pattern that cannot be used; the text says which and why."""


class _Rank(NamedTuple):
    """What the pattern at a place of the list says when it matches. The lowest place wins."""

    place: int
    answer: bool


class Network(NamedTuple):
    """A CIDR pattern: the network number without its host bits, and its length in bits."""

    bits: int
    length: int
    network: int


_NO_MATCH: Final = _Rank(1 << 62, False)


class MatchList:
    """One compiled list. Which of the match functions to call is the parameter's nature: see for_parameter."""

    __slots__ = (
        "_addresses",
        "_asked",
        "_cache",
        "_exact",
        "_networks",
        "_owner",
        "_parent",
        "_parents",
        "empty",
        "title",
        "warnings",
    )

    def __init__(
        self,
        patterns: str | Iterable[str],
        *,
        parent: bool = False,
        tables: Tables | None = None,
        title: str = "",
    ) -> None:
        """patterns as in main.cf, separated by commas or blanks, or already split. tables: who opens type:name; None:
        what such a pattern would match is not wanted. title: the parameter, for the log.
        """
        self.warnings: list[str] = []
        self.title = title
        self._owner = tables
        self._parent = parent
        self._asked: list[tuple[_Rank, Table]] = []  # by place
        self._exact: dict[str, _Rank] = {}
        self._parents: dict[str, _Rank] = {}
        self._addresses: dict[str, _Rank] = {}
        # By address size in bits: by prefix length: network number -> rank.
        self._networks: dict[int, dict[int, dict[int, _Rank]]] = {32: {}, 128: {}}
        self._cache: dict[object, bool] = {}
        items: list[tuple[str, bool]] = []
        if isinstance(patterns, str):
            patterns, comment = before_comment(patterns)
            if comment:
                self.warnings.append(comment)
        self._gather(patterns, True, items, 0)
        self.empty = not items
        for place, (pattern, answer) in enumerate(items):
            self._compile(pattern, _Rank(place, answer), parent)

    # -- questions

    def match_host(self, name: str, address: str) -> bool:
        """A client by name or by address, whichever matches first in the list."""
        key = name, address
        answer = self._cache.get(key)
        if answer is None:
            rank = min(self._rank_name(name), self._rank_address(address))
            if self._asked:
                return self._ask(rank, [*domain_keys(name.lower(), self._parent), Key(address.lower(), False)])
            answer = self._remember(key, rank)
        return answer

    def match_domain(self, name: str) -> bool:
        """A domain, or one of its parents."""
        answer = self._cache.get(name)
        if answer is None:
            if self._asked:
                return self._ask(self._rank_name(name), list(domain_keys(name.lower(), self._parent)))
            answer = self._remember(name, self._rank_name(name))
        return answer

    def match_address(self, address: str) -> bool:
        """An address in text form; False for what is none."""
        key = None, address
        answer = self._cache.get(key)
        if answer is None:
            if self._asked:
                return self._ask(self._rank_address(address), [Key(address.lower(), False)])
            answer = self._remember(key, self._rank_address(address))
        return answer

    def match_string(self, text: str) -> bool:
        """The very text, in any case: no parent domains, no networks."""
        rank = self._exact.get(text.lower(), _NO_MATCH)
        return self._ask(rank, [Key(text.lower(), False)]) if self._asked else rank.answer

    @property
    def has_tables(self) -> bool:
        """Answers may change, and may have to wait."""
        return bool(self._asked)

    def _ask(self, known: _Rank, keys: list[Key]) -> bool:
        """The answer, where tables that stand before what is known may say something else."""
        owner = self._owner
        assert owner is not None
        for rank, table in self._asked:
            if rank > known:
                break
            for key in keys:
                if not key.text or (key.partial and table.is_pattern):
                    continue
                try:
                    value = owner.get(table, key.text)
                except TempFail:
                    owner.warn(f"{self.title}: {table.name}: table lookup problem")
                    raise
                if value is not None:
                    return rank.answer
        return known.answer

    def _remember(self, key: object, rank: _Rank) -> bool:
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        self._cache[key] = rank.answer
        return rank.answer

    def _rank_name(self, name: str) -> _Rank:
        name = name.lower()
        best = self._exact.get(name, _NO_MATCH)
        parents = self._parents
        if parents:
            dot = name.find(".", 1)
            while dot >= 0:
                best = min(best, parents.get(name[dot:], _NO_MATCH))
                dot = name.find(".", dot + 1)
        return best

    def _rank_address(self, address: str) -> _Rank:
        best = self._addresses.get(address.lower(), _NO_MATCH)
        size = 128 if ":" in address else 32
        networks = self._networks[size]
        if networks:
            try:
                packed = socket.inet_pton(socket.AF_INET6 if size == 128 else socket.AF_INET, address)
            except (OSError, ValueError):
                return best
            number = int.from_bytes(packed)
            for length, known in networks.items():
                best = min(best, known.get(number >> (size - length), _NO_MATCH))
        return best

    # -- compiling

    def _gather(self, patterns: Iterable[str], answer: bool, items: list[tuple[str, bool]], depth: int) -> None:
        for pattern in patterns:
            bare = pattern.lstrip("!")
            says = answer ^ bool((len(pattern) - len(bare)) & 1)
            if not bare:
                raise PatternError("no pattern after '!'")
            if bare.startswith("/"):
                if depth >= _MAX_FILE_DEPTH:
                    raise PatternError(f"{bare}: files of patterns name each other in a circle")
                for line in self._read(bare):
                    self._gather(line, says, items, depth + 1)
            else:
                items.append((bare, says))

    def _read(self, file: str) -> list[tuple[str, ...]]:
        try:
            text = Path(file).read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise PatternError(f"open file {file}: {error.strerror}") from None
        lines: list[tuple[str, ...]] = []
        for line in text.split("\n"):
            words, comment = before_comment(line)
            if comment and words:
                self.warnings.append(f"{file}: {comment}")
            lines.append(words)
        return lines

    def _compile(self, pattern: str, rank: _Rank, parent: bool) -> None:
        if not pattern.startswith("[") and ":" in pattern:
            kind = pattern.partition(":")[0]
            if _is_ipv6(pattern):
                raise PatternError(f"unsupported dictionary type: {kind}; write an IPv6 address as [{pattern}]")
            if self._owner is not None:
                try:
                    self._asked.append((rank, self._owner.open(pattern)))
                except TableError as error:
                    raise PatternError(str(error)) from None
            return
        folded = pattern.lower()
        self._exact.setdefault(folded, rank)
        if parent:
            self._parents.setdefault("." + folded, rank)
        elif folded.startswith("."):
            self._parents.setdefault(folded, rank)
        if not _PATTERN_CHARACTERS.issuperset(pattern):
            return
        plain = folded[1:-1] if folded.startswith("[") and folded.endswith("]") else folded
        self._addresses.setdefault(plain, rank)
        if ":" in pattern or "/" in pattern:
            network = parse_network(pattern)
            known = self._networks[network.bits].setdefault(network.length, {})
            known.setdefault(network.network, rank)


def for_parameter(config: Config, parameter: str, tables: Tables | None = None) -> MatchList:
    """The list that a parameter holds, with parents as parent_domain_matches_subdomains says. Raises ConfigError."""
    parent = parameter in config.get_list("parent_domain_matches_subdomains")
    try:
        return MatchList(config.get_str(parameter), parent=parent, tables=tables, title=parameter)
    except PatternError as error:
        file, line = config.where(parameter)
        raise ConfigError(file, line, parameter, str(error)) from None


def parse_network(pattern: str) -> Network:
    """A CIDR pattern, with or without [ ] around the address (cidr_match(3))."""
    address, slash, mask = pattern.partition("/")
    if pattern.startswith("["):
        address, bracket, rest = pattern[1:].partition("]")
        if not bracket:
            raise PatternError(f"missing ']' character after \"{pattern}\"")
        if rest:
            if not rest.startswith("/"):
                raise PatternError(f'garbage after "[{address}]"')
            slash, mask = "/", rest[1:]
        else:
            address, slash, mask = address.partition("/")
    bits = 128 if ":" in address else 32
    family = socket.AF_INET6 if bits == 128 else socket.AF_INET
    if slash and not (mask.isascii() and mask.isdigit()):
        raise PatternError(f'bad mask value in "{address}/{mask}"')
    length = int(mask) if slash else bits
    if length > bits:
        raise PatternError(f'bad mask length in "{address}/{mask}"')
    try:
        number = int.from_bytes(socket.inet_pton(family, address))
    except OSError:
        text = f'bad network value in "{address}/{mask}"' if slash else f'bad address pattern: "{address}"'
        raise PatternError(text) from None
    network = number >> (bits - length)
    cleared = network << (bits - length)
    if cleared != number:
        right = socket.inet_ntop(family, cleared.to_bytes(bits // 8))
        raise PatternError(
            f'non-null host address bits in "{address}/{mask}", perhaps you should use "{right}/{length}" instead'
        )
    return Network(bits, length, network)


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("/")[0])
    except OSError:
        return False
    return True
