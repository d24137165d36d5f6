"""The same failing servers for a live Postfix and for our client: the log must say the same.

One Postfix for all: a transport of its own for each scenario. It listens and delivers on loopback only.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import smtplib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client_scenarios_more import ALL
from tests.delivery import Server, run

pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not shutil.which("postfix") or not Path("/usr/share/postfix/master.cf.dist").exists(),
        reason="needs Postfix and root",
    ),
]

PORT = 21390


def start_postfix(folder: Path, transports: dict[str, str]) -> Path:
    """Configure and start; returns the log file."""
    conf = folder / "conf"
    for parent in folder.parents:
        if str(parent).startswith("/tmp/pytest"):
            parent.chmod(0o755)  # its daemons are not root
    for name in ("conf", "queue", "data"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    shutil.chown(folder / "data", "postfix")
    for source in Path("/etc/postfix").glob("*"):
        if source.name.startswith(("postfix-files", "postfix-script", "post-install", "dynamicmaps.cf")):
            (shutil.copytree if source.is_dir() else shutil.copy)(source, conf / source.name)
    master = Path("/usr/share/postfix/master.cf.dist").read_text()
    master = re.sub(r"^smtp +inet.*$", f"127.0.0.1:{PORT} inet n - n - 20 smtpd", master, flags=re.M)
    master = re.sub(r"^(\w+ +unix +[-yn] +[-yn] +)y", r"\1n", master, flags=re.M)
    fast = "".join(
        f" -o smtp_{name}_timeout=2s" for name in ("helo", "mail", "rcpt", "data_init", "data_xfer", "data_done")
    )
    for level in ("may", "encrypt"):
        master += f"\n{level} unix - - n - 50 smtp -o smtp_tls_security_level={level}"
    master += f"\nfast unix - - n - 50 smtp{fast}\nours unix - - n - 50 smtp\nlours unix - - n - 50 lmtp\n"
    (conf / "master.cf").write_text(master)
    (conf / "main.cf").write_text(f"""
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
myhostname = client.example
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
transport_maps = inline:{{ {" ".join(f"{{ {domain} = {value} }}" for domain, value in transports.items())} }}
smtp_randomize_addresses = no
smtp_tls_security_level = none
smtp_connection_cache_on_demand = no
bounce_queue_lifetime = 0
notify_classes =
""")
    subprocess.run(["postfix", "-c", str(conf), "start"], check=True, capture_output=True, timeout=30)
    return folder / "log"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[tuple[str, str, str, str]]]]:
    """(status, dsn, relay, text) of each recipient, by scenario, from Postfix's log."""
    folder = tmp_path_factory.mktemp("postfix")
    found: dict[str, list[tuple[str, str, str, str]]] = {}

    async def main() -> None:
        loop = asyncio.get_running_loop()
        servers = {case.name: [await Server(talk).start() for talk in case.hosts] for case in ALL}
        transports = {}
        for case in ALL:
            nexthop = ",".join(server.nexthop for server in servers[case.name])
            kind = "lours" if case.lmtp else "fast" if case.fast else case.tls or "ours"
            transports[case.name.replace("_", "-") + ".example"] = f"{kind}:{nexthop}"
        log = await loop.run_in_executor(None, start_postfix, folder, transports)
        try:
            await loop.run_in_executor(None, inject)
            wanted = sum(case.recipients for case in ALL)
            for _ in range(300):
                lines = [line for line in log.read_text().splitlines() if " to=<" in line and "ours" not in line]
                if len([line for line in lines if ".example>, " in line and "to=<r" in line]) >= wanted:
                    break
                await asyncio.sleep(0.1)
        finally:
            await loop.run_in_executor(
                None, lambda: subprocess.run(["postfix", "-c", str(folder / "conf"), "stop"], capture_output=True)
            )
            for group in servers.values():
                for server in group:
                    server.errors.clear()
                    await server.stop()
        text = log.read_text()
        for case in ALL:
            domain = case.name.replace("_", "-") + ".example"
            rows = []
            for number in range(case.recipients):
                match = re.search(
                    rf"to=<r{number}@{re.escape(domain)}>, relay=(\S+?), .*?dsn=(\S+), status=(\w+) \((.*)\)$",
                    text,
                    re.M,
                )
                assert match, f"Postfix logged nothing for {domain}"
                relay, dsn, status, reason = match.groups()
                for host, server in enumerate(servers[case.name], 1):
                    relay = relay.replace(f"127.0.0.1[127.0.0.1]:{server.port}", f"P{host}")
                rows.append((status, dsn, relay, reason))
            found[case.name] = rows

    run(main)
    yield found


def inject() -> None:
    for _ in range(100):
        try:
            client = smtplib.SMTP("127.0.0.1", PORT, timeout=10)
            break
        except OSError:
            time.sleep(0.1)
    for case in ALL:
        domain = case.name.replace("_", "-") + ".example"
        body = "Subject: hi\r\n\r\n" + "x" * 60 + "\r\n" * (1 + case.size // 2)
        client.sendmail("s@example.org", [f"r{number}@{domain}" for number in range(case.recipients)], body)
    client.quit()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_postfix_says_the_same(case, outcomes) -> None:  # type: ignore[no-untyped-def]
    found = [
        (status, dsn, re.sub(r"message size \d+", "message size SIZE", text))
        for status, dsn, _relay, text in outcomes[case.name]
    ]
    expected = [
        (status, dsn, text.replace("H1", "127.0.0.1[127.0.0.1]").replace("H2", "127.0.0.1[127.0.0.1]"))
        for status, dsn, text in case.outcome
    ]
    assert found == expected
    assert outcomes[case.name][-1][2] == case.relay
