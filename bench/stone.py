"""One throughput measurement: Postfix's smtp-source through a server to Postfix's smtp-sink.

Used by bench/rows*.py. A run counts from the start of the generator to the end of the sink, which ends by itself when
the last message has come: end to end, not accepted. A run whose messages do not all come in time raises BenchError.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import subprocess
import time

import msgspec

from bench.servers import BenchError, Server, settle

LIMIT = 120.0  # seconds that a run may take at most


class Load(msgspec.Struct, frozen=True):
    """What smtp-source sends: size is the payload in bytes."""

    sessions: int = 20
    size: int = 4096
    keep_open: bool = True


class Sample(msgspec.Struct):
    """One run: messages per second accepted and end to end, CPU microseconds per message (0 without a server)."""

    messages: int
    accepted: float
    end_to_end: float
    cpu: float = 0.0


def missing() -> str:
    """Why smtp-source and smtp-sink cannot be used; "" when they can."""
    for program in ("smtp-source", "smtp-sink"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian package postfix)"
    return ""


def wait_listening(port: int, seconds: float = 10) -> None:
    """Wait until something listens, without a connection: smtp-sink would count a session."""
    needle = f"0100007F:{port:04X} 00000000:0000 0A"
    deadline = time.monotonic() + seconds
    while True:
        with open("/proc/net/tcp") as lines:
            if any(needle in line for line in lines):
                return
        if time.monotonic() > deadline:
            raise BenchError(f"nothing listens on 127.0.0.1:{port}")
        time.sleep(0.01)


def wait_free(port: int, seconds: float = 10) -> None:
    """Wait until a port can be bound again."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise BenchError(f"port {port} is in use") from None
        time.sleep(0.05)


def sink_command(port: int, messages: int = 0) -> list[str]:
    """smtp-sink, that ends after so many messages."""
    user = [] if os.getuid() else ["-u", "postfix"]
    return ["smtp-sink", *user, *(["-M", str(messages)] if messages else []), f"127.0.0.1:{port}", "1000"]


def transfer(load: Load, messages: int, port: int, sink: int, what: str) -> Sample:
    """Send messages to port and wait until all have come to sink; port is sink for the direct way."""
    wait_free(sink)
    options = ["-s", str(load.sessions), "-l", str(load.size), "-m", str(messages)]
    if load.keep_open:
        options.append("-d")
    addresses = ["-f", "sender@example.com", "-t", "recipient@example.org"]
    receiver = subprocess.Popen(sink_command(sink, messages), stderr=subprocess.PIPE)
    running = [receiver]
    try:
        wait_listening(sink)
        begin = time.perf_counter()
        sender = subprocess.Popen(["smtp-source", *options, *addresses, f"127.0.0.1:{port}"], stderr=subprocess.PIPE)
        running.append(sender)
        ended = ends(running, begin)
        # smtp-sink ends with the last message and answers it no more: straight to it, smtp-source fails on that.
        if (sender.poll() and port != sink) or receiver.poll():
            raise BenchError(f"{what}: {complaint(sender)} {complaint(receiver)}")
        if len(ended) < 2:
            left = "delivered" if sender in ended else "accepted"
            raise BenchError(f"{what}: {messages} messages were not all {left} within {LIMIT:.0f} s")
    finally:
        for process in running:
            process.kill()
            process.wait()
            if process.stderr is not None:
                process.stderr.close()
    accepted = ended[receiver] if port == sink else ended[sender]
    return Sample(messages, messages / accepted, messages / ended[receiver])


def ends(processes: list[subprocess.Popen[bytes]], begin: float | None = None) -> dict[subprocess.Popen[bytes], float]:
    """The seconds after which each ended: all of them, or until one failed or the time is up."""
    begin = time.perf_counter() if begin is None else begin
    found: dict[subprocess.Popen[bytes], float] = {}
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(os.pidfd_open(process.pid), selectors.EVENT_READ, process)
        try:
            while len(found) < len(processes) and (left := begin + LIMIT - time.perf_counter()) > 0:
                for key, _ in selector.select(left):
                    found[key.data] = time.perf_counter() - begin
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    if key.data.wait():
                        return found
        finally:
            for key in list(selector.get_map().values()):
                os.close(key.fd)
    return found


def complaint(process: subprocess.Popen[bytes]) -> str:
    """What a process that failed said."""
    if not process.poll() or process.stderr is None:
        return ""
    return process.stderr.read().decode(errors="replace").strip()


def through(server: Server, load: Load, messages: int) -> Sample:
    """One run through a server, with the CPU time of all its processes until it is at rest."""
    master = server.master()
    if not master:
        raise BenchError(f"{server.name} does not run any more")
    before = settle(master)
    sample = transfer(load, messages, server.port, server.sink, server.name)
    sample.cpu = (settle(master) - before) / messages * 1e6
    return sample


def empty(server: Server, most: int) -> None:
    """Deliver what is left in the queue. Raises BenchError when it is more than most, or does not go.

    smtp-sink ends without an answer to the last message, so that this one is in the queue still, and comes twice. More
    than that means that others came twice, and the run ended before its time.
    """
    left = server.left()
    if left > most:
        raise BenchError(f"{server.name}: {left} messages in the queue when all had come: some must have come twice")
    if not left:
        return
    wait_free(server.sink)
    receiver = subprocess.Popen(sink_command(server.sink))
    try:
        wait_listening(server.sink)
        deadline = time.monotonic() + 30
        server.flush()
        while left := server.left():
            if time.monotonic() > deadline:
                raise BenchError(f"{server.name}: {left} messages stay in the queue")
            time.sleep(0.1)
    finally:
        receiver.kill()
        receiver.wait()
