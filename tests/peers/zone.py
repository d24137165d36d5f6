"""A real name server on loopback (Knot) with zones that a test writes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.live import need, wait_for

SOA = "$ORIGIN {origin}.\n$TTL {ttl}\n@ SOA ns.invalid. root.invalid. 1 3600 600 86400 {ttl}\n@ NS ns.invalid.\n"


class NameServer:
    """zones: the records of each, by origin; None makes the server fail for that zone (SERVFAIL)."""

    def __init__(self, folder: Path, port: int, zones: Mapping[str, str | None], ttl: int = 60) -> None:
        self.folder = folder
        self.port = port
        self.ttl = ttl
        self.zones = dict(zones)
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)

    def _write(self, origin: str) -> None:
        text = self.zones[origin]
        if text is not None:
            (self.folder / f"{origin}.zone").write_text(SOA.format(origin=origin, ttl=self.ttl) + text)

    def start(self) -> None:
        """Returns when it answers."""
        program = need("knotd")
        for origin in self.zones:
            self._write(origin)
        zones = "".join(f'- domain: {origin}\n  file: "{self.folder}/{origin}.zone"\n' for origin in self.zones)
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        config = self.folder / "knot.conf"
        config.write_text(
            f'server:\n  rundir: "{self.folder}"\n  listen: 127.0.0.1@{self.port}\n'
            f"  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n"
            f'database:\n  storage: "{self.folder}"\nlog:\n- target: "{log}"\n  any: info\nzone:\n{zones}'
        )
        self._process = subprocess.Popen(
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: log.exists() and "server started" in log.read_text(), 20, f"knotd in {self.folder}")

    def change(self, origin: str, records: str) -> None:
        """New records for a zone, also for one that failed so far; answers are the new ones when this returns."""
        self.stop()
        self.zones[origin] = records
        self.start()

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None

    @property
    def server(self) -> str:
        """For fastmta_dns_servers."""
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> NameServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
