"""The programs postqueue, mailq, postsuper, postcat and qshape on a queue that nobody runs, and on one with workers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from fastmta.admin.control import ControlServer, ControlSettings
from fastmta.admin.protocol import ShardState, Status, Why
from fastmta.cli import mailq, postcat, postqueue, postsuper, qshape
from fastmta.model.message import FLAG_HOLD
from fastmta.queue import listing
from fastmta.queue.settings import shard_directory
from fastmta.queue.shard import Shard
from tests.unit.queue_at_rest import PLAIN, REFUSED, QueueAtRest

PROGRAMS = {"postqueue": postqueue, "mailq": mailq, "postsuper": postsuper, "postcat": postcat, "qshape": qshape}
POSTQUEUE_USAGE = (
    "postqueue: fatal: usage: postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site\n"
)


class Tools:
    """Runs the programs in this process, as its user."""

    def __init__(self, queue: QueueAtRest, capture: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch) -> None:
        self.queue = queue
        self._capture = capture
        self._patch = patch
        for program in (postqueue, postsuper, postcat, qshape):
            patch.setattr(program, "become_owner", lambda config: None)

    def run(self, program: str, *arguments: str, text: str = "") -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        self._patch.setattr(sys, "stdin", io.StringIO(text))
        self._capture.readouterr()
        status = PROGRAMS[program].main(["-c", str(self.queue.config), *arguments])
        out, err = self._capture.readouterr()
        return status, out.decode(), err.decode()

    def listed(self) -> dict[str, str]:
        """Queue id -> queue."""
        status, out, _ = self.run("postqueue", "-j")
        assert status == 0
        return {entry["queue_id"]: entry["queue_name"] for entry in map(json.loads, out.splitlines())}

    def postsuper(self, *arguments: str, text: str = "") -> str:
        """What it says."""
        status, out, err = self.run("postsuper", *arguments, text=text)
        assert (status, out) == (0, "")
        return err


@pytest.fixture
def queue(tmp_path: Path) -> QueueAtRest:
    return QueueAtRest(tmp_path)


@pytest.fixture
def tools(queue: QueueAtRest, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Tools:
    return Tools(queue, capsysbinary, monkeypatch)


# a queue that nobody runs


def test_listing_a_queue_at_rest(queue: QueueAtRest, tools: Tools) -> None:
    incoming = queue.add("bob@b.example", size=1024)
    held = queue.add(flags=FLAG_HOLD, shard=1)
    deferred = queue.add("a@x.example", "b@y.example", tried=REFUSED, sender="", size=4096, shard=1)
    queue.close()
    assert tools.listed() == {incoming: "incoming", deferred: "deferred", held: "hold"}
    status, out, err = tools.run("postqueue", "-p")
    assert status == 0
    assert err == (
        "postqueue: warning: Mail system is down -- accessing queue directly "
        "(Connect to the Postfix showq service: No such file or directory)\n"
    )
    lines = out.splitlines()
    assert lines[0] == "-Queue ID-  --Size-- ----Arrival Time---- -Sender/Recipient-------"
    assert lines[1].startswith(f"{incoming:<11}    1024 ")
    assert lines[4].startswith(f"{deferred:<11}    4096 ")
    assert lines[4].endswith(" MAILER-DAEMON")
    assert lines[5].strip() == f"({REFUSED.text})"
    assert len(lines[5]) == 78
    assert [line.strip() for line in lines[6:8]] == ["a@x.example", "b@y.example"]
    assert lines[9].startswith(f"{held}! ")
    assert lines[-1] == "-- 5 Kbytes in 3 Requests."
    assert tools.run("mailq")[1] == out


def test_an_empty_queue_and_no_queue(queue: QueueAtRest, tools: Tools) -> None:
    assert tools.run("postqueue", "-p")[:2] == (0, "Mail queue is empty\n")
    assert tools.run("postqueue", "-j")[:2] == (0, "")
    queue.directory.rmdir()
    assert tools.run("postqueue", "-p") == (
        69,
        "",
        f"postqueue: fatal: chdir {queue.directory}: No such file or directory\n",
    )


def test_a_queue_whose_owner_was_killed_is_listed_in_full(queue: QueueAtRest, tools: Tools) -> None:
    first = queue.add()
    queue.close()
    child = os.fork()
    if not child:  # killed with what came last in the log only
        queue.add(shard=0)
        queue.add(shard=0, tried=REFUSED, sender="second@a.example")
        queue.add(shard=2)
        queue.shard(0).log.kick()
        os._exit(0)
    os.waitpid(child, 0)
    listed = tools.listed()
    assert first in listed
    assert len(listed) == 4
    assert {listing.shard_of(queue_id) for queue_id in listed} == {0, 2}


def test_postcat(queue: QueueAtRest, tools: Tools) -> None:
    queue_id = queue.add("bob@b.example", tried=REFUSED)
    queue.close()
    assert tools.run("postcat", "-bh", "-q", queue_id) == (0, PLAIN, "")
    status, out, _ = tools.run("postcat", "-q", queue_id)
    assert status == 0
    assert out.startswith(f"*** ENVELOPE RECORDS deferred/{queue_id[0]}/{queue_id} ***\nmessage_size: ")
    assert "recipient: bob@b.example\n" in out
    assert PLAIN in out
    assert tools.run("postcat", "-q", "ABCDEF123") == (
        1,
        "",
        "postcat: fatal: open queue file ABCDEF123: No such file or directory\n",
    )
    assert tools.run("postcat", "-q", "a/b") == (1, "", "postcat: fatal: bad mail queue ID: a/b\n")


def test_postsuper_by_queue_id(queue: QueueAtRest, tools: Tools) -> None:
    one = queue.add(tried=REFUSED)
    other = queue.add(tried=REFUSED, shard=1)
    queue.close()
    assert tools.postsuper("-h", one) == f"postsuper: {one}: placed on hold\npostsuper: Placed on hold: 1 message\n"
    assert tools.postsuper("-h", one) == "postsuper: Placed on hold: 0 messages\n"
    assert tools.listed() == {one: "hold", other: "deferred"}
    assert tools.postsuper("-f", one) == (
        f"postsuper: {one}: expired\npostsuper: {one}: released from hold\n"
        "postsuper: Force-expired: 1 message\npostsuper: Released from hold: 1 message\n"
    )
    assert tools.postsuper("-e", one) == "postsuper: Force-expired: 0 messages\n"
    assert '"forced_expire": true' in tools.run("postqueue", "-j")[1]
    assert tools.postsuper("-r", other) == f"postsuper: {other}: requeued\npostsuper: Requeued: 1 message\n"
    assert "delay_reason" not in next(line for line in tools.run("postqueue", "-j")[1].splitlines() if other in line)
    assert tools.postsuper("-d", one, "-h", one) == (
        f"postsuper: {one}: removed\npostsuper: Deleted: 1 message\npostsuper: Placed on hold: 0 messages\n"
    )
    assert list(tools.listed()) == [other]
    log = (queue.directory.parent / "maillog").read_text()
    assert f" postfix/postsuper[{os.getpid()}]: {one}: removed\n" in log


def test_postsuper_with_ids_from_stdin_and_queues(queue: QueueAtRest, tools: Tools) -> None:
    ids = [queue.add(tried=REFUSED, shard=number % 3) for number in range(7)]
    queue.close()
    tools.postsuper("-h", "-", text="\n".join(ids[:2]) + "\n")
    assert tools.postsuper("-d", "-", "hold", text="\n".join(ids)) == (
        f"postsuper: {ids[0]}: removed\npostsuper: {ids[1]}: removed\npostsuper: Deleted: 2 messages\n"
    )
    assert sorted(tools.listed()) == sorted(ids[2:])
    assert tools.postsuper("-d", "-", text="no/such\n\nABCDEF\n") == (
        "postsuper: warning: invalid mail queue id: no/such\npostsuper: warning: invalid mail queue id: \n"
        "postsuper: Deleted: 0 messages\n"
    )


def test_postsuper_all(queue: QueueAtRest, tools: Tools) -> None:
    count = 1200  # more than one request, more than one read transaction
    for number in range(count):
        queue.add(shard=number % 2, tried=REFUSED if number % 4 else None)
    queue.close()
    assert tools.postsuper("-h", "ALL", "deferred") == f"postsuper: Placed on hold: {count * 3 // 4} messages\n"
    assert tools.postsuper("-H", "ALL") == f"postsuper: Released from hold: {count * 3 // 4} messages\n"
    assert tools.postsuper("-e", "ALL") == f"postsuper: Force-expired: {count} messages\n"
    assert tools.postsuper("-d", "ALL", "incoming") == f"postsuper: Deleted: {count // 4} messages\n"
    assert tools.postsuper("-d", "ALL") == f"postsuper: Deleted: {count * 3 // 4} messages\n"
    assert tools.listed() == {}


@pytest.mark.parametrize(
    ("program", "arguments", "status", "said"),
    [
        ("postqueue", [], 69, POSTQUEUE_USAGE),
        ("postqueue", ["-p", "-j"], 69, POSTQUEUE_USAGE),
        ("postqueue", ["-p", "x"], 69, POSTQUEUE_USAGE),
        ("postqueue", ["-x"], 69, "postqueue: invalid option -- 'x'\n" + POSTQUEUE_USAGE),
        ("postqueue", ["-i"], 69, "postqueue: option requires an argument -- 'i'\n" + POSTQUEUE_USAGE),
        ("postqueue", ["-i", "a/b"], 69, 'postqueue: fatal: Cannot flush queue ID - invalid name: "a/b"\n'),
        (
            "postqueue",
            ["-s", "[1.2.3.4"],
            69,
            'postqueue: fatal: Cannot flush mail queue - invalid destination: "[1.2.3.4"\n',
        ),
        (
            "postqueue",
            ["-s", "a b" * 60],
            69,
            f'postqueue: fatal: Cannot flush mail queue - invalid destination: "{"a b" * 33}a..."\n',
        ),
        ("postqueue", ["-f"], 69, "postqueue: fatal: Cannot flush mail queue - mail system is down\n"),
        ("postqueue", ["-s", "x.example"], 69, "postqueue: fatal: Cannot flush mail queue - mail system is down\n"),
        ("postsuper", ["-d", "ALL", "nosuch"], 1, "postsuper: fatal: invalid directory name: nosuch\n"),
        ("postsuper", ["-c", "rel", "-d", "A"], 1, "postsuper: fatal: -c requires absolute pathname\n"),
        ("postsuper", ["-d", "ALL", "defer"], 0, "postsuper: Deleted: 0 messages\n"),
        ("postsuper", ["-s"], 0, ""),
        ("postsuper", [], 0, ""),
        (
            "postcat",
            ["-x"],
            1,
            "postcat: invalid option -- 'x'\npostcat: fatal: usage: postcat [-b (body text)] [-c config_dir] "
            "[-d (decimal record type)] [-e (envelope records)] [-h (header text)] [-q (access queue)] [-v] "
            "[file(s)...]\n",
        ),
        ("postcat", ["-s", "x"], 1, "postcat: fatal: bad offset: x\n"),
        ("qshape", ["nosuch"], 0, "Can't stat nosuch: No such file or directory\n"),
    ],
)
def test_what_they_say(tools: Tools, program: str, arguments: list[str], status: int, said: str) -> None:
    got, _, err = tools.run(program, *arguments)
    assert (got, err) == (status, said)


def test_no_configuration(tools: Tools, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    problem = f"fatal: open {nowhere}/main.cf: No such file or directory\n"
    assert tools.run("postqueue", "-c", nowhere, "-p") == (69, "", f"postqueue: {problem}")
    assert tools.run("postsuper", "-c", nowhere, "-d", "A") == (1, "", f"postsuper: {problem}")
    assert tools.run("qshape", "-c", nowhere) == (1, "", f"postconf: {problem}qshape: postconf failed\n")


def test_qshape_of_queues(queue: QueueAtRest, tools: Tools) -> None:
    queue.add("bob@b.example")
    queue.add("bob@B.Example", "eve@e.example", tried=REFUSED, age=700)
    queue.close()

    def rows(*arguments: str) -> dict[str, str]:
        status, out, _ = tools.run("qshape", *arguments)
        assert status == 0
        return {line.split()[0]: line.split()[1] for line in out.splitlines()[1:]}

    assert rows() == {"TOTAL": "1", "b.example": "1"}
    assert rows("deferred") == {"TOTAL": "2", "b.example": "1", "e.example": "1"}
    assert rows("deferred", "incoming") == {"TOTAL": "3", "b.example": "2", "e.example": "1"}
    assert rows(str(queue.directory / "deferred")) == {"TOTAL": "2", "b.example": "1", "e.example": "1"}
    assert rows("-s", "deferred") == {"TOTAL": "1", "a.example": "1"}


def test_a_closed_pipe_is_no_error(queue: QueueAtRest) -> None:
    for _ in range(5):
        queue.add("x" * 60 + "@" + "y" * 60 + ".example" * 20, tried=REFUSED)
    queue.close()
    command = f"import sys; from fastmta.cli.postqueue import main; sys.exit(main(['-c', {str(queue.config)!r}, '-j']))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as broken:
        done = subprocess.run(
            [sys.executable, "-c", command], stdout=broken, stderr=subprocess.PIPE, timeout=60, text=True, check=False
        )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


# a queue with workers


class Target:
    """A worker that has shards and delivers nothing."""

    def __init__(self, number: int, shards: list[Shard], folder: Path, active: list[str]) -> None:
        self.number = number
        self.shards = {shard.number: shard for shard in shards}
        self.active = active
        self._flushed = folder / f"flushed-{number}"

    def _shard(self, queue_id: str) -> Shard | None:
        return self.shards.get(listing.shard_of(queue_id))

    def sync(self, done: Callable[[], None]) -> None:
        for shard in self.shards.values():
            shard.sync_index()
        done()

    def active_ids(self) -> list[str]:
        return self.active

    def queue_of(self, queue_id: str) -> str | None:
        shard = self._shard(queue_id)
        message = None if shard is None else shard.find(queue_id)
        return None if message is None else listing.queue_of(message)

    def flush(self) -> None:
        self._note("ALL")

    def flush_id(self, queue_id: str) -> bool:
        if self._shard(queue_id) is None:
            return False
        self._note(queue_id)
        return True

    def _note(self, word: str) -> None:
        with self._flushed.open("a") as file:
            file.write(f"{word}\n")

    def hold(self, queue_id: str) -> bool:
        shard = self._shard(queue_id)
        return shard is not None and shard.hold(queue_id)

    def release(self, queue_id: str) -> bool:
        shard = self._shard(queue_id)
        return shard is not None and shard.release(queue_id)

    def delete(self, queue_id: str) -> bool:
        shard = self._shard(queue_id)
        return shard is not None and shard.delete(queue_id)

    def requeue(self, queue_id: str) -> bool:
        shard = self._shard(queue_id)
        return shard is not None and shard.requeue(queue_id)

    def expire(self, queue_id: str) -> bool:
        shard = self._shard(queue_id)
        return shard is not None and shard.expire(queue_id)

    def status(self) -> Status:
        return Status(self.number, os.getpid(), shards=[ShardState(number) for number in self.shards])

    def why(self, queue_id: str) -> Why | None:
        return None

    def reopen_log(self) -> None:
        raise NotImplementedError

    def drain(self) -> None:
        raise NotImplementedError

    def control_failed(self, op: str, error: Exception) -> None:
        raise error


class Running:
    """Two workers with two shards each, in a process of their own: LMDB wants one opening of an index per process."""

    def __init__(self, queue: QueueAtRest, active: dict[int, list[str]]) -> None:
        self.queue = queue
        (queue.directory / "public").mkdir()
        ready, told = os.pipe()
        stop, self._stop = os.pipe()
        self._child = os.fork()
        if not self._child:
            status = 1
            try:
                os.close(ready)
                os.close(self._stop)
                uvloop.run(self._serve(active, told, stop))
                status = 0
            finally:
                os._exit(status)
        os.close(told)
        os.close(stop)
        assert os.read(ready, 1)
        os.close(ready)

    async def _serve(self, active: dict[int, list[str]], told: int, stop: int) -> None:
        loop = asyncio.get_running_loop()
        targets = []
        servers = []
        for number in range(2):
            shards = []
            for place in (number, number + 2):
                directory = shard_directory(self.queue.directory, place)
                shard = Shard(directory, place, self.queue.settings, print, loop)
                shard.open()
                while shard.recovering:
                    await asyncio.sleep(0.001)
                shards.append(shard)
            targets.append(Target(number, shards, self.queue.directory, active.get(number, [])))
            servers.append(ControlServer(targets[-1], ControlSettings()))
            await servers[-1].start(self.queue.directory / "public" / f"worker-{number}")
        stopped = asyncio.Event()
        loop.add_reader(stop, stopped.set)
        os.write(told, b"R")
        await stopped.wait()
        for server in servers:
            server.close()
        for target in targets:
            for shard in target.shards.values():
                shard.close()

    def flushed(self, number: int) -> list[str]:
        """What that worker was asked to try now."""
        path = self.queue.directory / f"flushed-{number}"
        return path.read_text().split() if path.exists() else []

    def close(self) -> None:
        os.close(self._stop)
        assert os.waitpid(self._child, 0)[1] == 0


@pytest.fixture
def messages(queue: QueueAtRest) -> list[str]:
    made = [queue.add(f"r{shard}@x{shard}.example", shard=shard, tried=REFUSED) for shard in range(4)]
    queue.close()
    return made


@pytest.fixture
def running(queue: QueueAtRest, messages: list[str]) -> Iterator[Running]:
    server = Running(queue, {1: [messages[3]]})
    yield server
    server.close()


def test_listing_asks_what_is_active(running: Running, tools: Tools, messages: list[str]) -> None:
    status, out, err = tools.run("postqueue", "-j")
    assert (status, err) == (0, "")
    queues = [(entry["queue_id"], entry["queue_name"]) for entry in map(json.loads, out.splitlines())]
    assert queues[0] == (messages[3], "active")
    assert sorted(queues[1:]) == sorted((queue_id, "deferred") for queue_id in messages[:3])
    assert f"{messages[3]}* " in tools.run("postqueue", "-p")[1]


def test_flush_goes_to_every_worker_and_one_message_to_its_own(
    running: Running, tools: Tools, messages: list[str]
) -> None:
    assert tools.run("postqueue", "-f") == (0, "", "")
    assert [running.flushed(number) for number in range(2)] == [["ALL"], ["ALL"]]
    assert tools.run("postqueue", "-i", messages[1]) == (0, "", "")
    assert tools.run("postqueue", "-s", "X2.example") == (0, "", "")
    assert [running.flushed(number) for number in range(2)] == [["ALL", messages[2]], ["ALL", messages[1]]]
    assert tools.run("postqueue", "-i", "ABCDEF123") == (0, "", "")


def test_changes_go_through_the_workers(running: Running, tools: Tools, messages: list[str]) -> None:
    tools.postsuper("-h", messages[0], "-h", messages[3])
    assert tools.listed() == {
        messages[0]: "hold",
        messages[1]: "deferred",
        messages[2]: "deferred",
        messages[3]: "hold",
    }
    assert tools.postsuper("-d", "ALL", "deferred") == "postsuper: Deleted: 2 messages\n"
    assert tools.postsuper("-f", "ALL") == (
        "postsuper: Force-expired: 2 messages\npostsuper: Released from hold: 2 messages\n"
    )
    flagged = [json.loads(line) for line in tools.run("postqueue", "-j")[1].splitlines()]
    assert {(one["queue_id"], one["queue_name"], one["forced_expire"]) for one in flagged} == {
        (messages[0], "deferred", True),
        (messages[3], "active", True),
    }
    assert tools.run("postcat", "-b", "-h", "-q", messages[3])[1] == PLAIN


def test_a_change_is_listed_at_once(running: Running, tools: Tools, messages: list[str]) -> None:
    tools.postsuper("-e", messages[2])
    assert f"{messages[2]}# " in tools.run("postqueue", "-p")[1]
