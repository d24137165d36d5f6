"""`fastmta quickstart [DIR [PORT]]`: a mail relay to look at, in a folder of its own; `make run` calls it.

Writes main.cf and master.cf into DIR (default: run) where they are missing, from the templates in config/default/, with
the queue in DIR/queue, then does as start-fg. It needs no root and takes no privileged port. When root calls it, the
workers run as the user that called sudo, else as nobody; if that user may not enter DIR, /var/lib/fastmta takes its
place.
"""

from __future__ import annotations

import os
import pwd
import socket
import sys
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Final

from fastmta.cli import foreground, script
from fastmta.config import ConfigError, load
from fastmta.master import identity
from fastmta.master.sockets import service_endpoints, smtpd_services

FILES: Final = ("main.cf", "master.cf")
PORT: Final = 2525
ELSEWHERE: Final = Path("/var/lib/fastmta")


def main(directory: Path, arguments: list[str]) -> int:
    """Write the configuration if need be, and run. directory is not looked at: the folder is the first argument."""
    folder = Path(arguments[0] if arguments else "run").absolute()
    port = arguments[1] if len(arguments) > 1 else str(PORT)
    if len(arguments) > 2 or not (port.isascii() and port.isdigit()):
        return script.fatal("usage: fastmta quickstart [folder [port]]")
    try:
        owner = mail_owner()
        folder = reachable(folder, identity.find(owner))
        write_config(folder, owner, port)
        listening = addresses(folder)
    except (OSError, ConfigError, identity.IdentityError) as error:
        return script.fatal(str(error))
    return foreground.stay(folder, partial(greet, folder, listening))


def mail_owner() -> str:
    """Who is to run the workers."""
    if os.geteuid():
        return pwd.getpwuid(os.geteuid()).pw_name
    sudo = os.environ.get("SUDO_USER", "")
    return sudo if sudo not in ("", "root") else "nobody"


def reachable(folder: Path, owner: identity.Identity) -> Path:
    """The folder, or another one where the workers could not get at this one."""
    try:
        owner.must_reach(folder / "queue")
    except identity.IdentityError as error:
        if folder.exists() and (folder / "main.cf").exists():
            raise
        script.warning(f"{error}: using {ELSEWHERE} instead")
        return ELSEWHERE
    return folder


def write_config(folder: Path, owner: str, port: str) -> None:
    """Make the folder and those of the two files that are missing."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    values = {
        "directory": str(folder),
        "queue_directory": str(folder / "queue"),
        "mail_owner": owner,
        "hostname": socket.gethostname(),
        "port": port,
    }
    for name in FILES:
        path = folder / name
        if path.exists():
            continue
        text = resources.files("fastmta.config").joinpath("default", name).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        path.write_text(text)


def addresses(folder: Path) -> list[tuple[str, int]]:
    """(address, port) of everything that the configuration listens at."""
    config = load(folder)
    found = []
    for service in smtpd_services(config):
        found += [(endpoint.address, endpoint.port) for endpoint in service_endpoints(service, config)]
    return found


def greet(folder: Path, listening: list[tuple[str, int]]) -> None:
    """Say where it listens and how to send a first mail, once it does."""
    host, port = min(listening, key=lambda pair: ":" in pair[0])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    send = "s.sendmail('me@example.test', 'you@example.test', 'Subject: hi\\n\\nhello')"
    code = f"import smtplib; s = smtplib.SMTP('{host}', {port}); {send}; s.quit()"
    program = sys.argv[0] if Path(sys.argv[0]).name == "fastmta" else f"{sys.executable} -m fastmta"
    places = ", ".join(f"[{a}]:{p}" if ":" in a else f"{a}:{p}" for a, p in listening)
    print(
        f"""
FastMTA accepts mail at {places} from this machine.

  Send a first mail from another terminal, and see it pass below:
    swaks --server {shown} --port {port} --from me@example.test --to you@example.test
    python3 -c "{code}"

  Configuration: {folder}/main.cf and master.cf; after a change: {program} reload -c {folder}
  Queue:         {program} postqueue -c {folder} -p
  Ctrl-C stops it.
""",
        flush=True,
    )
