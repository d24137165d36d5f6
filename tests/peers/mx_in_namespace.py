"""Run by test_mx_like_postfix.py in network and mount namespaces of its own: mail for each domain of the zone through
a live Postfix.

Port 53 and 25 are free there, and resolv.conf may be replaced. Writes {nexthop: [relay, status, dsn, text]} as JSON
to standard output.
"""

from __future__ import annotations

import asyncio
import json
import re
import smtplib
import subprocess
import sys
import time
from pathlib import Path

from tests.delivery import Server, run
from tests.mx_zone import DOMAINS, GOOD, MIRROR, Knot, good, mirror
from tests.peers.test_client_like_postfix import PORT, start_postfix


def inject() -> None:
    for _ in range(100):
        try:
            client = smtplib.SMTP("127.0.0.1", PORT, timeout=10)
            break
        except OSError:
            time.sleep(0.1)
    for number in range(len(DOMAINS)):
        client.sendmail("s@example.org", [f"r@d{number}.example"], "Subject: x\r\n\r\nx\r\n")
    client.quit()


async def main() -> None:
    loop = asyncio.get_running_loop()
    servers = [await Server(good).start(GOOD, 25), await Server(mirror).start(MIRROR, 25)]
    transports = {f"d{number}.example": f"smtp:{nexthop}" for number, nexthop in enumerate(DOMAINS)}
    log = await loop.run_in_executor(None, start_postfix, FOLDER, transports)
    try:
        await loop.run_in_executor(None, inject)
        for _ in range(300):
            if len(set(re.findall(r" to=<r@d(\d+)\.example>", log.read_text()))) == len(DOMAINS):
                break
            await asyncio.sleep(0.1)
    finally:
        await loop.run_in_executor(None, stop)
    for server in servers:
        await server.stop()
    found = {}
    for number, nexthop in enumerate(DOMAINS):
        pattern = rf"to=<r@d{number}\.example>, relay=(\S+?), .*?dsn=(\S+), status=(\w+) \((.*)\)$"
        match = re.search(pattern, log.read_text(), re.M)
        found[nexthop] = [match[1], match[3], match[2], match[4]] if match else []
    json.dump(found, sys.stdout)


def stop() -> None:
    subprocess.run(["postfix", "-c", str(FOLDER / "conf"), "stop"], capture_output=True)


if __name__ == "__main__":
    FOLDER = Path(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    (FOLDER / "resolv").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(FOLDER / "resolv"), "/etc/resolv.conf"], check=True)
    knot = Knot(FOLDER / "knot", 53)
    try:
        run(main)
    finally:
        knot.stop()
