"""Load that can be held to account: clients that know what was acknowledged, a next hop that knows what arrived whole.

    with Load(port_of_server) as load:          clients and next hop, on an event loop in a thread
        ...kill things...
        load.stop_sending()
        load.wait_until_arrived(60)
    load.ledger                                  what was acknowledged, what arrived, when, and what was not whole

Every message carries its number and a SHA-256 of its body. A client that loses its connection before the answer to its
dot knows nothing: that message may arrive or not. Recipients "later-..." get a 451 at the first tries.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import threading
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any

import uvloop

DOT = b"\r\n.\r\n"
BODIES = 32  # different ones


class Ledger:
    """Keys are "message-recipient". Times are of time.monotonic()."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, float] = {}
        self.arrivals: dict[str, list[float]] = {}
        self.not_whole: list[str] = []
        self.refused: list[bytes] = []  # answers 4xx and 5xx to the final dot
        self.bytes_acknowledged = 0
        self.bytes_later = 0  # of them, those of messages that were to be put off
        self.bytes_waiting = 0  # of the others, those that did not arrive yet

    def missing(self) -> list[str]:
        """Acknowledged and not arrived."""
        return [key for key in self.acknowledged if key not in self.arrivals]

    def duplicates(self) -> dict[str, list[float]]:
        """Arrived more than once."""
        return {key: times for key, times in self.arrivals.items() if len(times) > 1}


def body_of(size: int, chance: random.Random) -> bytes:
    """A body of about that size: lines of all lengths, some that begin with dots."""
    lines = []
    left = size
    while left > 0:
        length = min(left, chance.choice((0, 3, 60, 76, 200, 900)))
        line = chance.choice((b"", b".", b"..")) + chance.randbytes(length // 2).hex().encode()
        lines.append(line)
        left -= len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


def message(number: str, body: bytes) -> bytes:
    """A message in wire form, with its final dot."""
    digest = hashlib.sha256(number.encode() + body).hexdigest()
    head = f"Subject: {number}\r\nX-Number: {number}\r\nX-Sum: {digest}\r\n\r\n".encode()
    return (head + body).replace(b"\r\n.", b"\r\n..") + b".\r\n"


def check(wire: bytes) -> tuple[str, bool]:
    """The number of a message that arrived (its wire form without the final dot), and whether it is whole."""
    head, _, body = wire.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n") if line.startswith(b"X-"))
    if body.startswith(b".."):
        body = body[1:]
    body = body.replace(b"\r\n..", b"\r\n.")
    number = fields.get(b"X-Number", b"?")
    return number.decode("ascii", "replace"), fields.get(b"X-Sum", b"").decode() == hashlib.sha256(
        number + body
    ).hexdigest()


class NextHop(asyncio.Protocol):
    """One session of the receiving server."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = bytearray()
        self._in_data = False
        self._recipients: list[str] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        transport.write(b"220 next-hop ESMTP\r\n")  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        answers = bytearray()
        while self._transport is not None:
            if self._in_data:
                end = self._buffer.find(DOT)
                if self._buffer.startswith(b".\r\n"):
                    end = -2
                if end == -1:
                    break
                wire = bytes(self._buffer[: max(end + 2, 0)])
                del self._buffer[: end + 5]
                self._in_data = False
                answers += self._load.arrived(wire, self._recipients)
                self._recipients = []
                continue
            end = self._buffer.find(b"\r\n")
            if end < 0:
                break
            line = bytes(self._buffer[:end]).upper()
            original = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            answers += self._command(line, original)
            if line == b"QUIT":
                self._transport.write(bytes(answers))
                self._transport.close()
                return
        if answers and self._transport is not None:
            self._transport.write(bytes(answers))

    def _command(self, line: bytes, original: bytes) -> bytes:
        if line.startswith(b"EHLO"):
            return b"250-next-hop\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n"
        if line.startswith(b"RCPT"):
            address = original.partition(b"<")[2].partition(b">")[0].decode()
            if self._load.is_too_early(address):
                return b"451 4.2.1 later\r\n"
            self._recipients.append(address.partition("@")[0].removeprefix("later-"))
            return b"250 2.1.5 ok\r\n"
        if line == b"DATA":
            if not self._recipients:
                return b"554 5.5.1 no valid recipients\r\n"
            self._in_data = True
            return b"354 go ahead\r\n"
        if line == b"QUIT":
            return b"221 bye\r\n"
        if line.startswith((b"MAIL", b"RSET")):
            self._recipients = []
        return b"250 2.0.0 ok\r\n"


class Load:
    """Clients and next hop. later: the share of recipients that are put off; tries: how often, 0 = for ever.

    ahead: a client begins no message while so many bytes were acknowledged and did not arrive yet; 0: it does.
    """

    def __init__(
        self,
        next_hop_port: int,
        *,
        sessions: int = 8,
        rate: float = 400.0,
        sizes: tuple[int, int] = (200, 20_000),
        later: float = 0.05,
        tries: int = 1,
        seed: int = 1,
        ahead: int = 0,
    ) -> None:
        self.ledger = Ledger()
        self.port = 0
        self._next_hop_port = next_hop_port
        self._sessions = sessions
        self._pause = sessions / rate
        self._later = later
        self._tries = tries
        self._ahead = ahead
        self._waiting: dict[str, int] = {}  # number of a message -> its bytes
        self._early: set[str] = set()  # arrived before their 250
        self._room = asyncio.Event()
        self.put_off: dict[str, int] = {}  # address -> how often it was tried
        self._chance = chance = random.Random(seed)
        smallest, largest = sizes
        self._bodies = [body_of(int(smallest * (largest / smallest) ** (n / BODIES)), chance) for n in range(BODIES)]
        self._count = 0
        self._sending = True
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="load")
        self._clients: list[asyncio.Task[None]] = []
        self._server: asyncio.AbstractServer | None = None
        self._hops: set[NextHop] = set()

    def __enter__(self) -> Load:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._run(self._close())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _listen(self) -> None:
        self._server = await self._loop.create_server(self._hop, "127.0.0.1", self._next_hop_port, reuse_address=True)

    def _hop(self) -> NextHop:
        hop = NextHop(self)
        self._hops.add(hop)
        return hop

    async def _close(self) -> None:
        self._sending = False
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        assert self._server is not None
        self._server.close()
        for hop in self._hops:
            if hop._transport is not None:
                hop._transport.abort()
        for _ in range(5):
            await asyncio.sleep(0)

    def start_sending(self, port: int) -> None:
        """Let the clients loose on the server at that port."""
        self.port = port

        async def start() -> None:
            self._clients = [self._loop.create_task(self._client()) for _ in range(self._sessions)]

        self._run(start())

    def stop_sending(self) -> None:
        """Let every client finish its message."""

        async def stop() -> None:
            self._sending = False
            await asyncio.wait_for(asyncio.gather(*self._clients), 30)

        self._run(stop())

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition became true in that time."""
        deadline = time.monotonic() + seconds
        idle = threading.Event()
        while not condition():
            if time.monotonic() > deadline:
                return False
            idle.wait(0.05)
        return True

    # The next hop's side

    def arrived(self, wire: bytes, recipients: list[str]) -> bytes:
        """A message came; the answer to its dot."""
        number, whole = check(wire)
        if not whole or any(not recipient.startswith(f"{number}-") for recipient in recipients):
            self.ledger.not_whole.append(f"{number} for {recipients}: {wire[:400]!r}")
        now = time.monotonic()
        self._waits_no_more(number)
        for recipient in recipients:
            self.ledger.arrivals.setdefault(recipient, []).append(now)
        return b"250 2.0.0 ok\r\n"

    def _waits(self, number: str, size: int) -> None:
        """It was acknowledged; it may have arrived before that."""
        if number in self._early:
            self._early.discard(number)
        else:
            self._waiting[number] = size
            self.ledger.bytes_waiting += size

    def _waits_no_more(self, number: str) -> None:
        size = self._waiting.pop(number, 0)
        self.ledger.bytes_waiting -= size
        if not size:
            self._early.add(number)
        self._room.set()

    def is_too_early(self, address: str) -> bool:
        """Whether this recipient is to be put off."""
        if not address.startswith("later-"):
            return False
        tried = self.put_off.get(address, 0)
        self.put_off[address] = tried + 1
        return not self._tries or tried < self._tries

    # The clients' side

    async def _client(self) -> None:
        while self._sending:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.02)  # nobody is there: the time between two lives of the server
                continue
            try:
                await self._session(reader, writer)
            except (OSError, EOFError):
                pass
            finally:
                writer.transport.abort()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def answer() -> bytes:
            while True:
                line = await reader.readuntil(b"\r\n")
                if line[3:4] == b" ":
                    return line

        async def expect(code: bytes) -> None:
            line = await answer()
            if not line.startswith(code):
                raise ConnectionError(line)

        await expect(b"220")
        writer.write(b"EHLO client.example\r\n")
        await expect(b"250")
        while self._sending:
            while self._ahead and self.ledger.bytes_waiting > self._ahead:
                self._room.clear()
                await self._room.wait()
            began = time.monotonic()
            self._count += 1
            number = f"m{self._count}"
            keys = [f"{number}-{index}" for index in range(self._chance.choice((1, 1, 1, 3)))]
            later = "later-" if self._chance.random() < self._later else ""
            wire = message(number, self._chance.choice(self._bodies))
            writer.write(
                b"MAIL FROM:<sender@client.example>\r\n"
                + b"".join(b"RCPT TO:<%s%s@dest.example>\r\n" % (later.encode(), key.encode()) for key in keys)
                + b"DATA\r\n"
            )
            for _ in range(1 + len(keys)):
                await expect(b"250")
            await expect(b"354")
            writer.write(wire)
            line = await answer()
            if line.startswith(b"250"):
                now = time.monotonic()
                self.ledger.bytes_acknowledged += len(wire)
                if later:
                    self.ledger.bytes_later += len(wire)
                else:
                    self._waits(number, len(wire))
                for key in keys:
                    self.ledger.acknowledged[key] = now
            else:
                self.ledger.refused.append(line)
                raise ConnectionError(line)
            left = self._pause - (time.monotonic() - began)
            if left > 0:
                await asyncio.sleep(left)
        writer.write(b"QUIT\r\n")
