"""proxy: the table that is named after it, proxy:type:name. Here it is opened in the process that asks.

Postfix sends such lookups to its proxymap server, which saves connections and reads what a chroot cannot; a table has
few connections here as it is. What may be read through it is checked as there: proxy_read_maps lists proxy:type:name. A
table that is not in the list answers TempFail to every lookup, and says so once. Called through tables.lookup.

Postfix manual: proxymap(8).
"""

from __future__ import annotations

from fastmta.config.values import to_list
from fastmta.tables.lookup import Context, Flags, Table, TempFail, open_table


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open proxy:type:name. Raises TableError of the table inside."""
    try:
        allowed = to_list(context.parameters.get_str("proxy_read_maps"))
    except KeyError:
        allowed = ()
    if f"proxy:{name}" not in allowed:
        return RefusedTable(name, context)
    return ProxyTable(name, open_table(name, context, flags))


class RefusedTable(Table):
    """A table that proxy_read_maps does not allow: TempFail, as from proxymap(8)."""

    def __init__(self, name: str, context: Context) -> None:
        """Warns."""
        self.name = f"proxy:{name}"
        context.warn(
            f'request for unapproved table: "{name}": to approve this table for read-only access, list proxy:{name} '
            "in main.cf:proxy_read_maps"
        )

    def get(self, key: str) -> str | None:
        """TempFail."""
        raise TempFail(f"{self.name}: not approved in proxy_read_maps")

    def close(self) -> None:
        """Nothing to do."""


class ProxyTable(Table):
    """The table inside, under its proxy: name."""

    def __init__(self, name: str, inside: Table) -> None:
        """Owns the table inside."""
        self.name = f"proxy:{name}"
        self._inside = inside
        self.is_local = inside.is_local
        self.is_pattern = inside.is_pattern

    def get(self, key: str) -> str | None:
        """Of the table inside."""
        return self._inside.get(key)

    async def fetch(self, key: str) -> str | None:
        """Of the table inside."""
        return await self._inside.fetch(key)

    def refresh(self) -> bool:
        """Of the table inside."""
        return self._inside.refresh()

    def close(self) -> None:
        """Of the table inside."""
        self._inside.close()
