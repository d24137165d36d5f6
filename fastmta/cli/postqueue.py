"""`postqueue`: list the queue, or have it tried again. postqueue(1) of Postfix 3.7, its messages and exit statuses.

    postqueue [-v] [-c config_dir] -f | -i queue_id | -j | -p | -s site

Deviation: -s works for any destination; Postfix serves only those of fast_flush_domains.
"""

from __future__ import annotations

import os
import pwd
import sys
from typing import Final

from fastmta.admin import protocol
from fastmta.admin.client import NotAllowedError
from fastmta.admin.showq import JsonFormat, MailqFormat
from fastmta.admin.spool import Spool, SpoolError
from fastmta.cli.tool import EX_UNAVAILABLE, Fatal, Tool, become_owner, is_queue_id
from fastmta.config import Config
from fastmta.queue.listing import DEFERRED

USAGE: Final = "postqueue -f | postqueue -i queueid | postqueue -j | postqueue -p | postqueue -s site"
_BLOCK: Final = 1 << 16  # characters gathered for one write, after the first message


def main(argv: list[str]) -> int:
    """The program; argv without its name."""
    tool = Tool("postqueue", USAGE, EX_UNAVAILABLE)
    return tool.run(lambda: _main(tool, argv))


def _main(tool: Tool, argv: list[str]) -> int:
    options, rest = tool.options(argv, "c:fi:jps:v")
    directory: str | None = None
    modes: list[tuple[str, str]] = []
    for option, value in options:
        if option == "c":
            directory = value
        elif option == "v":
            tool.verbose += 1
        else:
            modes.append((option, value))
    if rest or len(modes) != 1:
        tool.fail_usage()
    config = tool.configuration(directory)
    mode, value = modes[0]
    if mode == "p":
        return show(tool, config, as_json=False)
    if mode == "j":
        return show(tool, config, as_json=True)
    if mode == "f":
        return flush(config)
    if mode == "i":
        return flush_id(config, value)
    return flush_site(config, value)


def show(tool: Tool, config: Config, *, as_json: bool) -> int:
    """List the queue on stdout."""
    empty = config.get_str("empty_address_recipient")
    form: JsonFormat | MailqFormat
    if as_json:
        form = JsonFormat(empty_address=empty)
    else:
        form = MailqFormat(long_ids=config.get_bool("enable_long_queue_ids"), empty_address=empty)
    become_owner(config)
    # a terminal or a pipe may speak any encoding: addresses are UTF-8, as they came
    out = sys.stdout.buffer
    block: list[str] = []
    size = 0
    with _open(config) as spool:
        if not spool.readable:
            raise Fatal(
                "Queue report unavailable - mail system is down"
                if spool.down
                else f"User {_user()} is not allowed to view the mail queue"
            )
        if spool.down:
            why = f"Connect to the {config.get_str('mail_name')} showq service: {spool.why_down}"
            tool.say(f"warning: Mail system is down -- accessing queue directly ({why})")
        first = True
        for entry in spool.entries():
            text = form.message(entry)
            block.append(text)
            size += len(text)
            if first or size > _BLOCK:
                out.write("".join(block).encode("utf-8", "replace"))
                out.flush()
                block.clear()
                size, first = 0, False
        if not (first and spool.problems):  # else it is not known to be empty
            block.append(form.end())
        out.write("".join(block).encode("utf-8", "replace"))
        out.flush()
        for text in (*spool.notes, *spool.problems):
            tool.say(f"warning: {text}")
    return EX_UNAVAILABLE if spool.problems else 0


def flush(config: Config) -> int:
    """Have all deferred mail tried now."""
    with _open(config) as spool:
        if spool.down:
            raise Fatal("Cannot flush mail queue - mail system is down")
        for worker in spool.workers:
            worker.ask(protocol.Request(protocol.FLUSH))
    return 0


def flush_id(config: Config, queue_id: str) -> int:
    """Have one message tried now, if it is there."""
    if not is_queue_id(queue_id):
        raise Fatal(f'Cannot flush queue ID - invalid name: "{_cut(queue_id)}"')
    with _open(config) as spool:
        if spool.down:
            raise Fatal("Cannot flush mail queue - mail system is down")
        for worker in spool.workers:
            if worker.ask_about(protocol.FLUSH_ID, [queue_id], []):
                break
    return 0


def flush_site(config: Config, site: str) -> int:
    """Have all deferred mail for a site tried now."""
    if not is_site(site):
        raise Fatal(f'Cannot flush mail queue - invalid destination: "{_cut(site)}"')
    become_owner(config)
    wanted = site.lower()
    with _open(config) as spool:
        if spool.down:
            raise Fatal("Cannot flush mail queue - mail system is down")
        if not spool.readable:
            raise Fatal(f"User {_user()} is not allowed to flush the mail queue")
        spool.apply_where(
            protocol.FLUSH_ID,
            [DEFERRED],
            lambda entry: any(
                recipient.address.rpartition("@")[2].lower() == wanted for recipient in entry.remaining()
            ),
        )
    return 0


def is_site(site: str) -> bool:
    """A host name, or an address literal in brackets."""
    if site.startswith("["):
        return is_literal(site)
    labels = site.split(".")
    return 0 < len(site) <= 255 and all(
        0 < len(label) <= 63 and label.replace("-", "a").replace("_", "a").isalnum() and label[0] != "-" != label[-1]
        for label in labels
    )


def is_literal(site: str) -> bool:
    """[1.2.3.4] or [IPv6:::1]."""
    import ipaddress

    if not site.endswith("]"):
        return False
    inner = site[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            ipaddress.IPv6Address(inner[5:])
        else:
            ipaddress.IPv4Address(inner)
    except ValueError:
        return False
    return True


def _user() -> str:
    uid = os.getuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name}({uid})"
    except KeyError:
        return f"unknown({uid})"


def _cut(text: str) -> str:
    return f"{text[:100]}..." if len(text) > 100 else text


def _open(config: Config) -> Spool:
    try:
        return Spool(config.queue_directory)
    except NotAllowedError as error:
        raise Fatal(f"Connect to the {config.get_str('mail_name')} showq service: {error}") from error
    except SpoolError as error:
        raise Fatal(str(error)) from error
