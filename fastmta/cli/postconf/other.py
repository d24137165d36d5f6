"""What else postconf(1) tells: types of tables, methods of locking and of authentication, OpenSSL, bounce texts.

Called by __init__.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from fastmta.tables.lookup import TYPES

Warn = Callable[[str], None]

LOCKS: Final = ("flock", "fcntl", "dotlock")
SERVER_SASL: Final[tuple[str, ...]] = ()
CLIENT_SASL: Final[tuple[str, ...]] = ()


def map_types() -> list[str]:
    """The types of lookup tables, sorted."""
    return sorted(TYPES)


def tls_information(mode: str, warn: Warn) -> list[str]:
    """What -T asks for."""
    if mode in ("compile-version", "run-version"):
        import ssl

        return [ssl.OPENSSL_VERSION]
    if mode == "public-key-algorithms":
        return ["ecdsa", "ed25519", "ed448", "rsa"]
    warn(f"unknown 'postconf -T' mode: {mode}")
    return []
