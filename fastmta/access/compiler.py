"""What master/worker.py hands to smtpd: the restriction lists of each service and the reading of unusual addresses.

Fulfils smtpd.checks.Access. Raises ConfigError while compiling.
"""

from __future__ import annotations

from collections.abc import Callable

from fastmta.access.destination import Destinations, Recipients, Resolving
from fastmta.access.restrictions import compile_checks
from fastmta.config import Config
from fastmta.smtpd.checks import Checks
from fastmta.tables.maps import Tables


class AccessCompiler:
    """One per worker."""

    def __init__(self, resolver: Resolving, complete: Callable[[str], str], tables: Tables) -> None:
        """resolver: address.resolve.Resolver; complete: address.rewrite.canonical with its settings."""
        self._tables = tables
        self._resolver = resolver
        self._complete = complete
        self.parse_mailbox = Destinations(resolver, complete).parse_mailbox

    def checks(self, cfg: Config, warn: Callable[[str], None]) -> Checks:
        """Compile the lists of a service."""
        recipients = Recipients.read(cfg, self._tables, self._resolver.is_local)
        destinations = Destinations(self._resolver, self._complete, recipients)
        return compile_checks(cfg, destinations.is_authorized, destinations.unlisted, warn, bool(recipients.tables))
