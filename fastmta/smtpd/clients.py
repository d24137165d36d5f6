"""What smtpd knows of a client beside its name: freedom from limits and rules, and what it is offered by EHLO.

Called by smtpd/session.py. Each is a question to lists that may be tables: raises Pending (tables.maps), nothing else.
Postfix: smtpd(8), smtpd_client_event_limit_exceptions, smtpd_forbid_bare_newline_exclusions,
smtpd_discard_ehlo_keyword_address_maps.
"""

from __future__ import annotations

from fastmta.smtpd.settings import Ehlo, SmtpdSettings
from fastmta.tables.lookup import TempFail


def rights(settings: SmtpdSettings, name: str, address: str) -> tuple[bool, bool]:
    """Is the client free of limits, and may it end lines as it likes? A table that cannot say (in the log) is a no."""
    exempt = bare = False
    try:
        if settings.bare_newline:
            bare = settings.bare_newline_exclusions.match_host(name, address)
        if settings.counts_clients:
            exempt = settings.limit_exceptions.match_host(name, address)
    except TempFail:
        pass
    return exempt, bare


def own_ehlo(settings: SmtpdSettings, address: str) -> Ehlo | None:
    """What this client is offered; None where that cannot be said now."""
    assert settings.ehlo_maps is not None
    try:
        words = settings.ehlo_maps.find(address)
    except TempFail:
        return None
    return settings.ehlo if words is None else settings.ehlo_for(words)
