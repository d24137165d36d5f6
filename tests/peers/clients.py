"""Mail clients that people use, each behind one function: it sends one message and says how it went.

Contents are in wire form without dot stuffing. Every client that can verifies the server's certificate.
"""

from __future__ import annotations

import json
import os
import shutil
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.live import need
from tests.peers.certificate import Certificate

NODE = """\
const input = JSON.parse(require("fs").readFileSync(0, "utf8"));
const content = require("fs").readFileSync(input.file);
const transport = require("nodemailer").createTransport(input.transport);
transport.sendMail({ envelope: input.envelope, raw: content }).then(
    (info) => { console.log(JSON.stringify(info)); },
    (error) => { console.log(error.response || error.message); process.exitCode = 1; });
"""


class Send(msgspec.Struct, frozen=True):
    """What is to be sent, and where to."""

    port: int
    sender: str
    recipients: tuple[str, ...]
    content: bytes
    certificate: Certificate | None  # None: in plain text
    folder: Path
    utf8: bool = False


class Sent(msgspec.Struct, frozen=True):
    """Whether the client says that it went well, and all that it said."""

    ok: bool
    said: str


def run(send: Send, *command: str, text: bytes = b"", **environment: str) -> Sent:
    done = subprocess.run(
        command,
        input=text,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
        env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(send.folder), **environment},
    )
    return Sent(done.returncode == 0, done.stdout.decode(errors="replace"))


def local_lines(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def swaks(send: Send) -> Sent:
    data = send.folder / "swaks.eml"
    data.write_bytes(local_lines(send.content).removesuffix(b"\n"))  # it ends the last line itself
    tls = ["--tls", "--tls-verify", "--tls-ca-path", str(send.certificate.cert)] if send.certificate else []
    address = ["--server", "127.0.0.1", "--port", str(send.port), "--ehlo", "client.test"]
    envelope = ["--from", send.sender, "--to", ",".join(send.recipients)]
    return run(send, need("swaks"), *address, *envelope, "--suppress-data", *tls, "--data", f"@{data}")


def msmtp(send: Send) -> Sent:
    tls = ["--tls=off"]
    if send.certificate:
        tls = ["--tls=on", "--tls-starttls=on", f"--tls-trust-file={send.certificate.cert}"]
    options = ["--file=/dev/null", "--host=127.0.0.1", f"--port={send.port}", "--domain=client.test", "--timeout=30"]
    return run(
        send,
        need("msmtp"),
        *options,
        *tls,
        f"--from={send.sender}",
        "--",
        *send.recipients,
        text=local_lines(send.content),
    )


def s_nail(send: Send) -> Sent:
    """It composes the message itself: the content's body becomes the body, its Message-ID the subject."""
    header, _, body = send.content.partition(b"\r\n\r\n")
    subject = next(line for line in header.decode().split("\r\n") if line.startswith("Message-ID:"))
    settings = {
        "v15-compat": "",
        "mta": f"smtp://localhost:{send.port}",  # it wants a name in the certificate
        "smtp-auth": "none",
        "hostname": "client.test",
        "from": send.sender,
        "DEAD": "/dev/null",
        "ttycharset": "utf-8",
        "sendcharsets": "utf-8",
        "mime-encoding": "8bit",
    }
    if send.certificate:
        settings |= {"smtp-use-starttls": "", "tls-ca-file": str(send.certificate.cert), "tls-verify": "strict"}
    options = [word for name, value in settings.items() for word in ("-S", f"{name}={value}" if value else name)]
    return run(
        send,
        need("s-nail"),
        *("-:/", "-r", send.sender, "-S", "expandaddr=fail", "-S", "sendwait"),
        *options,
        *("-s", subject.partition(":")[2].strip(), *send.recipients),
        text=local_lines(body),
    )


def nodemailer(send: Send) -> Sent:
    path = send.folder / "nodemailer.eml"
    path.write_bytes(local_lines(send.content))
    transport: dict[str, Any] = {"host": "127.0.0.1", "port": send.port, "secure": False, "name": "client.test"}
    if send.certificate:
        transport |= {"requireTLS": True, "tls": {"ca": [send.certificate.cert.read_text()]}}
    else:
        transport["ignoreTLS"] = True
    order = {
        "file": str(path),
        "transport": transport,
        "envelope": {"from": send.sender, "to": send.recipients},
    }
    return run(send, need_nodemailer(), "-e", NODE, text=json.dumps(order).encode(), NODE_PATH=str(node_path()))


def node_path() -> Path:
    """The folder that nodemailer is in: NODE_PATH, Debian's, or where the build unpacked it."""
    folders = [os.environ.get("NODE_PATH", ""), "/usr/share/nodejs", "build/peers/root/usr/share/nodejs"]
    for folder in folders:
        if folder and (Path(folder) / "nodemailer").exists():
            return Path(folder).absolute()
    return Path("/nonexistent")


def need_nodemailer() -> str:
    node = need("node")
    return node if node_path().exists() else need("nodemailer")


def python_smtplib(send: Send) -> Sent:
    try:
        with smtplib.SMTP("127.0.0.1", send.port, local_hostname="client.test", timeout=60) as client:
            if send.certificate:
                client.starttls(context=ssl.create_default_context(cafile=str(send.certificate.cert)))
            client.ehlo()
            options = ["BODY=8BITMIME", *(["SMTPUTF8"] if send.utf8 else [])]
            client.sendmail(send.sender, list(send.recipients), send.content, mail_options=options)
    except smtplib.SMTPException as error:
        return Sent(False, str(error))
    return Sent(True, "")


CLIENTS: dict[str, Callable[[Send], Sent]] = {
    "swaks": swaks,
    "msmtp": msmtp,
    "s-nail": s_nail,
    "nodemailer": nodemailer,
    "smtplib": python_smtplib,
}


def swaks_has_tls() -> bool:
    path = shutil.which("swaks")
    return (
        bool(path)
        and "=== TLS supported"
        in subprocess.run([path, "--support"], capture_output=True, text=True, check=False).stdout
    )
