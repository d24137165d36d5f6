"""The smtp and lmtp agents against scripted servers on real sockets."""

from __future__ import annotations

import ssl
import time

import pytest

from fastmta.model.outcome import Bounced, Deferred, Sent
from tests.client_scenarios import Scenario
from tests.client_scenarios_more import ALL
from tests.delivery import Harness, Server, message, run

FAST = dict.fromkeys(
    [f"{name}_timeout" for name in ("helo", "mail", "rcpt", "data_init", "data_xfer", "data_done")], 0.3
)
KINDS = {"sent": Sent, "deferred": Deferred, "bounced": Bounced}


def plain_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def body(size: int) -> bytes:
    return b"Subject: hi\r\n\r\n" + b"x" * 60 + b"\r\n" * (1 + size // 2)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_outcome(case: Scenario) -> None:
    async def main() -> None:
        servers = [await Server(talk).start() for talk in case.hosts]
        tls = {"tls": plain_context(), "tls_level": case.tls} if case.tls else {}
        harness = Harness(lmtp=case.lmtp, **(FAST if case.fast else {}), **tls)
        try:
            # It came just now: a handshake that fails is no reason yet to send in the clear.
            item = message(
                *[f"r{number}@example.com" for number in range(case.recipients)],
                content=body(case.size),
                arrival=time.time(),
            )
            request = await harness.one(item, ",".join(server.nexthop for server in servers))
            names = {}
            for number, server in enumerate(servers, 1):
                names[f"H{number}"] = "127.0.0.1[127.0.0.1]"
                names[f"P{number}"] = f"127.0.0.1[127.0.0.1]:{server.port}"

            def full(text: str) -> str:
                for short, long in names.items():
                    text = text.replace(short, long)
                return text.replace("SIZE", str(item.envelope.size)) if case.name == "too_big" else text

            found = [(type(result), result.dsn, result.text) for result in request.results]
            assert found == [(KINDS[status], dsn, full(text)) for status, dsn, text in case.outcome]
            assert request.attempt.relay == full(case.relay)
            for line in case.info:
                assert f"postfix/smtp: QUEUEID: {full(line)}" in harness.log.lines
        finally:
            harness.close()
            for server in servers:
                await server.stop()

    run(main)
