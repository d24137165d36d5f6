"""`qshape`: how the queue is spread over domains and ages. qshape(1) of Postfix 3.7.

qshape [-s] [-p] [-m min_subdomains] [-l] [-b bucket_count] [-t bucket_time] [-w width]
       [-N batch_msg_count] [-n batch_top_domains] [-c config_dir] [queue_name ...]
"""

from __future__ import annotations

import sys
import time
from typing import Final

from fastmta.admin.shape import Buckets, Shape
from fastmta.admin.spool import Spool, SpoolError
from fastmta.cli.tool import Fatal, Tool, become_owner
from fastmta.config import ConfigError
from fastmta.queue import listing

USAGE: Final = """\
qshape [ -s ] [ -p ] [ -m <min_subdomains> ] [ -l ]
	[ -b <bucket_count> ] [ -t <bucket_time> ] [ -w <terminal_width> ]
	[ -N <batch_msg_count> ] [ -n <batch_top_domains> ]
	[ -c <config_directory> ] [ <queue_name> ... ]
The 's' option shows sender domain counts.
The 'p' option shows address counts by for parent domains.
Parent domains are shown with a leading '.' before the domain name.
Parent domains are only shown if the domain is not a TLD, and at
least <min_subdomains> (default 5) subdomains are shown in the output.

The bucket age ranges in units of <bucket_time> minutes are
[0,1), [1,2), [2,4), [4,8), [8, 16), ... i.e.:
	the first bucket is [0, bucket_time) minutes
	the second bucket is [bucket_time, 2*bucket_time) minutes
	the third bucket is [2*bucket_time, 4*bucket_time) minutes...
'-l' makes the ages linear, the number of buckets shown is <bucket_count>

The default summary is for the incoming and active queues. An explicit
list of queue names can be given on the command line.
"""
_QUEUES: Final = ("maildrop", listing.INCOMING, listing.ACTIVE, listing.DEFERRED, listing.HOLD)
_EX_USAGE: Final = 255
_CLEAR: Final = "\x1b[H\x1b[2J"


def main(argv: list[str]) -> int:
    """The program; argv without its name."""
    tool = Tool("qshape", USAGE)
    return tool.run(lambda: _main(tool, argv))


def _main(tool: Tool, argv: list[str]) -> int:
    import getopt

    try:
        pairs, names = getopt.getopt(argv, "lhc:psw:b:t:m:n:N:")
    except getopt.GetoptError as error:
        sys.stderr.write(f"qshape: Unknown option: {error.opt}\nUsage: {USAGE}")
        return _EX_USAGE
    options = {option[1:]: value for option, value in pairs}
    if "h" in options:
        sys.stderr.write(f"Usage: {USAGE}")
        return _EX_USAGE
    buckets = Buckets(_number(options.get("b"), 10), _number(options.get("t"), 5), "l" in options)
    shape = Shape(buckets, parents="p" in options, min_subdomains=_number(options.get("m"), 5))
    width = max(_number(options.get("w"), 80), 80)
    batch = top = 0
    if sys.stdout.isatty():
        batch = _number(options.get("N"), 1000, low=0)
        top = _number(options.get("n"), 20, low=0)
    try:
        config = tool.configuration(options.get("c"))
    except ConfigError as error:
        sys.stderr.write(f"postconf: fatal: {error}\nqshape: postconf failed\n")
        return 1
    become_owner(config)
    try:
        spool = Spool(config.queue_directory)
    except SpoolError as error:
        raise Fatal(str(error)) from error
    queues = _queues(names, str(config.queue_directory))
    now = time.time()
    with spool:
        messages = 0
        for entry in spool.entries() if queues else ():
            if entry.queue not in queues:
                continue
            if "s" in options:
                addresses = [entry.envelope.sender]
            else:
                addresses = [recipient.address for recipient in entry.remaining()]
            shape.add(now - entry.envelope.arrival, addresses)
            messages += 1
            if batch and messages % batch == 0:
                sys.stdout.write(_CLEAR + "".join(shape.table(width, top)))
                sys.stdout.flush()
    sys.stdout.write((_CLEAR if batch else "") + "".join(shape.table(width, top)))
    return 0


def _queues(names: list[str], queue_directory: str) -> set[str]:
    """The queues that are named, by name or by the path of their folder."""
    if not names:
        return {listing.INCOMING, listing.ACTIVE}
    queues: set[str] = set()
    for name in names:
        queue = name.rstrip("/").removeprefix(f"{queue_directory.rstrip('/')}/")
        if queue in _QUEUES:
            queues.add(queue)
        else:
            sys.stderr.write(f"Can't stat {name}: No such file or directory\n")
    return queues


def _number(text: str | None, default: int, low: int = 1) -> int:
    """A count; what is none, or too small, is the default, as in the script."""
    if text is None:
        return default
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if digits and int(digits) >= low else default
