"""SSL contexts from main.cf: for servers (smtpd_tls_*) and clients (smtp_tls_*, lmtp_tls_*).

Called by master/worker.py and deliver/agents.py once, at load, while root may still read the keys. What a context can
do is what Postfix's opportunistic TLS does: any protocol from TLSv1 on, Postfix's medium ciphers, no verification of
the peer. Raises TlsError with the parameter and the file at fault.

Sources: Postfix TLS_README, postconf(5); RFC 3207, RFC 7435 (opportunistic security).
"""

from __future__ import annotations

import os
import ssl
import warnings
from typing import Final, Protocol

# Postfix's tls_medium_cipherlist, at the security level that Postfix sets (0: old peers are better off with weak TLS
# than with none).
CIPHERS: Final = "aNULL:-aNULL:HIGH:MEDIUM:+RC4:@STRENGTH:@SECLEVEL=0"


class TlsError(Exception):
    """A certificate, key or trust setting cannot be used."""

    def __init__(self, parameter: str, file: str, reason: str) -> None:
        """parameter = file: reason."""
        super().__init__(f"{parameter} = {file}: {reason}")
        self.parameter = parameter
        self.file = file
        self.reason = reason


class Parameters(Protocol):
    """The part of config.Config that is needed here."""

    def get_str(self, name: str) -> str:
        """A text."""

    def get_list(self, name: str) -> tuple[str, ...]:
        """A list."""


def server_context(cfg: Parameters) -> ssl.SSLContext | None:
    """For STARTTLS in smtpd; None where no certificate is configured (then STARTTLS cannot be offered)."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    return context if _load_keys(context, cfg, "smtpd") else None


def client_context(cfg: Parameters, prefix: str = "smtp") -> ssl.SSLContext:
    """For STARTTLS in smtp or lmtp; a client certificate only where one is configured."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    _load_keys(context, cfg, prefix)
    file, folder = cfg.get_str(f"{prefix}_tls_CAfile"), cfg.get_str(f"{prefix}_tls_CApath")
    for parameter, path, is_file in ((f"{prefix}_tls_CAfile", file, True), (f"{prefix}_tls_CApath", folder, False)):
        if path:
            try:
                context.load_verify_locations(cafile=path if is_file else None, capath=None if is_file else path)
            except (OSError, ssl.SSLError) as error:
                raise TlsError(parameter, path, _reason(error)) from error
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers(CIPHERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TLSv1 is old: that is why it must be asked for
        context.minimum_version = ssl.TLSVersion.TLSv1
    return context


def _load_keys(context: ssl.SSLContext, cfg: Parameters, prefix: str) -> bool:
    """Load certificates with their keys; whether there were any."""
    chains = cfg.get_list(f"{prefix}_tls_chain_files")
    if chains:
        _load_chains(context, f"{prefix}_tls_chain_files", chains)
        return True
    loaded = False
    for kind in ("", "ec"):
        parameter = f"{prefix}_tls_{kind}cert_file"
        certificate = cfg.get_str(parameter)
        if not certificate or certificate == "none":
            continue
        key = cfg.get_str(f"{prefix}_tls_{kind}key_file") or certificate
        for name, path in ((parameter, certificate), (f"{prefix}_tls_{kind}key_file", key)):
            _readable(name, path)
        try:
            context.load_cert_chain(certificate, key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(parameter, certificate, _reason(error)) from error
        loaded = True
    return loaded


def _load_chains(context: ssl.SSLContext, parameter: str, files: tuple[str, ...]) -> None:
    """Load keys, each followed by its certificates, spread over files in any way."""
    groups: list[list[str]] = []
    for file in files:
        for kind, block in _pem_blocks(_readable(parameter, file)):
            if kind.endswith("PRIVATE KEY"):
                groups.append([block])
            elif kind == "CERTIFICATE":
                if not groups:
                    raise TlsError(parameter, file, "a certificate comes before its private key")
                groups[-1].append(block)
    text = ", ".join(files)
    if not groups:
        raise TlsError(parameter, text, "no private key found")
    for group in groups:
        if len(group) == 1:
            raise TlsError(parameter, text, "a private key without a certificate")
        # ssl takes only names of files: an anonymous one has a name under /proc, and leaves the key in no folder.
        descriptor = os.memfd_create("chain", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, "".join(group).encode("ascii", "replace"))
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise TlsError(parameter, text, _reason(error)) from error
        finally:
            os.close(descriptor)


def _pem_blocks(text: str) -> list[tuple[str, str]]:
    """The blocks of a PEM file as (kind, text)."""
    blocks: list[tuple[str, str]] = []
    kind, lines = "", list[str]()
    for line in text.splitlines():
        if line.startswith("-----BEGIN ") and line.rstrip().endswith("-----"):
            kind, lines = line.strip()[11:-5], []
        if kind:
            lines.append(line)
        if kind and line.rstrip() == f"-----END {kind}-----":
            blocks.append((kind, "\n".join(lines) + "\n"))
            kind = ""
    return blocks


def _readable(parameter: str, path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        raise TlsError(parameter, path, _reason(error)) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        reason = str(error.reason or (error.args[-1] if error.args else error)).replace("_", " ").lower()
        if reason in ("no certificate assigned", "key values mismatch", "key type mismatch"):
            return f"the private key does not belong to the certificate ({reason})"
        return reason
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error)


def _no_password() -> str:
    """Asked for when a key is encrypted: a server cannot type one."""
    return ""
