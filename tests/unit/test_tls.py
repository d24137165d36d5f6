"""TLS contexts from parameters, and delivery under STARTTLS."""

from __future__ import annotations

import asyncio
import datetime
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from fastmta.model.outcome import Deferred, Sent
from fastmta.net.tls import TlsError, client_context, server_context
from tests.delivery import Harness, Peer, Server, message, run

PIPE = ("PIPELINING", "8BITMIME", "SIZE 10240000")


class Parameters(dict[str, str]):
    def get_str(self, name: str) -> str:
        return self.get(name, "")

    def get_list(self, name: str) -> tuple[str, ...]:
        return tuple(self.get(name, "").replace(",", " ").split())


def make_pair(folder: Path, name: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> tuple[Path, Path]:
    """(certificate, key) files."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name}.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = Path(tmp_path_factory.mktemp("tls"))
    rsa_cert, rsa_key = make_pair(folder, "rsa", rsa.generate_private_key(65537, 2048))
    ec_cert, ec_key = make_pair(folder, "ec", ec.generate_private_key(ec.SECP256R1()))
    (folder / "chain.pem").write_text(rsa_key.read_text() + rsa_cert.read_text())
    (folder / "both.pem").write_text(
        ec_key.read_text() + ec_cert.read_text() + "junk\n" + rsa_key.read_text() + rsa_cert.read_text()
    )
    names = {"cert": rsa_cert, "key": rsa_key, "eccert": ec_cert, "eckey": ec_key}
    return {name: str(path) for name, path in names.items()} | {"folder": str(folder)}


def negotiated(server: ssl.SSLContext, ciphers: str = "") -> str:
    """Shake hands in memory; the cipher."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    if ciphers:
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers(ciphers)
    one, two = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(one, two), server.wrap_bio(two, one, server_side=True)]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    cipher = ends[0].cipher()
    assert cipher
    return cipher[0]


def test_no_certificate_no_starttls() -> None:
    assert server_context(Parameters()) is None


def test_certificate_and_key(files: dict[str, str]) -> None:
    context = server_context(Parameters(smtpd_tls_cert_file=files["cert"], smtpd_tls_key_file=files["key"]))
    assert context is not None
    assert negotiated(context)


def test_both_kinds_of_key(files: dict[str, str]) -> None:
    cfg = Parameters(
        smtpd_tls_cert_file=files["cert"],
        smtpd_tls_key_file=files["key"],
        smtpd_tls_eccert_file=files["eccert"],
        smtpd_tls_eckey_file=files["eckey"],
    )
    for settings in (cfg, Parameters(smtpd_tls_chain_files=f"{files['folder']}/both.pem")):
        context = server_context(settings)
        assert context is not None
        assert negotiated(context, "ECDHE-RSA-AES128-GCM-SHA256") == "ECDHE-RSA-AES128-GCM-SHA256"
        assert negotiated(context, "ECDHE-ECDSA-AES128-GCM-SHA256") == "ECDHE-ECDSA-AES128-GCM-SHA256"


def test_chain_over_several_files(files: dict[str, str]) -> None:
    cfg = Parameters(smtpd_tls_chain_files=f"{files['key']}, {files['cert']}")
    context = server_context(cfg)
    assert context is not None
    assert negotiated(context)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"smtpd_tls_cert_file": "/nowhere"}, "smtpd_tls_cert_file = /nowhere: No such file or directory"),
        ({"smtpd_tls_cert_file": "CERT", "smtpd_tls_key_file": "/nowhere"}, "smtpd_tls_key_file = /nowhere: No such"),
        (
            {"smtpd_tls_cert_file": "CERT", "smtpd_tls_key_file": "ECKEY"},
            "smtpd_tls_cert_file = CERT: the private key does not",
        ),
        ({"smtpd_tls_cert_file": "KEY", "smtpd_tls_key_file": "KEY"}, "smtpd_tls_cert_file = KEY: "),
        ({"smtpd_tls_chain_files": "CERT"}, "a certificate comes before its private key"),
        ({"smtpd_tls_chain_files": "KEY"}, "a private key without a certificate"),
        ({"smtpd_tls_chain_files": "/dev/null"}, "no private key found"),
    ],
)
def test_errors_name_parameter_and_file(files: dict[str, str], settings: dict[str, str], text: str) -> None:
    def fill(value: str) -> str:
        for name in ("eccert", "eckey", "cert", "key"):
            value = value.replace(name.upper(), files[name])
        return value

    with pytest.raises(TlsError) as caught:
        server_context(Parameters({name: fill(value) for name, value in settings.items()}))
    assert fill(text) in str(caught.value)


def test_client_trust_errors() -> None:
    with pytest.raises(TlsError, match="smtp_tls_CAfile = /nowhere: No such file"):
        client_context(Parameters(smtp_tls_CAfile="/nowhere"))


# Delivery


async def start_tls(peer: Peer, context: ssl.SSLContext) -> None:
    await peer.greet(*PIPE, "STARTTLS")
    await peer.expect("STARTTLS", "220 go")
    await peer.writer.start_tls(context)


async def take(peer: Peer) -> None:
    while (line := await peer.line()) != "QUIT":
        if line.startswith("EHLO"):
            await peer.say("250-server", "250 PIPELINING")
        elif line.startswith("DATA"):
            await peer.say("354 go")
            peer.contents.append(await peer.content())
            await peer.say("250 2.0.0 Ok: queued as 12345")
        else:
            await peer.say("250 ok")


def context_of(files: dict[str, str]) -> ssl.SSLContext:
    context = server_context(Parameters(smtpd_tls_cert_file=files["cert"], smtpd_tls_key_file=files["key"]))
    assert context is not None
    return context


@pytest.mark.parametrize("level", ["may", "encrypt"])
def test_delivery_under_tls(files: dict[str, str], level: str) -> None:
    async def talk(peer: Peer) -> None:
        await start_tls(peer, context_of(files))
        await take(peer)

    async def main() -> None:
        server = await Server(talk).start()
        harness = Harness(tls=client_context(Parameters()), tls_level=level, tls_loglevel=1)
        big = message(content=b"x" * 998 + b"\r\n")
        big.content = [b"y" * 998 + b"\r\n"] * 3000
        requests = await harness.deliver(message(), big, message(), nexthop=server.nexthop)
        assert all(isinstance(request.result, Sent) for request in requests)
        assert [request.attempt.conn_use for request in requests] == [1, 2, 3]
        assert requests[0].attempt.tls.startswith("TLSv1.3 with cipher TLS_AES_256_GCM_SHA384")
        assert server.peers[0].contents[1] == b"".join(big.content)
        assert harness.log.lines == [
            f"postfix/smtp: Untrusted TLS connection established to 127.0.0.1[127.0.0.1]:{server.port}: "
            "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
        ]
        # After STARTTLS everything is offered anew: no SIZE.
        assert "MAIL FROM:<s@example.org>" in server.peers[0].heard
        harness.close()
        await asyncio.wait_for(server.peers[0].over.wait(), 5)
        await server.stop()

    run(main)


def test_what_comes_before_the_handshake_is_not_heard(files: dict[str, str]) -> None:
    """A reply that an attacker puts behind the reply to STARTTLS must not count as one under TLS."""

    async def talk(peer: Peer) -> None:
        await peer.greet(*PIPE, "STARTTLS")
        await peer.expect("STARTTLS", "220 go", "250-evil", "250 SIZE 1")
        await peer.writer.start_tls(context_of(files))
        await take(peer)

    async def main() -> None:
        server = await Server(talk).start()
        harness = Harness(tls=client_context(Parameters()), tls_level="may")
        request = await harness.one(message(arrival=time.time()), server.nexthop)
        # Either way is safe: the bytes are dropped, or they break the handshake.
        if isinstance(request.result, Sent):
            assert "MAIL FROM:<s@example.org>" in server.peers[0].heard
        else:
            assert request.result.dsn == "4.7.5"
        harness.close()
        await server.stop()

    run(main)


def test_plaintext_when_the_handshake_fails_and_the_mail_has_waited(files: dict[str, str]) -> None:
    async def broken(peer: Peer) -> None:
        await peer.greet(*PIPE, "STARTTLS")
        await peer.expect("STARTTLS", "220 go")
        await peer.reader.read(100)

    async def plain(peer: Peer) -> None:
        await peer.greet(*PIPE, "STARTTLS")
        await take(peer)

    async def main() -> None:
        server = await Server(broken, plain).start()
        harness = Harness(tls=client_context(Parameters()), tls_level="may")
        request = await harness.one(message(arrival=time.time() - 1000), server.nexthop)
        assert isinstance(request.result, Sent)
        assert request.attempt.tls == ""
        assert "postfix/smtp: QUEUEID: Cannot start TLS: handshake failure" in harness.log.lines
        harness.close()
        await server.stop()

    run(main)


def test_no_plaintext_when_tls_is_required(files: dict[str, str]) -> None:
    async def broken(peer: Peer) -> None:
        await peer.greet(*PIPE, "STARTTLS")
        await peer.expect("STARTTLS", "220 go")
        await peer.reader.read(100)

    async def main() -> None:
        server = await Server(broken).start()
        harness = Harness(tls=client_context(Parameters()), tls_level="encrypt")
        request = await harness.one(message(arrival=time.time() - 1000), server.nexthop)
        assert request.result == Deferred("4.7.5", "Cannot start TLS: handshake failure")
        assert request.site_down is not None
        assert len(server.peers) == 1
        harness.close()
        await server.stop()

    run(main)


def test_a_handshake_that_hangs_times_out(files: dict[str, str]) -> None:
    async def silent(peer: Peer) -> None:
        await peer.greet(*PIPE, "STARTTLS")
        await peer.expect("STARTTLS", "220 go")
        await asyncio.sleep(10)

    async def main() -> None:
        server = await Server(silent).start()
        harness = Harness(tls=client_context(Parameters()), tls_level="encrypt", starttls_timeout=0.4)
        request = await harness.one(message(), server.nexthop)
        assert request.result.dsn == "4.7.5"
        harness.close()
        await server.stop()

    run(main)
