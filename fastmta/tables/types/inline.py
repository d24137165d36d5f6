"""inline: a table written out in its name: inline:{ key=value, { key = text with spaces } } (inline_table(5))."""

from __future__ import annotations

from fastmta.config.lines import split_name_value
from fastmta.tables.lookup import Context, Flags, Table, TableError
from fastmta.tables.memory import MappingTable, members, unbraced
from fastmta.tables.source import fold_key, read_value

_NEED = "inline:{name=value...}"


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open inline:name. Raises TableError. The last of several values of a key counts."""
    title = f"inline:{name}"
    entries: dict[str, str] = {}
    for item in members("inline", name, "name=value"):
        text = unbraced(item, title, _NEED)
        pair = ("", text[1:]) if text.startswith("=") else split_name_value(text)
        if isinstance(pair, str):
            raise TableError(f'{pair}: "{title}"; need "{_NEED}"')
        key, value = pair
        if flags.from_file:
            content = read_value(value)
            if isinstance(content, tuple):
                raise TableError(f"{title}: {content[0]}")
            value = content
        folded = fold_key(title, key, flags.fold_fixed, flags, context)
        if folded is not None:
            entries[folded] = value
    return MappingTable(title, entries, flags, context)
