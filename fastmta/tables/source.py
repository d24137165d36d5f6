"""Tables that are compiled from one text file and held in memory, and how a changed file is taken up.

A type subclasses FileTable and gives compile(), which makes the rules from the file's text. refresh() compiles a file
that changed and swaps the rules in one assignment: a lookup sees the old ones or the new ones. A file that cannot be
read leaves the old ones, with one warning. Also what is common to text tables: values that are names of files
(from_file, postmap -F: the value is the content in base64), and the rule for keys that are no UTF-8.

Used by tables/types. Raises TableError while opening and nothing later. dict_file(3), dict_utf8(3).
"""

from __future__ import annotations

import base64
import os
from abc import abstractmethod
from pathlib import Path

from fastmta.config.lines import LogicalLine, logical_lines
from fastmta.config.values import inside_braces, to_list
from fastmta.tables.lookup import Context, Flags, Table, TableError

Stamp = tuple[int, int, int, int]


def fold_key(table: str, key: str, fold: bool, flags: Flags, context: Context) -> str | None:
    """The key as a table looks it up, or None, with a warning, for one that is no UTF-8 where it must be."""
    if key.isascii():
        return key.lower() if fold else key
    if flags.utf8:
        try:
            key.encode()
        except UnicodeEncodeError:
            context.warn(f'{table}: non-UTF-8 key "{printable(key)}": malformed UTF-8 or invalid codepoint')
            return None
        return key.casefold() if fold else key
    return "".join(c.lower() if c.isascii() else c for c in key) if fold else key


def printable(text: str) -> str:
    """Text for the log: "?" for what is not printable, as printable(3)."""
    return "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else "?" for c in text)


def to_bytes(text: str) -> bytes:
    """A key or value as it is on the wire."""
    return text.encode("utf-8", "surrogateescape")


def read_value(value: str) -> str | tuple[str, None]:
    """The files that a value names, joined with newlines, in base64; or what is wrong, and None."""
    names = to_list(value)
    if not names:
        return f"empty pathname list: >>{value}<<'", None
    parts: list[bytes] = []
    for name in names:
        try:
            parts.append(Path(name).read_bytes())
        except OSError as error:
            return f"open {name}: {error.strerror}", None
    return base64.b64encode(b"\n".join(parts)).decode()


class FileTable(Table):
    """A table in a text file: compile() makes the rules, which get() of the subclass reads."""

    opening = "open {path}: {reason}"
    inline = False  # the rules may stand in the name: kind:{{rule}, {rule}}

    def __init__(self, kind: str, path: str, flags: Flags, context: Context) -> None:
        """Read it. Raises TableError in Postfix's words where it is not readable."""
        self.name = f"{kind}:{path}"
        self.kind = kind
        self.path = path
        self.flags = flags
        self.context = context
        self._seen: Stamp | None = None
        self._in_name = self.inline and path.startswith("{")
        self._warned = ""
        try:
            self._load()
        except OSError as error:
            raise TableError(self.opening.format(path=path, reason=error.strerror)) from None

    @abstractmethod
    def compile(self, lines: list[LogicalLine]) -> None:
        """Make new rules of the lines and set them in one assignment."""

    def warn(self, line: int, text: str) -> None:
        """Tell the log what is wrong with a line."""
        self.context.warn(f"{self.kind} map {self.path}, line {line}: {text}")

    def _load(self) -> None:
        if self._in_name:
            text = _inline_text(self.kind, self.path)
        else:
            with open(self.path, "rb") as file:
                status = os.fstat(file.fileno())
                text = file.read().decode("utf-8", "surrogateescape")
            self._seen = stamp(status)
        warnings: list[str] = []
        lines = list(logical_lines(text, self.path, warnings))
        for warning in warnings:
            self.context.warn(warning)
        self.compile(lines)

    def refresh(self) -> bool:
        """Compile the file again if it changed; the old rules stay where it is not readable."""
        if self._in_name:
            return False
        try:
            if stamp(os.stat(self.path)) == self._seen:  # noqa: PTH116
                return False
            self._load()
        except Exception as error:  # a fault of ours must not stop lookups either
            text = str(error.strerror) if isinstance(error, OSError) else repr(error)
            if text != self._warned:
                self._warned = text
                self.context.warn(f"{self.name}: not taken up, the old contents stay: {text}")
            return False
        self._warned = ""
        return True

    def close(self) -> None:
        """Nothing is held open."""


def _inline_text(kind: str, name: str) -> str:
    """The rules in a table's name, a line each (dict_stream(3)). Raises TableError."""
    try:
        return "\n".join(map(inside_braces, to_list(inside_braces(name))))
    except ValueError as error:
        raise TableError(f"{kind} map: {error}") from None


def stamp(status: os.stat_result) -> Stamp:
    """What tells one state of a file from another."""
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns
