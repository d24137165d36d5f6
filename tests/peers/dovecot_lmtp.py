"""Dovecot's LMTP server in a folder of its own, on TCP and a UNIX socket. It delivers to a maildir of each user.

It knows the users one, two and full; the last has no room left, which Dovecot says after the content.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.live import need, wait_for
from tests.peers.next_hops import answers, missing

CONFIG = """\
protocols = lmtp
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/log
ssl = no
first_valid_uid = 1
mail_location = maildir:{folder}/mail/%n
mail_plugins = quota
auth_username_format = %n
postmaster_address = postmaster@dovecot.test
hostname = dovecot.test
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
}}
plugin {{
  quota = maildir:all
}}
service lmtp {{
  inet_listener lmtp {{
    address = {address}
    port = {port}
  }}
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
}}
"""


class Dovecot:
    """Starts at once."""

    def __init__(self, address: str, port: int) -> None:
        program = need("dovecot")
        if os.geteuid() != 0:
            missing("Dovecot needs root")
        self.folder = folder = Path(tempfile.mkdtemp(prefix="dovecot-"))
        folder.chmod(0o755)
        self.socket = folder / "lmtp"
        user = pwd.getpwnam("nobody")
        (folder / "mail").mkdir()
        shutil.chown(folder / "mail", user.pw_uid, user.pw_gid)
        (folder / "state").mkdir()
        limits = {"one": "", "two": "", "full": "userdb_quota_rule=*:bytes=10"}
        (folder / "users").write_text(
            "".join(
                f"{name}:{{PLAIN}}x:{user.pw_uid}:{user.pw_gid}::{folder}/mail/{name}::{limit}\n"
                for name, limit in limits.items()
            )
        )
        config = folder / "dovecot.conf"
        config.write_text(CONFIG.format(folder=folder, address=address, port=port))
        self._process = subprocess.Popen(
            [program, "-F", "-c", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for(lambda: self.socket.exists() and answers(address, port), 20, f"Dovecot in {folder}")
        except BaseException:
            self.close()
            raise

    def stored(self, token: bytes, user: str) -> list[bytes]:
        """What a user has with a token in it, with CRLF; waits for the first."""

        def matching() -> list[bytes]:
            contents = [path.read_bytes() for path in sorted((self.folder / "mail" / user / "new").glob("*"))]
            return [one.replace(b"\n", b"\r\n") for one in contents if token in one]

        wait_for(lambda: bool(matching()), 30, f"{token!r} for {user}")
        return matching()

    def count(self, user: str) -> int:
        """How many mails a user has."""
        return len(list((self.folder / "mail" / user / "new").glob("*")))

    def close(self) -> None:
        """Its processes end with their master."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)
