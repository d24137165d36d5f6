"""Real servers as next hops: what they get is what was sent, message behind message on one connection."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from fastmta.model.message import Message
from fastmta.model.outcome import Sent
from tests.delivery import Harness, message, run
from tests.peers.test_client_like_postfix import PORT, start_postfix

pytestmark = pytest.mark.peer

COUNT = 100


def messages() -> list[Message]:
    return [
        message(
            f"r{number}@next.example",
            sender=f"s{number}@example.org",
            content=b"Subject: %d\r\n\r\n" % number
            + b"..dot\r\n\r\nx\r\n" * (number % 7 + (20000 if number == 50 else 0)),
        )
        for number in range(COUNT)
    ]


def plain(item: Message) -> bytes:
    return b"".join(item.content or []).replace(b"\r\n..", b"\r\n.")


async def all_sent(nexthop: str, items: list[Message], **settings: Any) -> None:
    harness = Harness(**settings)
    requests = await harness.deliver(*items, nexthop=nexthop)
    assert [request.result for request in requests if not isinstance(request.result, Sent)] == []
    assert requests[-1].attempt.conn_use == len(items)
    harness.close()


def test_aiosmtpd() -> None:
    taken: list[tuple[str, list[str], bytes]] = []

    class Handler:
        async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:
            taken.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
            return "250 2.0.0 taken"

    controller = Controller(Handler(), hostname="127.0.0.1", port=21391)
    controller.start()
    items = messages()
    try:
        run(lambda: all_sent("[127.0.0.1]:21391", items))
    finally:
        controller.stop()
    assert taken == [(item.envelope.sender, [item.envelope.recipients[0].address], plain(item)) for item in items]


@pytest.mark.skipif(not shutil.which("smtp-sink"), reason="needs smtp-sink")
@pytest.mark.parametrize("protocol", ["smtp", "lmtp"])
@pytest.mark.parametrize("ahead", [False, True])
def test_smtp_sink(tmp_path: Path, protocol: str, ahead: bool) -> None:
    options = ["-L"] if protocol == "lmtp" else []
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/pytest"):
            folder.chmod(0o777 if folder == tmp_path else 0o755)
    sink = subprocess.Popen(["smtp-sink", *options, *user, "-d", f"{tmp_path}/%M.", "127.0.0.1:21392", "100"])

    async def main() -> None:
        for _ in range(100):
            try:
                (await asyncio.open_connection("127.0.0.1", 21392))[1].close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        await all_sent("[127.0.0.1]:21392", messages(), lmtp=protocol == "lmtp", pipeline_messages=ahead)

    try:
        run(main)
    finally:
        sink.terminate()
        sink.wait(10)
    bodies = []
    for name in tmp_path.iterdir():
        text = name.read_bytes()
        start = text.find(b"Subject: ")
        if start >= 0:
            bodies.append(text[start:].rstrip(b"\n"))
    wanted = [plain(item).replace(b"\r\n", b"\n").rstrip(b"\n") for item in messages()]
    assert sorted(bodies) == sorted(wanted)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("postfix"), reason="needs Postfix and root")
def test_postfix(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = Path(tmp_path_factory.mktemp("postfix"))
    log = start_postfix(folder, {"next.example": "discard:"})

    async def main() -> None:
        for _ in range(100):
            try:
                (await asyncio.open_connection("127.0.0.1", PORT))[1].close()
                break
            except OSError:
                await asyncio.sleep(0.05)
        await all_sent(f"[127.0.0.1]:{PORT}", messages())
        for _ in range(200):
            if len(re.findall(r"status=sent", log.read_text())) == COUNT:
                return
            await asyncio.sleep(0.05)

    try:
        run(main)
    finally:
        subprocess.run(["postfix", "-c", str(folder / "conf"), "stop"], capture_output=True, timeout=30)
    text = log.read_text()
    assert {f"s{number}@example.org" for number in range(COUNT)} == set(re.findall(r"from=<(s\d+@example\.org)>", text))
    assert "improper command pipelining" not in text
