"""Real mail servers as next hops, each in a folder of its own. They keep what they get in a maildir, byte for byte.

Recipients named no* are refused for good, later* until `let_all_in`. All of them offer STARTTLS with the certificate
they are given, and listen on an address of their own.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Protocol

import pytest

from tests.live import free_port, need, wait_for
from tests.peers.certificate import Certificate
from tests.peers.postfix_relay import AVAILABLE, Postfix


class NextHop(Protocol):
    """What the tests do with one."""

    def start(self) -> None:
        """Returns when the port answers."""

    def stop(self) -> None:
        """Returns when nothing of it runs. The mail that it kept stays."""

    def let_all_in(self) -> None:
        """Take later* from now on."""

    def stored(self, token: bytes, count: int = 1) -> list[bytes]:
        """What has a token in it, with CRLF, a copy for each recipient, as soon as there are so many."""

    def close(self) -> None:
        """Stop, and remove everything."""


def missing(what: str) -> None:
    """As tests.live.need: a skip, or a failure where peers are required."""
    if os.environ.get("FASTMTA_REQUIRE_PEERS"):
        pytest.fail(f"{what}, and FASTMTA_REQUIRE_PEERS is set")
    pytest.skip(what)


def answers(address: str, port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1)
        return sock.connect_ex((address, port)) == 0


class Maildir:
    """new/ of a maildir that another program fills."""

    def __init__(self, owner: str) -> None:
        # Not below pytest's folders: those are closed to other users.
        self.folder = Path(tempfile.mkdtemp(prefix="hop-"))
        self.folder.chmod(0o755)
        self.box = self.folder / "box"
        self.box.mkdir()
        shutil.chown(self.box, owner)

    def stored(self, token: bytes, count: int) -> list[bytes]:
        def matching() -> list[bytes]:
            contents = [path.read_bytes() for path in sorted((self.box / "new").glob("*"))]
            return [one.replace(b"\n", b"\r\n") for one in contents if token in one]

        wait_for(lambda: len(matching()) >= count, 30, f"{count} x {token!r} in {self.box}")
        return matching()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class PostfixHop:
    """Debian's Postfix with a virtual mailbox."""

    def __init__(self, address: str, port: int, certificate: Certificate) -> None:
        if not AVAILABLE:
            missing("Postfix is not installed, or this is not root")
        self.address = address
        self.port = port
        self.certificate = certificate
        self.maildir = Maildir("nobody")
        self.access = self.maildir.folder / "access"
        self.access.write_text("/^no/ 550 5.1.1 no such user\n/^later/ 450 4.2.0 come back later\n")
        self._postfix: Postfix | None = None

    def start(self) -> None:
        user = pwd.getpwnam("nobody")
        settings = {
            "myhostname": "postfix.test",
            "virtual_mailbox_domains": "static:all",
            "virtual_mailbox_base": str(self.maildir.folder),
            "virtual_mailbox_maps": "static:box/",
            "virtual_uid_maps": f"static:{user.pw_uid}",
            "virtual_gid_maps": f"static:{user.pw_gid}",
            "virtual_mailbox_limit": "0",
            "smtpd_recipient_restrictions": f"check_recipient_access regexp:{self.access}, permit",
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": str(self.certificate.cert),
            "smtpd_tls_key_file": str(self.certificate.key),
            "smtpd_tls_received_header": "yes",
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        service = f"{self.address}:{self.port} inet n - n - 20 smtpd"
        self._postfix = Postfix(free_port(), self.port, text, service)

    def let_all_in(self) -> None:
        """Restarts: smtpd reads its tables at start, and the client may have kept its connection."""
        self.stop()
        self.access.write_text("/^no/ 550 5.1.1 no such user\n")
        self.start()

    def stored(self, token: bytes, count: int = 1) -> list[bytes]:
        return self.maildir.stored(token, count)

    def stop(self) -> None:
        if self._postfix is not None:
            self._postfix.stop()
            self._postfix = None

    def close(self) -> None:
        self.stop()
        self.maildir.remove()


EXIM = """\
exim_path = {program}
spool_directory = {folder}/spool
log_file_path = {folder}/log-%slog
pid_file_path = {folder}/pid
primary_hostname = exim.test
local_interfaces = <; {address}
daemon_smtp_ports = {port}
tls_on_connect_ports =
tls_advertise_hosts = *
tls_certificate = {certificate.cert}
tls_privatekey = {certificate.key}
smtputf8_advertise_hosts = *
acl_smtp_rcpt = rcpt
acl_smtp_data = accept
message_size_limit = 50M
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_queue_per_connection = 0
deliver_drop_privilege = true
never_users =
keep_environment =

begin acl
rcpt:
  deny    local_parts = ^no
          message = 550 5.1.1 no such user
  defer   local_parts = ^later
          condition = ${{if exists{{{folder}/open}}{{no}}{{yes}}}}
          message = 450 4.2.0 come back later
  accept

begin routers
box:
  driver = accept
  transport = box

begin transports
box:
  driver = appendfile
  directory = {folder}/box
  maildir_format
  create_directory
  check_string =
  escape_string =
"""


class EximHop:
    """Debian's Exim, unpacked beside Postfix; no part of it has root."""

    def __init__(self, address: str, port: int, certificate: Certificate) -> None:
        self.program = need("exim4")
        self.address = address
        self.port = port
        self.user = "Debian-exim"
        try:
            pwd.getpwnam(self.user)
        except KeyError:
            missing("Exim's user Debian-exim does not exist")
        if os.geteuid() != 0:
            missing("Exim runs as its own user: needs root")
        self.maildir = Maildir(self.user)
        folder = self.maildir.folder
        shutil.chown(folder, self.user)
        text = EXIM.format(program=self.program, folder=folder, address=address, port=port, certificate=certificate)
        self.config = folder / "exim.conf"
        self.config.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self.program, "-C", str(self.config), "-bdf", "-q1m"],
            user=self.user,
            group=self.user,
            extra_groups=[],
            cwd=self.maildir.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(lambda: answers(self.address, self.port), 20, f"Exim in {self.maildir.folder}")

    def let_all_in(self) -> None:
        (self.maildir.folder / "open").touch()

    def stored(self, token: bytes, count: int = 1) -> list[bytes]:
        return self.maildir.stored(token, count)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)  # sessions too: the group is ours
            self._process.wait(10)
            self._process = None
            # A session that it had just forked may have held the port a moment longer.
            wait_for(lambda: not answers(self.address, self.port), 10, "Exim's port is closed")

    def close(self) -> None:
        self.stop()
        self.maildir.remove()
