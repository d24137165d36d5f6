"""texthash: a table in memory, read from the text that postmap would compile (DATABASE_README, postmap(1))."""

from __future__ import annotations

from collections.abc import Iterator

from fastmta.config.lines import WHITESPACE, LogicalLine
from fastmta.tables.lookup import Context, Flags, Table
from fastmta.tables.source import FileTable, fold_key, read_value


class TexthashTable(FileTable):
    """One open table."""

    opening = "open database {path}: {reason}"

    def get(self, key: str) -> str | None:
        """The value of a key."""
        folded = fold_key(self.name, key, self.flags.fold_fixed, self.flags, self.context)
        return None if folded is None else self._entries.get(folded)

    def sequence(self) -> Iterator[tuple[str, str]]:
        """In the file's order."""
        return iter(self._entries.items())

    def warn(self, line: int, text: str) -> None:
        """Tell the log what is wrong with a line."""
        self.context.warn(f"{self.path}, line {line}: {text}")

    def compile(self, lines: list[LogicalLine]) -> None:
        """All lines; of several values of a key the first counts."""
        entries: dict[str, str] = {}
        for number, text in lines:
            key, value = _split(text)
            if value is None:
                self.warn(number, f"unbalanced '\"' in '{text}' -- ignoring this line")
                continue
            if not key or not value:
                self.warn(number, "expected format: key whitespace value -- ignoring this line")
                continue
            if key.endswith(":"):
                self.warn(number, 'record is in "key: value" format; is this an alias file?')
            folded = fold_key(self.name, key, self.flags.fold_fixed, self.flags, self.context)
            if folded is None:
                continue
            if self.flags.from_file:
                content = read_value(value)
                if isinstance(content, tuple):
                    self.warn(number, f"{content[0]}: ignoring this entry")
                    continue
                value = content
            if folded in entries:
                self.warn(number, f'duplicate entry: "{key}"')
            entries.setdefault(folded, value)
        self._entries = entries


def _split(text: str) -> tuple[str, str | None]:
    """Key and value; blanks between quotes are part of the key, as are the quotes. None: a quote is not closed."""
    at, quoted = 0, False
    while at < len(text) and (quoted or text[at] not in WHITESPACE):
        if text[at] == "\\":
            at += 1
        elif text[at] == '"':
            quoted = not quoted
        at += 1
    return text[:at], None if quoted else text[at:].strip(WHITESPACE)


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open texthash:name. Raises TableError."""
    return TexthashTable("texthash", name, flags, context)
