"""A live Postfix that relays to a sink of ours, for tests that hold our work against its own. Loopback only."""

from __future__ import annotations

import os
import re
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

AVAILABLE = os.geteuid() == 0 and shutil.which("postfix") and Path("/usr/share/postfix/master.cf.dist").exists()

REFUSAL = (
    "550 5.1.1 <%s>: no such user here, sorry; this text is long enough to be wrapped around in the report, isn't it"
)


class Sink:
    """Takes mail. Recipients named fail* are refused, defer* put off, many* refused with three lines."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[list[str], bytes]] = []
        self.came = threading.Condition()
        sink = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                sink.serve(self.rfile, self.wfile)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True
            block_on_close = False

        self.server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def serve(self, lines: Any, out: Any) -> None:
        out.write(b"220 sink ESMTP\r\n")
        commands: list[str] = []
        for line in lines:
            command = line.decode("utf-8", "surrogateescape").strip()
            verb = command[:4].upper()
            if verb == "EHLO":
                out.write(b"250-sink\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE\r\n")
            elif verb == "RCPT":
                address = command[command.index("<") + 1 : command.rindex(">")]
                commands.append(command)
                if address.startswith("fail"):
                    out.write((REFUSAL % address).encode() + b"\r\n")
                elif address.startswith("many"):
                    out.write(b"550-5.1.1 first line\r\n550-5.1.1 second line\r\n550 5.1.1 third\r\n")
                elif address.startswith("defer"):
                    out.write(b"450 4.2.0 later\r\n")
                else:
                    out.write(b"250 2.1.5 Ok\r\n")
            elif verb == "DATA":
                out.write(b"354 Go\r\n")
                content = self.content(lines)
                out.write(b"250 2.0.0 Ok: sunk\r\n")
                with self.came:
                    self.messages.append((commands, content))
                    self.came.notify_all()
            elif verb == "QUIT":
                out.write(b"221 Bye\r\n")
                return
            else:
                if verb == "MAIL":
                    commands = [command]
                out.write(b"250 2.0.0 Ok\r\n")

    def content(self, lines: BinaryIO) -> bytes:
        out = []
        for line in lines:
            if line == b".\r\n":
                break
            out.append(line)
        return b"".join(out)

    def wait(self, wanted: Callable[[list[str], bytes], bool], seconds: float = 20) -> tuple[list[str], bytes]:
        """The first message that is wanted; it is taken out."""
        end = time.monotonic() + seconds
        with self.came:
            while True:
                for index, (commands, content) in enumerate(self.messages):
                    if wanted(commands, content):
                        return self.messages.pop(index)
                left = end - time.monotonic()
                assert left > 0, f"no such message came; there are {[c for c, _ in self.messages]}"
                self.came.wait(left)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Postfix:
    """One instance in a folder of its own. It listens on port and relays to sink_port."""

    def __init__(self, port: int, sink_port: int, settings: str = "", services: str = "") -> None:
        # Not a folder of pytest's: those are closed to the users that Postfix's processes run as.
        self.folder = folder = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.port = port
        self.log = folder / "mail.log"
        conf = self.conf = folder / "conf"
        for name in ("conf", "queue", "data"):
            (folder / name).mkdir()
        folder.chmod(0o755)
        shutil.chown(folder / "data", "postfix")
        for source in Path("/etc/postfix").glob("*"):
            if source.name.startswith(("postfix-files", "postfix-script", "post-install", "dynamicmaps.cf")):
                (shutil.copytree if source.is_dir() else shutil.copy)(source, conf / source.name)
        master = Path("/usr/share/postfix/master.cf.dist").read_text()
        master = re.sub(r"^smtp +inet.*$", f"127.0.0.1:{port} inet n - n - 20 smtpd", master, flags=re.M)
        master = re.sub(r"^(\w+ +unix +[-yn] +[-yn] +)y", r"\1n", master, flags=re.M)
        (conf / "master.cf").write_text(f"{master}\n{services}\n")
        defaults = {
            "compatibility_level": "3.6",
            "queue_directory": f"{folder}/queue",
            "data_directory": f"{folder}/data",
            "command_directory": "/usr/sbin",
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "myhostname": "mx.example.org",
            "myorigin": "origin.example",
            "mydestination": "",
            "alias_maps": "",
            "local_recipient_maps": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "relayhost": f"[127.0.0.1]:{sink_port}",
            "disable_dns_lookups": "yes",
            "smtp_dns_support_level": "disabled",
            "smtp_line_length_limit": "0",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(folder),
            "enable_long_queue_ids": "yes",
        }
        for line in settings.splitlines():
            name, _, value = line.partition("=")
            if name.strip():
                defaults[name.strip()] = value.strip()
        (conf / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in defaults.items()))
        subprocess.run(["postfix", "-c", str(conf), "start"], check=True, capture_output=True, timeout=60)
        self.connect().close()

    def connect(self, port: int = 0) -> Client:
        return Client(port or self.port)

    def lines(self, text: str, count: int = 1, seconds: float = 20) -> list[str]:
        """Log lines that contain a text, without time and host; waits until there are so many."""
        end = time.monotonic() + seconds
        while True:
            found = [line for line in self.log.read_text(errors="surrogateescape").splitlines() if text in line]
            if len(found) >= count:
                return [line.split(" ", 4)[4] for line in found]
            assert time.monotonic() < end, f"{len(found)} log lines with {text!r}"
            time.sleep(0.02)  # another process writes it: nothing to await

    def stop(self) -> None:
        subprocess.run(["postfix", "-c", str(self.conf), "abort"], check=False, capture_output=True, timeout=60)
        shutil.rmtree(self.folder, ignore_errors=True)


class Client:
    """Speaks SMTP without second thoughts."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.file = self.socket.makefile("rb")
        self.reply()

    def reply(self) -> str:
        lines = []
        while True:
            line = self.file.readline().decode()
            lines.append(line)
            if line[3:4] != "-":
                return "".join(lines)

    def send(self, command: bytes | str) -> str:
        data = command if isinstance(command, bytes) else command.encode()
        self.socket.sendall(data + b"\r\n")
        return self.reply()

    def mail(
        self, sender: str, recipients: list[str], content: bytes, options: str = "", rcpt_options: str = ""
    ) -> str:
        """One transaction; the last reply, or the first that refuses."""
        replies = [self.send(f"MAIL FROM:<{sender}>{options}")]
        replies += [self.send(f"RCPT TO:<{recipient}>{rcpt_options}") for recipient in recipients]
        replies.append(self.send("DATA"))
        for reply in replies:
            if reply[0] not in "23":
                return reply
        self.socket.sendall(content + b".\r\n")
        return self.reply()

    def close(self) -> None:
        self.send("QUIT")
        self.file.close()
        self.socket.close()


def queue_id(reply: str) -> str:
    match = re.search(r"queued as (\S+)", reply)
    assert match, reply
    return match[1]
