"""The tools on a server that runs: what they show is what it does, and what they ask for happens."""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import smtplib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.live import LiveServer, free_port, wait_for

CONTENT = b"Subject: t\r\n\r\nhello\r\n.dot\r\n"


class NextHop:
    """Takes mail; recipients "later" get 451; "slow" ones no answer to the dot before `go` is set."""

    def __init__(self, port: int) -> None:
        self.go = threading.Event()
        self.open = False  # else: 451 for all
        self.arrived: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._session, args=(peer,), daemon=True).start()

    def _session(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rwb") as file:

            def answer(text: str) -> None:
                file.write(text.encode() + b"\r\n")
                file.flush()

            recipients: list[str] = []
            answer("220 next-hop")
            try:
                for line in file:
                    verb = line[:4].upper()
                    if verb == b"RCPT":
                        address = line.decode().partition("<")[2].partition(">")[0]
                        if self.open or address.startswith("slow"):
                            recipients.append(address)
                            answer("250 ok")
                        else:
                            answer("451 4.2.1 come back later")
                    elif verb == b"DATA":
                        answer("354 go ahead")
                        while file.readline() not in (b".\r\n", b""):
                            pass
                        if any(address.startswith("slow") for address in recipients):
                            self.go.wait(60)
                        self.arrived += recipients
                        recipients = []
                        answer("250 ok")
                    elif verb == b"QUIT":
                        answer("221 bye")
                        return
                    else:
                        answer("250 ok")
            except OSError:
                return

    def close(self) -> None:
        self.go.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def next_hop() -> Iterator[NextHop]:
    hop = NextHop(free_port())
    yield hop
    hop.close()


@pytest.fixture(scope="module")
def server(next_hop: NextHop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    port = next_hop._listener.getsockname()[1]
    parameters = {"relayhost": f"[127.0.0.1]:{port}", "smtp_dns_support_level": "disabled"}
    with LiveServer(tmp_path_factory.mktemp("tools"), parameters, workers=2) as made:
        yield made


@pytest.fixture(autouse=True)
def empty_queue(server: LiveServer, next_hop: NextHop) -> Iterator[None]:
    yield
    next_hop.go.set()
    server.run("postsuper", "-d", "ALL")
    wait_for(lambda: server.run("postqueue", "-j").stdout == "", 10, "an empty queue")
    next_hop.go.clear()
    next_hop.open = False
    next_hop.arrived.clear()


def send(server: LiveServer, *to: str, sender: str = "alice@a.example") -> str:
    """A message; its queue id."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=20) as client:
        client.ehlo()
        client.mail(sender)
        for address in to:
            assert client.rcpt(address)[0] == 250
        code, text = client.data(CONTENT)
        assert code == 250
        return text.decode().rpartition(" ")[2]


def listed(server: LiveServer) -> dict[str, dict[str, object]]:
    done = server.run("postqueue", "-j")
    assert (done.returncode, done.stderr) == (0, "")
    return {entry["queue_id"]: entry for entry in map(json.loads, done.stdout.splitlines())}


def queues(server: LiveServer) -> dict[str, object]:
    return {queue_id: entry["queue_name"] for queue_id, entry in listed(server).items()}


def test_listing(server: LiveServer) -> None:
    deferred = [send(server, "later@x.example") for _ in range(4)]
    slow = send(server, "slow@x.example")
    wait_for(
        lambda: queues(server) == {slow: "active", **dict.fromkeys(deferred, "deferred")},
        10,
        "one active, four deferred",
    )
    assert next(iter(listed(server))) == slow
    server.run("postsuper", "-h", deferred[1])
    lines = server.run("postqueue", "-p").stdout.splitlines()
    assert any(line.startswith(f"{slow}* ") for line in lines)
    assert any(line.startswith(f"{deferred[1]}! ") for line in lines)
    reason = "(host 127.0.0.1[127.0.0.1] said: 451 4.2.1 come back later (in reply to RCPT TO command))"
    assert lines.count(reason.rjust(78)) == 4
    assert lines[-1] == "-- 1 Kbytes in 5 Requests."
    assert server.run("mailq").stdout.splitlines() == lines
    shown = server.run("postcat", "-bh", "-q", slow).stdout
    assert shown.startswith("Received: from ")
    assert shown.endswith("\n\nhello\n.dot\n")
    table = server.run("qshape", "deferred").stdout.splitlines()
    assert [row.split()[:2] for row in table[1:]] == [["TOTAL", "3"], ["x.example", "3"]]


def test_flush(server: LiveServer, next_hop: NextHop) -> None:
    one, other, third = (send(server, f"later@{name}.example") for name in ("x", "y", "z"))
    wait_for(lambda: set(queues(server).values()) == {"deferred"}, 10, "three deferred")
    next_hop.open = True
    assert server.run("postqueue", "-i", one).returncode == 0
    wait_for(lambda: next_hop.arrived == ["later@x.example"], 10, "the one")
    assert server.run("postqueue", "-s", "y.example").returncode == 0
    wait_for(lambda: next_hop.arrived == ["later@x.example", "later@y.example"], 10, "the site's")
    assert list(queues(server)) == [third]
    assert server.run("postqueue", "-f").returncode == 0
    wait_for(lambda: "later@z.example" in next_hop.arrived, 10, "all")
    wait_for(lambda: not queues(server), 10, "an empty queue")
    assert other in server.log()


def test_hold_release_and_requeue(server: LiveServer, next_hop: NextHop) -> None:
    one = send(server, "later@x.example")
    wait_for(lambda: queues(server) == {one: "deferred"}, 10, "deferred")
    assert server.run("postsuper", "-h", one).stderr == (
        f"postsuper: {one}: placed on hold\npostsuper: Placed on hold: 1 message\n"
    )
    next_hop.open = True
    server.run("postqueue", "-f")
    assert queues(server) == {one: "hold"}
    assert server.run("postsuper", "-H", "-", text=f"{one}\n").stderr == (
        f"postsuper: {one}: released from hold\npostsuper: Released from hold: 1 message\n"
    )
    wait_for(lambda: next_hop.arrived == ["later@x.example"], 10, "delivery after release")
    next_hop.open = False
    other = send(server, "later@x.example")
    wait_for(lambda: queues(server) == {other: "deferred"}, 10, "deferred")
    next_hop.open = True
    assert server.run("postsuper", "-r", "ALL").stderr == "postsuper: Requeued: 1 message\n"
    wait_for(lambda: len(next_hop.arrived) == 2, 10, "delivery after requeue")
    assert f"{one}: placed on hold" in server.log()


def test_delete_and_hold_a_message_in_delivery(server: LiveServer, next_hop: NextHop) -> None:
    slow = send(server, "slow@x.example", "later@x.example")
    wait_for(lambda: queues(server) == {slow: "active"}, 10, "active")
    assert "Placed on hold: 1 message" in server.run("postsuper", "-h", slow).stderr
    next_hop.go.set()
    wait_for(lambda: next_hop.arrived == ["slow@x.example"], 10, "what was on its way")
    wait_for(lambda: queues(server) == {slow: "hold"}, 10, "on hold")
    assert [one["address"] for one in listed(server)[slow]["recipients"]] == ["later@x.example"]  # type: ignore[attr-defined]
    assert server.run("postsuper", "-d", slow).stderr == f"postsuper: {slow}: removed\npostsuper: Deleted: 1 message\n"
    wait_for(lambda: not queues(server), 10, "an empty queue")


def test_expired_mail_is_returned(server: LiveServer) -> None:
    one = send(server, "later@x.example")
    wait_for(lambda: queues(server) == {one: "deferred"}, 10, "deferred")
    assert "Force-expired: 1 message" in server.run("postsuper", "-e", one).stderr
    assert f"{one}# " in server.run("postqueue", "-p").stdout
    server.run("postqueue", "-i", one)
    log = server.wait_log(f"{one}: from=<alice@a.example>, status=force-expired, returned to sender")
    assert f"{one}: sender non-delivery notification: " in log


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the superuser to become somebody else")
def test_somebody_else(server: LiveServer) -> None:
    somebody = pwd.getpwnam("daemon")

    def run(program: str, *arguments: str, group: int = somebody.pw_gid) -> tuple[int, str]:
        code = f"""
import codecs, os, sys
from fastmta.cli import {program} as program
from fastmta.master.preload import preload_package
for name in ("ascii", "latin_1"):  # the interpreter's own files may be out of reach afterwards
    codecs.lookup(name)
preload_package("lmdb")
os.setgroups([])
os.setgid({group})
os.setuid({somebody.pw_uid})
sys.exit(program.main(sys.argv[1:]))
"""
        done = subprocess.run(
            [sys.executable, "-c", code, "-c", str(server.config), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stderr

    denied = "postqueue: fatal: Connect to the Postfix showq service: Permission denied\n"
    assert run("postqueue", "-p") == (69, denied)
    group = grp.getgrnam("nogroup").gr_gid  # in the place of setgid_group
    shutil.chown(server.queue / "public", group=group)
    assert run("postqueue", "-f", group=group) == (0, "")
    refused = f"postqueue: fatal: User daemon({somebody.pw_uid}) is not allowed to view the mail queue\n"
    assert run("postqueue", "-p", group=group) == (69, refused)
    assert run("postsuper", "-d", "ALL") == (1, "postsuper: fatal: use of this command is reserved for the superuser\n")


def test_after_a_stop(server: LiveServer) -> None:
    one = send(server, "later@x.example")
    wait_for(lambda: queues(server) == {one: "deferred"}, 10, "deferred")
    server.stop()
    try:
        done = server.run("postqueue", "-p")
        assert one in done.stdout
        assert "Mail system is down -- accessing queue directly" in done.stderr
        assert "Deleted: 1 message" in server.run("postsuper", "-d", one).stderr
        assert server.run("postqueue", "-p").stdout == "Mail queue is empty\n"
    finally:
        server.start()
    assert queues(server) == {}
