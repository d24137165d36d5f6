"""What tables that query a database share: their options, and %s in queries and results.

Options come from a file (`mysql:/etc/postfix/mysql.cf`, name = value a line) or from main.cf (`mysql:NAME` with
parameters NAME_option). An option of a file that nobody asked for is warned about, never passed over in silence.

    %s the key    %u its local part    %d its domain    %1 .. %9 labels of its domain, from the right    %% a "%"
    in a result template, %s %u %d are of the value found, and %S %U %D and %1 .. %9 of the key

A key that lacks what a template wants (a domain, enough labels) is not looked up. Called by the modules of
tables/types. Raises TableError while opening. Postfix manual: mysql_table(5) and its kin, db_common(3), cfg_parser(3).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from fastmta.config.errors import ConfigError
from fastmta.config.lines import logical_lines, read_text, split_name_value
from fastmta.config.values import to_list
from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail, open_table

Quote = Callable[[str], str]

_ASCII_LOWER: Final = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_MAX_FILE_DEPTH: Final = 10


class Options:
    """The options of one table. Every one is asked for by name; finish() warns about those nobody asked for."""

    def __init__(self, kind: str, name: str, context: Context) -> None:
        """kind: the table's type, for messages; name: a file (it begins with "/" or ".") or a prefix in main.cf."""
        self.source = name
        self._context = context
        self._kind = kind
        self._file: dict[str, str] | None = None
        self._asked: set[str] = set()
        if name.startswith(("/", ".")):
            self._file = self._read(Path(name))

    def _read(self, path: Path) -> dict[str, str]:
        warnings: list[str] = []
        found: dict[str, str] = {}
        try:
            text = read_text(path)
        except ConfigError as error:
            raise TableError(f"{self._kind}:{error.message}") from None
        for line, content in logical_lines(text, str(path), warnings):
            pair = split_name_value(content)
            if isinstance(pair, str):
                raise TableError(f'{path}, line {line}: {pair}: "{content}"')
            if pair[0] in found:
                warnings.append(f'{path}, line {line}: duplicate entry for "{pair[0]}"')
            found[pair[0]] = pair[1]
        for warning in warnings:
            self._context.warn(warning)
        return found

    def find(self, name: str) -> str | None:
        """The text of an option, None where it is not set."""
        self._asked.add(name)
        if self._file is not None:
            return self._file.get(name)
        try:
            return self._context.parameters.get_str(f"{self.source}_{name}")
        except KeyError:
            return None
        except ConfigError as error:
            raise TableError(str(error)) from None

    def text(self, name: str, default: str = "") -> str:
        """The text of an option."""
        value = self.find(name)
        return default if value is None else value

    def required(self, name: str) -> str:
        """The text of an option that must be there."""
        value = self.text(name)
        if not value:
            raise TableError(f"{self._kind}:{self.source}: bad string length 0 < 1: {name} =")
        return value

    def result_format(self) -> str:
        """result_format, which must not be empty where it is set."""
        return "%s" if self.find("result_format") is None else self.required("result_format")

    def number(self, name: str, default: int, low: int = 0, high: int = 0) -> int:
        """A whole number, at least low, and at most high where that is not 0."""
        value = self.find(name)
        if value is None:
            return default
        if not re.fullmatch(r"\s*[-+]?[0-9]+\s*", value, re.ASCII):
            raise TableError(f"{self._kind}:{self.source}: bad numerical configuration: {name} = {value}")
        number = int(value)
        if number < low or (high and number > high):
            bound = f"< {low}" if number < low else f"> {high}"
            raise TableError(f"{self._kind}:{self.source}: invalid {name} parameter value {number} {bound}")
        return number

    def flag(self, name: str, default: bool) -> bool:
        """yes or no."""
        value = self.find(name)
        if value is None:
            return default
        if value.lower() not in ("yes", "no"):
            raise TableError(f"{self._kind}:{self.source}: bad boolean configuration: {name} = {value}")
        return value.lower() == "yes"

    def unsupported(self, name: str, reason: str) -> None:
        """Warn where an option is set that does nothing here."""
        if self.find(name):
            self._context.warn(f"{self._kind}:{self.source}: option {name} has no effect here: {reason}")

    def finish(self) -> None:
        """All options were asked for: what is left in the file is not known."""
        for name in self._file or ():
            if name not in self._asked:
                self._context.warn(f"{self._kind}:{self.source}: unknown option {name} is ignored")


def sql_query(options: Options, *, function: bool = False) -> str:
    """The query of an SQL table: `query`, or what the options from before Postfix 2.2 make (function: of pgsql)."""
    query = options.find("query")
    old = {name: options.find(name) for name in ("select_field", "table", "where_field", "additional_conditions")}
    select_function = options.find("select_function") if function else None
    if query is not None:
        return query
    if select_function is not None:
        return f"SELECT {select_function}('%s')"
    for name in ("select_field", "table", "where_field"):
        options.required(name)
    extra = old["additional_conditions"] or ""
    return f"SELECT {old['select_field']} FROM {old['table']} WHERE {old['where_field']}='%s' {extra}"


class Templates:
    """The templates of one table: those that make a query of a key, and the one that makes a result of a value.

    What one of them wants of the key, all of them want: a key that the result template cannot use is not looked up.
    """

    def __init__(self, name: str, context: Context, result: str = "%s", limit: int = 0) -> None:
        """name: of the table, for messages; limit: expansion_limit, 0 for none."""
        self._name = name
        self._warn = context.warn
        self._limit = limit
        self._key_user = self._key_domain = False
        self._labels = 0
        self._value_user = self._value_domain = False
        self._result = self._parse(result, "result")

    def query(self, template: str) -> tuple[str, ...]:
        """Take in a query template: text, and "%x" for what is to be put in."""
        return self._parse(template, "query")

    def _parse(self, template: str, what: str) -> tuple[str, ...]:
        parts: list[str] = []
        for piece in re.split(r"(%.?)", template, flags=re.DOTALL):
            if not piece.startswith("%"):
                parts.append(piece)
                continue
            code = piece[1:]
            if code == "%":
                parts.append("%%")
                continue
            if not code or code not in "suSUdD123456789":
                raise TableError(f"{self._name}: Invalid {what} template: {template}")
            of_value = what == "result" and code in "ud"
            if code.isdigit():
                self._labels = max(self._labels, int(code))
                self._key_domain = True
            elif of_value:
                self._value_user |= code == "u"
                self._value_domain |= code == "d"
            else:
                self._key_user |= code in "uU"
                self._key_domain |= code in "dD"
            parts.append(piece)
        return tuple(part for part in parts if part)

    def _key_parts(self, key: str) -> tuple[str, str | None, list[str]] | None:
        """Local part, domain and labels of a key; None where it lacks what the templates want."""
        local, domain = _split(key)
        if (self._key_domain and not domain) or (self._key_user and domain is not None and not local):
            return None
        labels = [label for label in (domain or "").split(".") if label] if self._labels else []
        return None if len(labels) < self._labels else (local, domain, labels)

    def expand_key(self, parts: tuple[str, ...], key: str, quote: Quote) -> str | None:
        """The query for a key, None where the key is not to be looked up."""
        if not key:
            self._warn(f'table "{self._name}": empty query string -- ignored')
            return None
        known = self._key_parts(key)
        if known is None:
            return None
        return _fill(parts, (key, *known[:2]), (key, *known[:2]), known[2], quote)

    def gather(self, values: Iterable[str | None], key: str) -> str | None:
        """The result for the values found, with commas between them. Raises TempFail over expansion_limit."""
        results: list[str] = []
        known = self._key_parts(key)
        for value in values:
            if value is None or known is None:
                continue
            if not value:
                self._warn(f'table "{self._name}": empty lookup result for: "{key}" -- ignored')
                continue
            local, domain = _split(value)
            if (self._value_domain and not domain) or (self._value_user and domain is not None and not local):
                continue
            results.append(_fill(self._result, (value, local, domain), (key, *known[:2]), known[2], str))
            if 0 < self._limit < len(results):
                self._warn(f"{self._name}: Expansion limit exceeded for key: '{key}'")
                raise TempFail(f"{self._name}: expansion limit exceeded for key '{key}'")
        return ",".join(results) or None


def _split(address: str) -> tuple[str, str | None]:
    """Local part and domain; the whole and None where there is no "@"."""
    local, at, domain = address.rpartition("@")
    return (local, domain) if at else (address, None)


_Parts = tuple[str, str, str | None]


def _fill(parts: tuple[str, ...], value: _Parts, key: _Parts, labels: list[str], quote: Quote) -> str:
    made: list[str] = []
    for part in parts:
        code = part[1:] if part.startswith("%") else ""
        if not code:
            made.append(part)
        elif code == "%":
            made.append("%")
        elif code.isdigit():
            made.append(quote(labels[-int(code)]))
        else:
            source = value if code.islower() else key
            made.append(quote(source["sud".index(code.lower())] or ""))
    return "".join(made)


class DomainList:
    """The option `domain`: names, /files and type:name tables; only addresses in a domain of the list are looked up."""

    def __init__(self, text: str, context: Context) -> None:
        """Raises TableError for what cannot be opened."""
        self._items: list[tuple[bool, str | Table]] = []
        self._gather(to_list(text), True, context, 0)

    def _gather(self, words: Iterable[str], answer: bool, context: Context, depth: int) -> None:
        for word in words:
            bare = word.lstrip("!")
            says = answer ^ bool((len(word) - len(bare)) & 1)
            if bare.startswith("/"):
                if depth >= _MAX_FILE_DEPTH:
                    raise TableError(f"{bare}: files of domains name each other in a circle")
                try:
                    text = read_text(Path(bare))
                except ConfigError as error:
                    raise TableError(error.message) from None
                for line in text.split("\n"):
                    if not line.lstrip().startswith("#"):
                        self._gather(to_list(line), says, context, depth + 1)
            elif ":" in bare:
                self._items.append((says, open_table(bare, context)))
            elif bare:
                self._items.append((says, bare.lower()))

    @property
    def is_local(self) -> bool:
        """Whether admits_now() can answer."""
        return all(isinstance(item, str) or item.is_local for _, item in self._items)

    async def admits(self, key: str) -> bool:
        """Whether a key may be looked up. Raises TempFail."""
        if not self._items:
            return True
        local, domain = _split(key.lower())
        if not domain or not local:
            return False
        for says, item in self._items:
            if item == domain if isinstance(item, str) else await item.fetch(domain) is not None:
                return says
        return False

    def admits_now(self, key: str) -> bool:
        """The same where all tables are local."""
        if not self._items:
            return True
        local, domain = _split(key.lower())
        if not domain or not local:
            return False
        for says, item in self._items:
            if item == domain if isinstance(item, str) else item.get(domain) is not None:
                return says
        return False

    def close(self) -> None:
        """No more lookups."""
        for _, item in self._items:
            if not isinstance(item, str):
                item.close()


def fold(key: str, utf8: bool) -> str:
    """A key lowercased: by Unicode's rules where keys are UTF-8."""
    return key.casefold() if utf8 else key.translate(_ASCII_LOWER)


def is_searchable(key: str) -> bool:
    """Whether a database can be asked for a key: not where it is no UTF-8, or has a null byte, which no address has."""
    return "\0" not in key and not any("\ud800" <= character <= "\udfff" for character in key)


def to_text(value: bytes, name: str, flags: Flags) -> str:
    """A value that came as bytes. Raises TempFail where it must be UTF-8 and is not, as Postfix has it."""
    try:
        return value.decode("utf-8", "strict" if flags.utf8 else "surrogateescape")
    except UnicodeDecodeError:
        raise TempFail(f"{name}: non-UTF-8 value") from None
