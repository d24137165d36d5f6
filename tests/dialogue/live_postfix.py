"""A real Postfix in a folder, to hold replies, log and content against (3.7.10 or later: smtpd_forbid_bare_newline)."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tests.dialogue.script import BASE
from tests.live import free_port, need, wait_for

DAEMONS = Path("/usr/lib/postfix/sbin")
_LINE = re.compile(r"^\w+ +\d+ [\d:]+ \S+ postfix(?:-\w+)?/(\w+)\[\d+\]: (.*)$")


class LivePostfix:
    """with LivePostfix(tmp_path, [{}, {"soft_bounce": "yes"}]) as postfix: connect to postfix.ports[1]"""

    def __init__(
        self,
        folder: Path,
        services: Sequence[Mapping[str, str]],
        sink: int = 9,
        main: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """services: options of each smtpd; main: for all programs, over BASE."""
        self.folder = folder
        self.ports = [free_port() for _ in services]
        self.log_file = folder / "maillog"
        self.config = folder / "conf"
        self._services = services
        self._sink = sink
        self._main = main
        self._seen = 0

    def _write(self) -> None:
        for name in ("conf", "queue", "data"):
            (self.folder / name).mkdir(parents=True)
        for parent in (self.folder, *self.folder.parents):
            if str(parent).startswith("/tmp/"):
                parent.chmod(parent.stat().st_mode | 0o055)
        shutil.chown(self.folder / "data", "postfix")
        source = Path("/etc/postfix")
        for name in ("postfix-files", "postfix-script", "post-install", "dynamicmaps.cf"):
            if (source / name).exists():
                shutil.copy(source / name, self.config / name)
        for name in ("postfix-files.d", "dynamicmaps.cf.d"):
            if (source / name).exists():
                shutil.copytree(source / name, self.config / name)
        master = Path("/usr/share/postfix/master.cf.dist").read_text()
        master = re.sub(r"^smtp +inet.*$", "", master, flags=re.M)
        master = re.sub(r"^(\w+ +(?:unix|unix-dgram) +\S+ +\S+ +)y", r"\1n", master, flags=re.M)
        for port, options in zip(self.ports, self._services, strict=True):
            master += f"127.0.0.1:{port} inet n - n - 1 smtpd\n"
            for name, value in options.items():
                master += "  -o {" + f"{name}={value}" + "}\n"
        (self.config / "master.cf").write_text(master)
        values = {
            **BASE,
            "compatibility_level": "3.6",
            "queue_directory": str(self.folder / "queue"),
            "data_directory": str(self.folder / "data"),
            "command_directory": "/usr/sbin",
            "daemon_directory": str(DAEMONS),
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "maillog_file": str(self.log_file),
            "maillog_file_prefixes": "/",
            "alias_maps": "",
            "local_recipient_maps": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "default_transport": f"smtp:[127.0.0.1]:{self._sink}",
            "relay_transport": f"smtp:[127.0.0.1]:{self._sink}",
            "local_transport": f"smtp:[127.0.0.1]:{self._sink}",
            "disable_dns_lookups": "yes",
            "smtp_line_length_limit": "0",
            "smtp_tls_security_level": "none",
            **self._main,
        }
        (self.config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in values.items()))

    def _command(self, word: str) -> None:
        done = subprocess.run(
            [need("postfix"), "-c", str(self.config), word], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (done.stdout, done.stderr, self.lines())

    def lines(self) -> list[str]:
        """The log so far: "smtpd: connect from ..."."""
        if not self.log_file.exists():
            return []
        found = [_LINE.match(line) for line in self.log_file.read_text(errors="replace").splitlines()]
        return [f"{match[1]}: {match[2]}" for match in found if match]

    def new_lines(self, sessions: int) -> list[str]:
        """What smtpd logged since the last call, once so many sessions have ended."""

        def ended() -> bool:
            return sum(": disconnect from " in line for line in self.lines()[self._seen :]) >= sessions

        wait_for(ended, 20, "the end of the session in Postfix's log")
        lines = self.lines()
        new, self._seen = lines[self._seen :], len(lines)
        return new

    def __enter__(self) -> LivePostfix:
        self._write()
        self._command("start")
        return self

    def __exit__(self, *exc: object) -> None:
        self._command("stop")
