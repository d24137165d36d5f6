"""Which parameters a table that is configured in main.cf has: TABLE_option for each option of its type.

    alias_maps = ldap:accounts          means that accounts_server_host, accounts_search_base ... are used

Called for each value by report.py and by postconf, so that such parameters are not reported as unused; options in a
file of the table's own that its type does not have are. See ldap_table(5), mysql_table(5) and so on.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastmta.config.errors import ConfigError
from fastmta.config.lines import read_text
from fastmta.config.maincf import parse_main_cf
from fastmta.config.values import before_comment

Warn = Callable[[str], None]

_RESULT: Final = "domain result_format expansion_limit"
_SQL: Final = f"query select_field table where_field additional_conditions {_RESULT}"
_SERVER: Final = "hosts user password dbname idle_interval retry_interval"
OPTIONS: Final[dict[str, tuple[str, ...]]] = {
    kind: tuple(options.split())
    for kind, options in {
        "ldap": "server_host server_port timeout search_base query_filter result_attribute special_result_attribute "
        "terminal_result_attribute leaf_result_attribute result_filter scope bind bind_dn bind_pw cache cache_expiry "
        "cache_size recursion_limit size_limit dereference chase_referrals version debuglevel sasl_mechs sasl_realm "
        "sasl_authz_id sasl_minssf start_tls tls_ca_cert_dir tls_ca_cert_file tls_cert tls_key tls_require_cert "
        f"tls_random_file tls_cipher_suite {_RESULT}",
        "mysql": f"{_SERVER} {_SQL} option_file option_group require_result_set charset tls_cert_file tls_key_file "
        "tls_CAfile tls_CApath tls_verify_cert tls_ciphers",
        "pgsql": f"{_SERVER} {_SQL} select_function encoding",
        "sqlite": f"dbpath {_SQL}",
        "memcache": "memcache backup flags ttl key_format domain data_size_limit line_size_limit max_try retry_pause "
        "timeout",
        "mongodb": f"uri dbname collection query_filter projection result_attribute {_RESULT}",
    }.items()
}
PATTERNS: Final = ("regexp", "pcre")
# They pass on to the table that follows.
_PREFIXES: Final = ("proxy", "debug")


class Databases:
    """Finds the tables in values, and looks into the files of their own."""

    def __init__(self, warn: Warn, *, quiet: bool = False, report: bool = False) -> None:
        """One for a run of the program: a table's own file is read once.

        warn takes a line; quiet: nothing is said of options that a table does not have; report: not as postconf does
        it, but with the line of each such option, and a line that is none is not the end (by ConfigError).
        """
        self._warn = warn
        self._report = report
        self._quiet = quiet
        self._seen: set[str] = set()

    def find(self, value: str, source: str, use: Callable[[str], None], *, patterns: bool = False) -> None:
        """Call use for each parameter of each table in an expanded value; source is the file to blame.

        patterns: the value is what a regexp or pcre table has in its braces, where # may be part of a pattern.
        """
        words, comment = before_comment(value)
        for word in words:
            if word.startswith("{"):
                if not patterns:
                    self.find(self._inside(word, source), source, use)
                continue
            kind, colon, table = word.partition(":")
            while colon and kind in _PREFIXES and ":" in table:
                kind, colon, table = table.partition(":")
            if not colon or not table:
                continue
            if table.startswith("{"):
                self.find(self._inside(table, source), source, use, patterns=patterns or kind in PATTERNS)
            elif kind not in OPTIONS or table.startswith("."):
                continue
            elif table.startswith("/"):
                self._read(kind, table)
            else:
                for option in OPTIONS[kind]:
                    use(f"{table}_{option}")
        if comment:
            self._warn(f"{source}: {comment}")

    def _inside(self, word: str, source: str) -> str:
        level = 0
        for at, character in enumerate(word):
            if character == "{":
                level += 1
            elif character == "}":
                level -= 1
                if not level:
                    if at + 1 < len(word):
                        self._warn(f"{source}: syntax error after '}}' in \"{word}\"")
                    return word[1:at]
        self._warn(f"{source}: missing '}}' in \"{word}\"")
        return word[1:]

    def _read(self, kind: str, path: str) -> None:
        """Look for options that the type does not have in the table's own file."""
        table = f"{kind}:{path}"
        if table in self._seen:
            return
        self._seen.add(table)
        try:
            if not stat.S_ISREG(Path(path).stat().st_mode):
                self._warn(f'open "{kind}" configuration "{path}": not a regular file')
                return
            text = read_text(Path(path))
        except (OSError, ConfigError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            # others may not read files with passwords
            if not isinstance(cause, PermissionError):
                reason = cause.strerror if isinstance(cause, OSError) else error
                self._warn(f'open "{kind}" configuration "{path}": {reason}')
            return
        warnings: list[str] = []
        try:
            settings = parse_main_cf(text, path, warnings)
        except ConfigError as error:
            if not self._report:
                raise
            self._warn(str(error))
            return
        for warning in warnings:
            self._warn(warning)
        if not self._quiet:
            for name, definition in settings.items():
                if name not in OPTIONS[kind]:
                    where = f"{path}, line {definition.line}" if self._report else table
                    self._warn(f"{where}: unused parameter: {name}={definition.value}")
