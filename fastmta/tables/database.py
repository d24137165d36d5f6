"""What all tables that ask a database server have in common: options, the check of a key, the result of values.

A type makes a QueryTable of its options and gives it `ask`, that answers a key with values. Called by tables/types.

Postfix manual: mysql_table(5) and its kin.
"""

from __future__ import annotations

import ssl
from abc import abstractmethod
from collections.abc import Iterable
from typing import Final

from fastmta.config.values import to_list
from fastmta.tables.lookup import Context, Flags, TableError
from fastmta.tables.query import DomainList, Options, Templates, fold, is_searchable
from fastmta.tables.remote import Host, RemoteTable, parse_host

IDLE_INTERVAL: Final = 60
RETRY_INTERVAL: Final = 60


class QueryTable(RemoteTable):
    """A table with options, that makes queries of keys and a result of values."""

    def __init__(self, kind: str, name: str, flags: Flags, context: Context) -> None:
        """Reads the options that all such tables have; the type reads its own and then calls options.finish()."""
        super().__init__(f"{kind}:{name}", flags, context)
        self.options = Options(kind, name, context)
        limit = self.options.number("expansion_limit", 0)
        self.templates = Templates(self.name, context, self.result_format(), limit)
        self._domains = DomainList(self.options.text("domain"), context)

    def result_format(self) -> str:
        """The option; LDAP has an older name for it, too."""
        return self.options.result_format()

    @abstractmethod
    async def ask(self, key: str) -> Iterable[str | None]:
        """The values of a key, none where there are none. Raises TempFail."""

    async def fetch(self, key: str) -> str | None:
        """Check the key, ask, make the result. Raises TempFail."""
        key = self.folded(key)
        if not is_searchable(key) or not await self._domains.admits(key):
            return None
        return self.templates.gather(await self.ask(key), key)

    def folded(self, key: str) -> str:
        """The key as it is looked up."""
        return fold(key, self._flags.utf8) if self._flags.fold_fixed else key

    def intervals(self) -> tuple[float, float]:
        """idle_interval and retry_interval (Postfix 3.9), in seconds."""
        idle = self.options.number("idle_interval", IDLE_INTERVAL, 1)
        return idle, self.options.number("retry_interval", RETRY_INTERVAL, 1)

    def hosts(self, port: int, default: str = "localhost") -> list[Host]:
        """The option hosts."""
        return [parse_host(text, port) for text in to_list(self.options.text("hosts")) or (default,)]

    def close(self) -> None:
        """No more lookups; a type closes its connections as well."""
        self._domains.close()


def tls_context(options: Options, *, always: bool = False) -> ssl.SSLContext | None:
    """TLS as tls_cert_file, tls_key_file, tls_CAfile, tls_CApath, tls_verify_cert and tls_ciphers say; None without.

    Raises TableError. always: also where none of the files is set.
    """
    cert, key = options.text("tls_cert_file"), options.text("tls_key_file")
    cafile, capath = options.text("tls_CAfile"), options.text("tls_CApath")
    verify, ciphers = options.flag("tls_verify_cert", False), options.text("tls_ciphers")
    if not (always or cert or key or cafile or capath or verify or ciphers):
        return None
    try:
        context = ssl.create_default_context(cafile=cafile or None, capath=(not cafile and capath) or None)
        context.check_hostname = verify
        context.verify_mode = ssl.CERT_REQUIRED if verify else ssl.CERT_NONE
        if cert or key:
            context.load_cert_chain(cert or key, key or None)
        if ciphers:
            context.set_ciphers(ciphers)
    except (OSError, ssl.SSLError) as error:
        raise TableError(f"{options.source}: TLS options: {error}") from None
    return context
