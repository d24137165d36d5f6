"""What tests of deliver/ need: a queue manager in a few lines, a log that remembers, and servers that say what a
script says.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable

import uvloop

from fastmta.deliver.agent import DeliverContext
from fastmta.deliver.lookup import HostLookup
from fastmta.deliver.settings import SmtpSettings
from fastmta.deliver.smtp import SmtpAgent
from fastmta.model.envelope import Envelope, Recipient
from fastmta.model.message import Message
from fastmta.model.outcome import Attempt, Deferred, Result
from fastmta.net.dns import Resolver
from fastmta.net.hosts import HostsFile
from fastmta.net.resolvconf import DnsSettings


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, service: str, line: str) -> None:
        self.lines.append(f"{service}: {line}")

    def warning(self, service: str, text: str) -> None:
        self.lines.append(f"{service}: warning: {text}")


class Destination:
    def __init__(self, nexthop: str, transport: str = "smtp") -> None:
        self.nexthop = nexthop
        self.transport = transport


class Request:
    """Finishing it twice fails the test."""

    def __init__(self, message: Message, nexthop: str, recipients: list[int] | None = None) -> None:
        self.message = message
        self.recipients = list(range(len(message.envelope.recipients))) if recipients is None else recipients
        self.nexthop = nexthop
        self.started = 0.0
        self.results: list[Result] = []
        self.attempt = Attempt()
        self.site_down: Deferred | None = None
        self.done = asyncio.Event()

    def finish(self, results: list[Result], attempt: Attempt, site_down: Deferred | None = None) -> None:
        assert not self.done.is_set(), "finished twice"
        assert len(results) == len(self.recipients)
        self.results, self.attempt, self.site_down = results, attempt, site_down
        self.done.set()

    @property
    def result(self) -> Result:
        (result,) = self.results
        return result


class Slot:
    """Hands out its requests one by one."""

    def __init__(self, requests: list[Request]) -> None:
        self.destination = Destination(requests[0].nexthop if requests else "")
        self.waiting = list(requests)
        self.over = asyncio.Event()

    def take(self) -> Request | None:
        assert not self.over.is_set(), "take() after the slot was given back"
        if not self.waiting:
            self.over.set()
            return None
        request = self.waiting.pop(0)
        request.started = time.time()
        return request

    def release(self) -> None:
        self.over.set()


def message(
    *recipients: str,
    sender: str = "s@example.org",
    content: bytes = b"Subject: hi\r\n\r\nhello\r\n",
    queue_id: str = "QUEUEID",
    size: int = 0,
    arrival: float = 0.0,
    **more: object,
) -> Message:
    envelope = Envelope(
        queue_id=queue_id,
        arrival=arrival,
        sender=sender,
        recipients=tuple(Recipient(address) for address in recipients or ("r@example.com",)),
        size=size or len(content),
        **more,  # type: ignore[arg-type]
    )
    return Message(envelope, [content])


class Harness:
    """An agent with what it needs. More settings: those of SmtpSettings."""

    def __init__(
        self,
        resolver: Resolver | None = None,
        hosts: HostsFile | None = None,
        own: tuple[str, ...] = (),
        tls=None,
        pass_on=None,
        **settings,
    ) -> None:  # type: ignore[no-untyped-def]
        self.log = Log()
        defaults = {"myhostname": "client.example", "helo_name": "client.example", "families": (socket.AF_INET,)}
        self.settings = SmtpSettings(**{**defaults, **settings})
        self.resolver = resolver or Resolver(DnsSettings())
        self.context = DeliverContext(
            loop=asyncio.get_running_loop(),
            log=self.log,
            resolver=self.resolver,
            content=lambda message: message.content or [],
            own_addresses=frozenset(own),
            pass_on=pass_on,
        )
        lookup = HostLookup(
            self.settings,
            self.resolver,
            hosts or HostsFile(),
            self.context.own_addresses,
            lambda text: self.log.warning(self.settings.ident, text),
            shuffle=lambda hosts: None,
        )
        self.agent = SmtpAgent(self.settings, self.context, tls, lookup)

    async def deliver(self, *messages: Message, nexthop: str) -> list[Request]:
        """Deliver messages one after the other on one slot; returns when the slot is given back."""
        requests = [Request(item, nexthop) for item in messages]
        slot = Slot(list(requests))
        self.agent.slot(slot)
        async with asyncio.timeout(20):
            await slot.over.wait()
            for request in requests:
                await request.done.wait()
        return requests

    async def one(self, item: Message, nexthop: str) -> Request:
        (request,) = await self.deliver(item, nexthop=nexthop)
        return request

    def close(self) -> None:
        self.agent.close()


PIPE = ("PIPELINING", "8BITMIME", "SIZE 10240000")
OK = "250 2.0.0 Ok: queued as 12345"
Talk = Callable[["Peer"], Awaitable[None]]


class Peer:
    """One connection of a scripted server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.heard: list[str] = []
        self.contents: list[bytes] = []
        self.over = asyncio.Event()  # the script came to its end

    async def say(self, *lines: str) -> None:
        self.writer.write("".join(line + "\r\n" for line in lines).encode())
        await self.writer.drain()

    async def line(self) -> str:
        data = await self.reader.readline()
        if not data:
            raise EOFError
        text = data.decode().rstrip("\r\n")
        self.heard.append(text)
        return text

    async def expect(self, start: str, *answer: str) -> str:
        text = await self.line()
        assert text.upper().startswith(start.upper()), f"expected {start}, got {text}"
        if answer:
            await self.say(*answer)
        return text

    async def content(self) -> bytes:
        data = await self.reader.readuntil(b"\r\n.\r\n")
        return data[:-3]

    async def greet(self, *features: str, name: str = "server.example") -> None:
        await self.say(f"220 {name} ESMTP")
        lines = [name, *features]
        await self.expect(
            "EHLO", *[f"250{'-' if number < len(lines) - 1 else ' '}{line}" for number, line in enumerate(lines)]
        )

    async def accept(self, reply: str = "250 2.0.0 Ok: queued as 12345", recipients: int = 1) -> bytes:
        """Take one message."""
        await self.expect("MAIL", "250 2.1.0 Ok")
        for _ in range(recipients):
            await self.expect("RCPT", "250 2.1.5 Ok")
        await self.expect("DATA", "354 End data with <CR><LF>.<CR><LF>")
        content = await self.content()
        await self.say(reply)
        return content

    def drop(self) -> None:
        self.writer.transport.abort()


class Server:
    """A server whose connections follow scripts, one after the other (the last one again and again)."""

    def __init__(self, *talks: Talk) -> None:
        self.talks = list(talks)
        self.peers: list[Peer] = []
        self.errors: list[BaseException] = []
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: str = "127.0.0.1", port: int = 0, path: str = "") -> Server:
        if path:
            self._server = await asyncio.start_unix_server(self._serve, path)
        else:
            self._server = await asyncio.start_server(self._serve, address, port, limit=1 << 26)
            self.port = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def nexthop(self) -> str:
        return f"[127.0.0.1]:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        number = len(self.peers)
        self.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self.talks[min(number, len(self.talks) - 1)](peer)
        except (EOFError, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except AssertionError as error:
            self.errors.append(error)
        finally:
            self._tasks.discard(task)
            peer.over.set()
            writer.close()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        assert not self.errors, self.errors


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test on uvloop, as the server runs."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())  # type: ignore[arg-type]


def play(main: Callable[[Harness, Server], Awaitable[None]], *talks: Talk, **settings: object) -> Harness:
    """Run a test with an agent and a server."""
    kept: list[Harness] = []

    async def whole() -> None:
        server = await Server(*talks).start()
        harness = Harness(**settings)
        kept.append(harness)
        try:
            await main(harness, server)
        finally:
            harness.close()
            await server.stop()

    run(whole)
    return kept[0]


async def many(peer: Peer) -> None:
    """Takes messages until QUIT, like a good server: commands as they come."""
    await peer.greet(*PIPE)
    while (line := await peer.line()) != "QUIT":
        if line.startswith("DATA"):
            await peer.say("354 go")
            peer.contents.append(await peer.content())
            await peer.say(OK)
        else:
            await peer.say("250 ok")
