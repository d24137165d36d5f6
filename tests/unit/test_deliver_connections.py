"""Connections that are kept, that die, and that carry one message behind the other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from fastmta.model.outcome import Bounced, Deferred, Sent
from tests.delivery import OK, PIPE, Harness, Peer, Request, Server, Slot, many, message, play, run


@pytest.mark.parametrize("pipeline", [False, True])
def test_messages_of_a_slot_share_a_connection(pipeline: bool) -> None:
    async def main(harness: Harness, server: Server) -> None:
        messages = [message(f"r{number}@example.com", content=b"n: %d\r\n\r\n..\r\n" % number) for number in range(5)]
        requests = await harness.deliver(*messages, nexthop=server.nexthop)
        assert [request.attempt.conn_use for request in requests] == [1, 2, 3, 4, 5]
        assert all(isinstance(request.result, Sent) for request in requests)
        assert len(server.peers) == 1
        assert server.peers[0].contents == [item.content[0] for item in messages if item.content]
        assert [line for line in server.peers[0].heard if line.startswith("RCPT")] == [
            f"RCPT TO:<r{number}@example.com>" for number in range(5)
        ]

    play(main, many, pipeline_messages=pipeline)


def test_commands_of_the_next_message_come_with_the_content() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "250 ok")
        await peer.expect("DATA", "354 go")
        await peer.content()
        # Not answered yet, but the next ones are there.
        await peer.expect("MAIL FROM:<two@")
        await peer.expect("RCPT")
        await peer.expect("DATA")
        await peer.say("250 one", "250 ok", "250 ok", "354 go")
        await peer.content()
        await peer.say("250 two")
        await peer.expect("QUIT")

    async def main(harness: Harness, server: Server) -> None:
        requests = await harness.deliver(message(), message(sender="two@example.org"), nexthop=server.nexthop)
        assert [request.result.text for request in requests] == ["250 one", "250 two"]
        harness.close()
        await server.peers[0].over.wait()

    play(main, talk)


def test_an_idle_connection_is_used_again_and_ends_in_time() -> None:
    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(), server.nexthop)
        second = await harness.one(message(), server.nexthop)
        assert second.attempt.conn_use == 2
        await asyncio.wait_for(server.peers[0].over.wait(), 5)
        assert server.peers[0].heard[-1] == "QUIT"
        third = await harness.one(message(), server.nexthop)
        assert third.attempt.conn_use == 1

    play(main, many, connection_cache_time_limit=0.2)


def test_reuse_count_limit() -> None:
    async def main(harness: Harness, server: Server) -> None:
        requests = await harness.deliver(*[message() for _ in range(4)], nexthop=server.nexthop)
        assert [request.attempt.conn_use for request in requests] == [1, 2, 1, 2]

    play(main, many, connection_reuse_count_limit=1)


def test_without_cache_each_message_has_its_connection() -> None:
    async def main(harness: Harness, server: Server) -> None:
        requests = await harness.deliver(message(), message(), nexthop=server.nexthop)
        assert [request.attempt.conn_use for request in requests] == [1, 1]
        assert len(server.peers) == 2

    play(main, many, connection_cache=False)


def test_a_dead_idle_connection_is_replaced() -> None:
    async def once(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.accept()
        await peer.expect("MAIL")  # and gone

    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(), server.nexthop)
        second = await harness.one(message(), server.nexthop)
        assert isinstance(second.result, Sent)
        assert second.attempt.conn_use == 1
        assert second.site_down is None

    play(main, once, many)


def test_421_on_an_idle_connection_is_not_an_error() -> None:
    async def once(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.accept()
        await peer.expect("MAIL", "421 4.4.2 idle too long")

    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(), server.nexthop)
        second = await harness.one(message(), server.nexthop)
        assert isinstance(second.result, Sent)

    play(main, once, many)


def test_an_idle_connection_that_says_something_is_dropped() -> None:
    async def once(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.accept()
        await peer.say("421 4.4.2 goodbye")
        await peer.line()

    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(), server.nexthop)
        await asyncio.wait_for(server.peers[0].over.wait(), 5)
        second = await harness.one(message(), server.nexthop)
        assert second.attempt.conn_use == 1

    play(main, once, many)


def test_lost_at_the_dot_with_the_next_message_behind_it() -> None:
    async def dies(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "250 ok")
        await peer.expect("DATA", "354 go")
        await peer.content()

    async def main(harness: Harness, server: Server) -> None:
        first, second = await harness.deliver(
            message("a@example.com"), message("b@example.com"), nexthop=server.nexthop
        )
        assert isinstance(first.result, Deferred)
        assert first.result.text.endswith("while sending end of data -- message may be sent more than once")
        assert first.site_down is not None
        assert isinstance(second.result, Sent)
        assert [line for line in server.peers[1].heard if line.startswith("RCPT")] == ["RCPT TO:<b@example.com>"]

    play(main, dies, many)


def test_another_host_for_one_message_while_the_next_goes_on() -> None:
    async def refuses_first(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "250 ok")
        await peer.expect("DATA", "354 go")
        await peer.content()
        await peer.say("452 4.3.1 not this one")
        await peer.accept("250 second")
        await peer.expect("QUIT")

    async def whole() -> None:
        one, two = await Server(refuses_first).start(), await Server(many).start()
        harness = Harness()
        first, second = await harness.deliver(message(), message(), nexthop=f"{one.nexthop},{two.nexthop}")
        assert (first.result.text, first.attempt.relay[-5:]) == (OK, str(two.port))
        assert (second.result.text, second.attempt.relay[-5:]) == ("250 second", str(one.port))
        harness.close()
        for server in (one, two):
            await server.peers[0].over.wait()
            await server.stop()
        assert harness.agent.busy == 0

    run(whole)


def test_each_recipient_is_logged_with_the_host_that_answered_for_it() -> None:
    async def takes_one_of_three(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "250 ok")
        await peer.expect("RCPT", "450 4.2.1 not now")
        await peer.expect("RCPT", "550 5.1.1 never")
        await peer.expect("DATA", "354 go")
        await peer.content()
        await peer.say("250 first")
        await peer.expect("QUIT")

    async def whole(second: Server | None) -> None:
        first = await Server(takes_one_of_three).start()
        other = await second.start() if second else await Server(many).start()
        if second is None:
            await other.stop()
        harness = Harness()
        item = message("a@x.example", "b@x.example", "c@x.example")
        request = await harness.one(item, f"{first.nexthop},{other.nexthop}")
        last, earlier = request.attempt, request.attempt.earlier or {}
        relays = [earlier.get(index, last).relay.rpartition(":")[2] for index in request.recipients]
        assert relays == [str(first.port), str(other.port) if second else "none", str(first.port)]
        assert [result.text[:9] for result in request.results] == [
            "250 first",
            "250 2.0.0" if second else "connect t",
            "host 127.",
        ]
        harness.close()
        await first.peers[0].over.wait()
        await first.stop()
        if second is not None:
            await other.stop()

    run(lambda: whole(Server(many)))
    run(lambda: whole(None))


@pytest.mark.parametrize("size", [65000, 70000, 5_000_000])
@pytest.mark.parametrize("chunks", [1, 50])
def test_big_content_arrives_whole(size: int, chunks: int) -> None:
    line = b"%060d\r\n"
    body = b"".join(line % number for number in range(size // 62))
    step = len(body) // chunks + 1
    content = [body[at : at + step] for at in range(0, len(body), step)]

    async def main(harness: Harness, server: Server) -> None:
        items = [message() for _ in range(3)]
        for item in items:
            item.content = content
        requests = await harness.deliver(*items, nexthop=server.nexthop)
        assert all(isinstance(request.result, Sent) for request in requests)
        assert server.peers[0].contents == [body] * 3

    play(main, many)


def test_a_reply_before_the_end_of_big_content() -> None:
    async def impatient(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "250 ok")
        await peer.expect("DATA", "354 go")
        await peer.reader.readexactly(1000)
        await peer.say("552 5.3.4 too much")
        await asyncio.sleep(5)

    async def main(harness: Harness, server: Server) -> None:
        item = message()
        item.content = [b"x" * 998 + b"\r\n"] * 30000
        request = await harness.one(item, server.nexthop)
        assert isinstance(request.result, Bounced)
        assert request.result.dsn == "5.3.4"

    play(main, impatient)


def test_a_server_that_stops_reading_times_out() -> None:
    async def deaf(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "250 ok")
        await peer.expect("DATA", "354 go")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(10)

    async def main(harness: Harness, server: Server) -> None:
        item = message()
        item.content = [b"x" * 998 + b"\r\n"] * 30000
        request = await harness.one(item, server.nexthop)
        assert isinstance(request.result, Deferred)
        assert request.result.text == "conversation with 127.0.0.1[127.0.0.1] timed out while sending message body"

    play(main, deaf, data_xfer_timeout=0.4)


def test_lmtp_over_a_unix_socket(tmp_path: Path) -> None:
    async def talk(peer: Peer) -> None:
        await peer.say("220 lmtp")
        await peer.expect("LHLO client.example", "250-lmtp", "250 PIPELINING")
        await peer.accept("250 2.1.5 delivered")
        await peer.expect("QUIT", "221 bye")

    async def whole() -> None:
        path = str(tmp_path / "lmtp")
        server = await Server(talk).start(path=path)
        harness = Harness(lmtp=True, skip_quit_response=False)
        request = await harness.one(message(), f"unix:{path}")
        assert isinstance(request.result, Sent)
        assert request.attempt.relay == f"client.example[{path}]"
        missing = await harness.one(message(), f"unix:{path}-not")
        assert missing.result.text == f"connect to client.example[{path}-not]: No such file or directory"
        harness.close()
        await server.peers[0].over.wait()
        await server.stop()

    run(whole)


def test_bind_address() -> None:
    async def main(harness: Harness, server: Server) -> None:
        await harness.one(message(), server.nexthop)
        assert server.peers[0].writer.get_extra_info("peername")[0] == "127.0.0.9"

    play(main, many, bind_address="[127.0.0.9]")


def test_bind_address_that_is_not_ours() -> None:
    async def main(harness: Harness, server: Server) -> None:
        request = await harness.one(message(), server.nexthop)
        assert (request.result.dsn, request.result.text) == ("4.4.0", "server configuration error")
        assert "postfix/smtp: warning: bind 192.0.2.1: Cannot assign requested address" in harness.log.lines

    play(main, many, bind_address="192.0.2.1", bind_address_enforce=True)


@pytest.mark.parametrize(
    ("greeting", "down"),
    [("421 4.3.2 busy", True), ("554 no", True), ("220 hi", False)],
)
def test_what_makes_a_site_look_dead(greeting: str, down: bool) -> None:
    async def talk(peer: Peer) -> None:
        await peer.say(greeting)
        await peer.expect("EHLO", "250 x")
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "450 4.2.0 later")
        await peer.expect("RSET", "250 ok")

    async def main(harness: Harness, server: Server) -> None:
        request = await harness.one(message(), server.nexthop)
        assert isinstance(request.result, Deferred)
        assert (request.site_down is not None) == down

    play(main, talk)


def test_nobody_listens() -> None:
    async def main(harness: Harness, server: Server) -> None:
        request = await harness.one(message(), "[127.0.0.1]:9")
        assert request.result == Deferred("4.4.1", "connect to 127.0.0.1[127.0.0.1]:9: Connection refused")
        assert request.site_down == request.result
        assert request.attempt.relay == "none"

    play(main, many)


def test_soft_bounce() -> None:
    async def talk(peer: Peer) -> None:
        await peer.greet(*PIPE)
        await peer.expect("MAIL", "250 ok")
        await peer.expect("RCPT", "550 5.1.1 no")
        await peer.expect("DATA", "503 no")
        await peer.expect("RSET", "250 ok")

    async def main(harness: Harness, server: Server) -> None:
        request = await harness.one(message(), server.nexthop)
        assert isinstance(request.result, Deferred)
        assert request.result.dsn == "4.1.1"

    play(main, talk, soft_bounce=True)


def test_a_content_that_cannot_be_read_defers() -> None:
    async def main(harness: Harness, server: Server) -> None:
        item = message()
        item.content = None

        def fail(_message: object) -> list[bytes]:
            raise OSError("disk")

        harness.agent.context = msgspec.structs.replace(harness.agent.context, content=fail)
        broken, fine = await harness.deliver(item, message(), nexthop=server.nexthop)
        assert broken.result == Deferred("4.3.0", "unreadable mail queue entry")
        assert isinstance(fine.result, Sent)

    play(main, many)


def test_an_address_that_cannot_be_sent_bounces() -> None:
    async def main(harness: Harness, server: Server) -> None:
        broken, fine = await harness.deliver(message("a\r\nDATA@example.com"), message(), nexthop=server.nexthop)
        assert isinstance(broken.result, Bounced)
        assert broken.result.dsn == "5.1.3"
        assert isinstance(fine.result, Sent)

    play(main, many)


def test_close_lets_the_message_under_way_end() -> None:
    async def main(harness: Harness, server: Server) -> None:
        first, second = Request(message(), server.nexthop), Request(message(), server.nexthop)
        slot = Slot([first, second])
        harness.agent.slot(slot)
        harness.close()
        await asyncio.wait_for(slot.over.wait(), 10)
        assert isinstance(first.result, Sent)
        assert isinstance(second.result, Sent)
        for peer in server.peers:
            await asyncio.wait_for(peer.over.wait(), 5)
            assert peer.heard[-1] == "QUIT"

    play(main, many)
