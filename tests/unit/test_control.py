"""The control socket: a real one, on a real uvloop, asked by the client that the tools use."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from fastmta.admin import client, control, protocol
from fastmta.admin.client import RefusedError, UnreachableError, all_workers, ask_all
from fastmta.admin.control import ControlServer, ControlSettings, is_listed
from fastmta.admin.protocol import Request, Status, Why


class Target:
    """A worker's queue in a dictionary: queue id -> queue name."""

    def __init__(self, messages: dict[str, str]) -> None:
        self.messages = messages
        self.calls: list[str] = []
        self.failures: list[str] = []

    def sync(self, done: Callable[[], None]) -> None:
        self.calls.append("sync")
        asyncio.get_running_loop().call_soon(done)

    def active_ids(self) -> list[str]:
        return [queue_id for queue_id, queue in self.messages.items() if queue == "active"]

    def queue_of(self, queue_id: str) -> str | None:
        return self.messages.get(queue_id)

    def flush(self) -> None:
        self.calls.append("flush")

    def flush_id(self, queue_id: str) -> bool:
        return self.messages.get(queue_id) == "deferred"

    def hold(self, queue_id: str) -> bool:
        return self._move(queue_id, "hold")

    def release(self, queue_id: str) -> bool:
        return self.messages.get(queue_id) == "hold" and self._move(queue_id, "deferred")

    def delete(self, queue_id: str) -> bool:
        return self.messages.pop(queue_id, None) is not None

    def requeue(self, queue_id: str) -> bool:
        raise ZeroDivisionError(queue_id)

    def expire(self, queue_id: str) -> bool:
        return queue_id in self.messages

    def status(self) -> Status:
        return Status(worker=1, pid=os.getpid(), active=len(self.active_ids()))

    def why(self, queue_id: str) -> Why | None:
        queue = self.messages.get(queue_id)
        return None if queue is None else Why(queue_id, queue, reasons=["connect to x: Connection refused"])

    def reopen_log(self) -> None:
        self.calls.append("reopen_log")

    def drain(self) -> None:
        self.calls.append("drain")

    def control_failed(self, op: str, error: Exception) -> None:
        self.failures.append(f"{op}: {error!r}")

    def _move(self, queue_id: str, queue: str) -> bool:
        if self.messages.get(queue_id, queue) == queue:
            return False
        self.messages[queue_id] = queue
        return True


class Workers:
    """Control servers of any number of workers, on one loop in a thread."""

    def __init__(self, queue_directory: Path) -> None:
        self.queue_directory = queue_directory
        (queue_directory / "public").mkdir()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.servers: list[ControlServer] = []

    def add(self, number: int, messages: dict[str, str], settings: ControlSettings | None = None) -> Target:
        target = Target(messages)
        server = ControlServer(target, settings or ControlSettings())
        path = self.queue_directory / "public" / f"worker-{number}"
        asyncio.run_coroutine_threadsafe(server.start(path), self._loop).result(10)
        self.servers.append(server)
        return target

    def close_one(self, server: ControlServer) -> None:
        async def close() -> None:
            server.close()
            for _ in range(5):  # its sessions and handles are gone after some turns of the loop
                await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(10)

    def close(self) -> None:
        for server in self.servers:
            self.close_one(server)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    made = Workers(tmp_path)
    yield made
    made.close()


def test_every_worker_answers(workers: Workers) -> None:
    first = workers.add(0, {"A1": "active", "B1": "deferred"})
    workers.add(10, {"C1": "active"})
    workers.add(2, {})
    answers = ask_all(workers.queue_directory, Request(protocol.ACTIVE))
    assert [answer.ids for answer in answers] == [["A1"], [], ["C1"]]  # in the order of their numbers
    assert len(ask_all(workers.queue_directory, Request(protocol.SYNC))) == 3
    assert first.calls == ["sync"]


def test_operations_report_what_they_did(workers: Workers) -> None:
    target = workers.add(0, {"A1": "active", "B1": "deferred", "H1": "hold"})
    with all_workers(workers.queue_directory) as (worker,):
        assert worker.ask_about(protocol.HOLD, ["A1", "H1", "NONE"], []) == ["A1"]
        assert worker.ask_about(protocol.RELEASE, ["B1", "H1"], []) == ["H1"]
        assert worker.ask_about(protocol.EXPIRE, ["B1", "NONE"], []) == ["B1"]
        assert worker.ask_about(protocol.FLUSH_ID, ["A1", "B1"], []) == ["B1"]
        assert worker.ask_about(protocol.DELETE, ["B1"], []) == ["B1"]
    assert target.messages == {"A1": "hold", "H1": "deferred"}


def test_queues_restrict_an_operation(workers: Workers) -> None:
    target = workers.add(0, {"A1": "active", "B1": "deferred", "H1": "hold"})
    with all_workers(workers.queue_directory) as (worker,):
        assert worker.ask_about(protocol.DELETE, ["A1", "B1", "H1"], ["deferred", "hold"]) == ["B1", "H1"]
    assert target.messages == {"A1": "active"}


def test_many_messages_in_batches_and_slices(workers: Workers) -> None:
    ids = [f"Q{number}" for number in range(2 * protocol.BATCH + control.SLICE)]
    target = workers.add(0, dict.fromkeys(ids, "deferred"))
    with all_workers(workers.queue_directory) as (worker,):
        assert worker.ask_about(protocol.DELETE, ids, []) == ids
        assert worker.ask_about(protocol.DELETE, ids, []) == []
    assert target.messages == {}


def test_another_session_is_served_between_slices(workers: Workers) -> None:
    order: list[str] = []
    ids = [f"Q{number}" for number in range(protocol.BATCH)]
    target = workers.add(0, dict.fromkeys(ids, "deferred"))

    def slow_delete(queue_id: str) -> bool:
        time.sleep(0.001)
        order.append("delete")
        return True

    target.delete = slow_delete  # type: ignore[method-assign]
    target.sync = lambda done: (order.append("sync"), done())  # type: ignore[assignment,method-assign]
    with all_workers(workers.queue_directory) as (one,), all_workers(workers.queue_directory) as (other,):
        thread = threading.Thread(target=one.ask_about, args=(protocol.DELETE, ids, []))
        thread.start()
        while not order:
            time.sleep(0.001)
        other.ask(Request(protocol.SYNC))
        thread.join()
    assert order.count("delete") == len(ids)
    assert order.index("sync") < len(ids)  # not after the last


def test_status_and_why(workers: Workers) -> None:
    workers.add(0, {"A1": "active"})
    (status,) = ask_all(workers.queue_directory, Request(protocol.STATUS))
    assert status.status is not None
    assert (status.status.worker, status.status.active) == (1, 1)
    (why,) = ask_all(workers.queue_directory, Request(protocol.WHY, ["A1", "NONE"]))
    assert [(one.queue_id, one.queue, one.reasons) for one in why.why] == [
        ("A1", "active", ["connect to x: Connection refused"])
    ]


def test_the_other_operations(workers: Workers) -> None:
    target = workers.add(0, {})
    for op in (protocol.FLUSH, protocol.REOPEN_LOG, protocol.DRAIN):
        ask_all(workers.queue_directory, Request(op))
    assert target.calls == ["flush", "reopen_log", "drain"]


def test_a_failing_operation_is_answered_and_reported(workers: Workers) -> None:
    target = workers.add(0, {"A1": "active"})
    with all_workers(workers.queue_directory) as (worker,):
        with pytest.raises(RefusedError, match="internal error") as refused:
            worker.ask_about(protocol.REQUEUE, ["A1"], [])
        assert "A1" not in str(refused.value)
        assert worker.ask(Request(protocol.ACTIVE)).ids == ["A1"]  # the session goes on
    assert target.failures == ["requeue: ZeroDivisionError('A1')"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"{}", "bad request"),
        (b"not json", "bad request"),
        (b'{"op":"dance"}', "unknown operation: dance"),
        (b'{"op":"hold","ids":[7]}', "bad request"),
    ],
)
def test_nonsense_is_answered(workers: Workers, line: bytes, error: str) -> None:
    workers.add(0, {})
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(workers.queue_directory / "public" / "worker-0"))
        raw.sendall(line + b'\n{"op":"sync"}\n')
        with raw.makefile("rb") as file:
            assert error in json.loads(file.readline())["error"]
            assert json.loads(file.readline()) == {"ok": True}


def test_requests_split_anywhere_and_half_closed(workers: Workers) -> None:
    workers.add(0, {"A1": "active"})
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(workers.queue_directory / "public" / "worker-0"))
        for byte in b'{"op":"active"}\n{"op":"delete","ids":["A1"]}\n':
            raw.send(bytes((byte,)))
        raw.shutdown(socket.SHUT_WR)
        with raw.makefile("rb") as file:
            assert [json.loads(line) for line in file] == [{"ok": True, "ids": ["A1"]}, {"ok": True, "ids": ["A1"]}]


def test_an_endless_line_is_cut_off(workers: Workers) -> None:
    workers.add(0, {})
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(str(workers.queue_directory / "public" / "worker-0"))
        try:
            for _ in range(64):
                raw.sendall(b"x" * 65536)
        except OSError:
            pass
        answer = b""
        try:
            while piece := raw.recv(65536):
                answer += piece
        except ConnectionError:
            pass
        assert b"request too long" in answer


def test_leftover_sockets_do_not_count(tmp_path: Path) -> None:
    assert client.connect_all(tmp_path) == []
    (tmp_path / "public").mkdir()
    leftover = socket.socket(socket.AF_UNIX)
    leftover.bind(str(tmp_path / "public" / "worker-0"))
    leftover.close()
    assert client.connect_all(tmp_path) == []


def test_a_silent_worker_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "public" / "worker-0"))
        silent.listen(5)
        with all_workers(tmp_path) as (worker,), pytest.raises(UnreachableError, match="worker-0"):
            worker.ask(Request(protocol.SYNC), timeout=0.05)


def test_a_new_worker_takes_over_the_socket_and_the_old_leaves_it(workers: Workers) -> None:
    workers.add(0, {"OLD": "active"})
    workers.add(0, {"NEW": "active"})
    workers.close_one(workers.servers[0])
    (answer,) = ask_all(workers.queue_directory, Request(protocol.ACTIVE))
    assert answer.ids == ["NEW"]


def test_lists_of_users() -> None:
    root = pwd.getpwuid(0).pw_name
    assert is_listed(("static:anyone",), 0)
    assert is_listed((root,), 0)
    assert not is_listed((f"!{root}", "static:anyone"), 0)
    assert not is_listed(("nobody",), 0)
    assert not is_listed((), 0)
    assert is_listed(("unknown",), 3_999_999_999)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the superuser to become somebody else")
def test_who_may_do_what(workers: Workers) -> None:
    nobody = pwd.getpwnam("nobody")
    for path in [workers.queue_directory, *workers.queue_directory.parents][:-2]:
        path.chmod(path.stat().st_mode | 0o755)
    workers.add(0, {"A1": "active"}, ControlSettings(flush_users=("!nobody", "static:anyone")))
    code = f"""
import os, sys
from pathlib import Path
from fastmta.admin import client, protocol
os.setgid({nobody.pw_gid})
os.setuid({nobody.pw_uid})
for op in sys.argv[1:]:
    try:
        print(client.ask_all(Path({str(workers.queue_directory)!r}), protocol.Request(op, ["A1"])))
    except client.RefusedError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "active", "flush", "delete", "drain"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines() == [
        "[Answer(ok=True, error='', ids=['A1'], status=None, why=[])]",
        "not allowed to flush the mail queue",
        "use of this command is reserved for the superuser",
        "use of this command is reserved for the superuser",
    ]
