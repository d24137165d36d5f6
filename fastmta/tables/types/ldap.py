"""ldap: a search in a directory, with ldap3 (extra `ldap`) in threads of the table's own.

Called through tables.lookup. Each value of the result attributes of each entry found is a value. Values of a special
result attribute are DNs or LDAP URLs, and what they lead to is taken in, at most recursion_limit deep; an entry with
one gives nothing of its leaf attributes, and one that has a terminal attribute gives only that.

Differs from Postfix: protocol version 3 always; bind = sasl only with EXTERNAL and DIGEST-MD5; no TLS random file. A
server that failed is left alone for some seconds.

Postfix manual: ldap_table(5). RFC 4511, RFC 4515 (what is quoted in a filter), RFC 4516 (URLs).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from fastmta.config.values import to_list
from fastmta.tables.database import QueryTable
from fastmta.tables.lookup import Context, Flags, Table, TableError, TempFail
from fastmta.tables.query import Options, to_text
from fastmta.tables.remote import CONNECTIONS, Host, Lost, Refused, Servers, client_library, parse_host

_PORT: Final = 389
_TLS_PORT: Final = 636
_RETRY: Final = 5.0
_SUCCESS: Final = 0
_SIZE_LIMIT_EXCEEDED: Final = 4
_REFERRAL: Final = 10
_NO_SUCH_OBJECT: Final = 32
# Busy, unavailable, and (of the library's own) server down
_TROUBLE: Final = (51, 52, 81)
_SCOPES: Final = {"sub": "SUBTREE", "one": "LEVEL", "base": "BASE"}
_DEREFERENCE: Final = ("NEVER", "SEARCH", "BASE", "ALWAYS")
_IN_FILTER: Final = str.maketrans({"\\": "\\5c", "*": "\\2a", "(": "\\28", ")": "\\29", "\0": "\\00"})
_IN_DN: Final = str.maketrans({character: "\\" + character for character in '\\",+<>;#='})


def open_(name: str, flags: Flags, context: Context) -> Table:
    """Open ldap:name. Raises TableError."""
    return LdapTable(name, flags, context)


def quote_filter(text: str) -> str:
    """Text for a value in a filter (RFC 4515)."""
    return text.translate(_IN_FILTER)


def quote_dn(text: str) -> str:
    """Text for a value in a distinguished name (RFC 4514)."""
    quoted = text.translate(_IN_DN)
    if quoted.endswith(" "):
        quoted = quoted[:-1] + "\\ "
    return "\\" + quoted if quoted.startswith(" ") else quoted


class _Search(msgspec.Struct, frozen=True):
    """What is searched for; an empty filter means any entry; is_base: the base must be there: it is of no key."""

    base: str
    scope: str
    filter: str
    attributes: tuple[str, ...]
    is_base: bool = False


class _Attributes(msgspec.Struct, frozen=True):
    """The attributes by their use, in lower case."""

    result: tuple[str, ...]
    special: tuple[str, ...]
    leaf: tuple[str, ...]
    terminal: tuple[str, ...]

    def all(self) -> tuple[str, ...]:
        return self.terminal + self.leaf + self.result + self.special


_Entry = dict[str, list[bytes]]


class _Link:
    """One connection of ldap3; search() runs in a thread."""

    def __init__(self, connection: Any, pool: ThreadPoolExecutor) -> None:
        self.connection = connection
        self.pool = pool

    def close(self) -> None:
        """Closing waits for nothing, but a search that still runs has the connection."""
        try:
            self.pool.submit(self.connection.strategy.close)
        except RuntimeError:  # the table was closed before
            self.connection.strategy.close()


class LdapTable(QueryTable):
    """One search, and the servers that it goes to."""

    def __init__(self, name: str, flags: Flags, context: Context) -> None:
        """Raises TableError."""
        super().__init__("ldap", name, flags, context)
        options = self.options
        self._ldap3 = client_library("ldap3", "ldap")
        self._base = self.templates.query(options.required("search_base"))
        self._is_base_of_key = any(part.startswith("%") and part != "%%" for part in self._base)
        self._filter = self.templates.query(options.text("query_filter", "(mailacceptinggeneralid=%s)"))
        self._attributes = _Attributes(
            _names(options, "result_attribute", "maildrop"),
            _names(options, "special_result_attribute"),
            _names(options, "leaf_result_attribute"),
            _names(options, "terminal_result_attribute"),
        )
        scope = options.text("scope", "sub")
        if scope not in _SCOPES:
            raise TableError(f"{self.name}: Unrecognized value {scope} specified for scope")
        self._scope = _SCOPES[scope]
        self._timeout = options.number("timeout", 10, 1)
        self._recursion_limit = options.number("recursion_limit", 1000, 1)
        self._size_limit = options.number("size_limit", options.number("expansion_limit", 0))
        self._dereference = _DEREFERENCE[options.number("dereference", 0, 0, 3)]
        self._referrals = options.flag("chase_referrals", False)
        if options.number("version", 3, 2, 3) == 2:
            context.warn(f"{self.name}: version = 2: protocol version 3 is spoken")
        self._login = self._bind_settings()
        self._start_tls = options.flag("start_tls", False)
        self._tls = self._tls_settings()
        for obsolete in ("cache", "cache_expiry", "cache_size", "debuglevel"):
            options.unsupported(obsolete, "it does nothing")
        port = options.number("server_port", _PORT, 1, 65535)
        hosts = [_host(text, port) for text in to_list(options.text("server_host", "localhost"))]
        options.finish()
        self._pool = ThreadPoolExecutor(CONNECTIONS, "ldap")
        trouble = self._ldap3.core.exceptions
        self._servers: Servers[_Link] = Servers(
            self.name,
            hosts,
            self._connect,
            context,
            errors=(trouble.LDAPExceptionError,),
            timeout=self._timeout + 1,
            retry=_RETRY,
            in_order=True,
        )

    def result_format(self) -> str:
        """result_format, or result_filter as it was called before."""
        old = self.options.find("result_filter")
        new = self.options.find("result_format")
        return "%s" if new is None and old is None else new if new is not None else old or "%s"

    def _bind_settings(self) -> dict[str, Any]:
        options, ldap3 = self.options, self._ldap3
        method = options.text("bind", "yes")
        name, password = options.text("bind_dn"), options.text("bind_pw")
        mechanisms, realm = to_list(options.text("sasl_mechs")), options.text("sasl_realm")
        authorized = options.text("sasl_authz_id")
        options.unsupported("sasl_minssf", "use TLS")
        if method == "sasl":
            for mechanism in mechanisms:
                if mechanism.upper() == "EXTERNAL":
                    return {"authentication": ldap3.SASL, "sasl_mechanism": "EXTERNAL", "sasl_credentials": authorized}
                if mechanism.upper() == "DIGEST-MD5":
                    credentials = (realm or None, name, password, authorized or None)
                    return {
                        "authentication": ldap3.SASL,
                        "sasl_mechanism": "DIGEST-MD5",
                        "sasl_credentials": credentials,
                    }
            raise TableError(f"{self.name}: bind = sasl: sasl_mechs must have EXTERNAL or DIGEST-MD5")
        if method not in ("yes", "simple", "no", "none"):
            raise TableError(f"{self.name}: bad value for bind: {method}")
        if method in ("no", "none") or not name:
            return {"authentication": ldap3.ANONYMOUS}
        return {"authentication": ldap3.SIMPLE, "user": name, "password": password}

    def _tls_settings(self) -> Any:
        options = self.options
        options.unsupported("tls_random_file", "the system's source of random bits is used")
        settings = {
            "local_private_key_file": options.text("tls_key") or None,
            "local_certificate_file": options.text("tls_cert") or None,
            "ca_certs_file": options.text("tls_ca_cert_file") or None,
            "ca_certs_path": options.text("tls_ca_cert_dir") or None,
            "ciphers": options.text("tls_cipher_suite") or None,
        }
        required = options.flag("tls_require_cert", False)
        try:
            return self._ldap3.Tls(validate=ssl.CERT_REQUIRED if required else ssl.CERT_NONE, **settings)
        except self._ldap3.core.exceptions.LDAPExceptionError as error:
            raise TableError(f"{self.name}: TLS options: {error}") from None

    async def _connect(self, host: Host) -> _Link:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._open, host)

    def _open(self, host: Host) -> _Link:
        ldap3 = self._ldap3
        uri = f"ldapi://{host.path}" if host.path else host.name
        is_tls = host.text.startswith("ldaps:")
        server = ldap3.Server(
            uri,
            port=None if host.path else host.port,
            use_ssl=is_tls,
            tls=None if host.path else self._tls,
            get_info=ldap3.NONE,
            connect_timeout=self._timeout,
        )
        connection = ldap3.Connection(
            server,
            client_strategy=ldap3.SYNC,
            receive_timeout=self._timeout,
            auto_referrals=self._referrals,
            raise_exceptions=False,
            read_only=True,
            check_names=False,
            **self._login,
        )
        try:
            connection.open()
            if self._start_tls and not connection.start_tls():
                raise Lost(f"STARTTLS: {connection.result['description']}")
            if not connection.bind():
                raise Lost(f"Unable to bind: {connection.result['description']}")
        except BaseException:
            if connection.socket is not None:
                connection.socket.close()
            raise
        return _Link(connection, self._pool)

    async def ask(self, key: str) -> Iterable[str | None]:
        """The values. Raises TempFail."""
        base = self.templates.expand_key(self._base, key, quote_dn)
        wanted = self.templates.expand_key(self._filter, key, quote_filter)
        if base is None or wanted is None:
            return ()
        values: list[bytes] = []
        search = _Search(base, self._scope, wanted, self._attributes.all(), not self._is_base_of_key)
        await self._follow(search, values, 0)
        return [to_text(value, self.name, self._flags) for value in values]

    async def _follow(self, search: _Search, values: list[bytes], depth: int) -> None:
        """Gather the values of a search, and of the searches that special attributes ask for."""
        attributes = self._attributes
        for entry in await self._servers.use(lambda link: self._search(link, search)):
            has_terminal = any(entry.get(name) for name in attributes.terminal)
            has_special = any(entry.get(name) for name in attributes.special)
            taken = (
                attributes.terminal if has_terminal else attributes.result + (() if has_special else attributes.leaf)
            )
            for name, found in entry.items():  # in the server's order
                if name in taken:
                    values.extend(found)
                elif name in attributes.special and not has_terminal:
                    for place in found:
                        await self._descend(place, values, depth)

    async def _descend(self, place: bytes, values: list[bytes], depth: int) -> None:
        if depth >= self._recursion_limit:
            self._context.warn(f"{self.name}: Recursion limit exceeded")
            raise TempFail(f"{self.name}: recursion limit exceeded")
        await self._follow(self._linked(place.decode("utf-8", "replace")), values, depth + 1)

    def _linked(self, place: str) -> _Search:
        """What a DN or an LDAP URL leads to."""
        if not place.lower().startswith(("ldap://", "ldaps://", "ldapi://")):
            return _Search(place, "BASE", "", self._attributes.all())
        url = urlsplit(place)
        attributes, scope, wanted = [*(unquote(part) for part in url.query.split("?", 3)), "", "", ""][:3]
        names = tuple(name.lower() for name in attributes.split(",") if name) or self._attributes.all()
        return _Search(unquote(url.path[1:]), _SCOPES.get(scope or "base", "BASE"), wanted, names)

    async def _search(self, link: _Link, search: _Search) -> list[_Entry]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._search_now, link.connection, search)
        except (
            self._ldap3.core.exceptions.LDAPInvalidFilterError,
            self._ldap3.core.exceptions.LDAPInvalidDnError,
        ) as error:
            raise Refused(str(error)) from None

    def _search_now(self, connection: Any, search: _Search) -> list[_Entry]:
        connection.search(
            search.base,
            search.filter or "(objectClass=*)",
            search_scope=search.scope,
            dereference_aliases=self._dereference,
            attributes=list(search.attributes) or None,
            size_limit=self._size_limit,
            time_limit=self._timeout,
        )
        code = connection.result["result"]
        if code == _NO_SUCH_OBJECT:
            if search.is_base:
                raise Refused(f"Search base '{search.base}' not found")
            return []
        if code == _SIZE_LIMIT_EXCEEDED:
            raise Refused("size_limit exceeded")
        if code in _TROUBLE:
            raise Lost(connection.result["description"])
        if code not in (_SUCCESS, _REFERRAL):
            raise Refused(f"search error {code}: {connection.result['description']}")
        entries: list[_Entry] = []
        for item in connection.response or ():
            if item["type"] == "searchResEntry":
                entries.append({name.lower(): list(found) for name, found in item["raw_attributes"].items()})
        return entries

    def close(self) -> None:
        """No more lookups."""
        super().close()
        self._servers.close()
        self._pool.shutdown(wait=False)


def _names(options: Options, name: str, default: str = "") -> tuple[str, ...]:
    return tuple(word.lower() for word in to_list(options.text(name, default)))


def _host(text: str, port: int) -> Host:
    """A URL, or a name with or without a port."""
    kind, separator, rest = text.partition("://")
    if not separator:
        return parse_host(text, port)
    rest = rest.rstrip("/")
    if kind == "ldapi":
        return Host(text, path=unquote(rest))
    if kind not in ("ldap", "ldaps"):
        raise TableError(f"bad LDAP URL: {text}")
    host = parse_host(rest or "localhost", _TLS_PORT if kind == "ldaps" else _PORT)
    return Host(text, name=host.name, port=host.port)
