"""`postcat -q`: show messages of the queue. postcat(1) of Postfix 3.7: same options, same output, same messages.

    postcat [-bdehov] [-c config_dir] -q queue_id...

The queue has no file per message: without -q there is nothing that this program could read. -r and -s are accepted and
change nothing: there are no pointer records to follow.
"""

from __future__ import annotations

import sys
from typing import Final

from fastmta.admin.queuefile import Show, path_of, show
from fastmta.admin.spool import Spool, SpoolError
from fastmta.cli.tool import Fatal, Tool, become_owner, is_queue_id

USAGE: Final = (
    "postcat [-b (body text)] [-c config_dir] [-d (decimal record type)] [-e (envelope records)] "
    "[-h (header text)] [-q (access queue)] [-v] [file(s)...]"
)


def main(argv: list[str]) -> int:
    """The program; argv without its name."""
    tool = Tool("postcat", USAGE)
    return tool.run(lambda: _main(tool, argv))


def _main(tool: Tool, argv: list[str]) -> int:
    options, names = tool.options(argv, "bc:dehoqrs:v")
    letters = {option for option, _ in options}
    directory: str | None = None
    for option, value in options:
        if option == "c":
            directory = value
        elif option == "s" and not value.isdecimal():
            raise Fatal(f"bad offset: {value}")
    everything = not letters & {"e", "h", "b"}
    what = Show(
        envelope=everything or "e" in letters,
        header=everything or "h" in letters,
        body=everything or "b" in letters,
        offsets="o" in letters,
        types="d" in letters,
        verbose="v" in letters,
    )
    config = tool.configuration(directory)
    if "q" not in letters:
        for name in names:
            tool.say(f"warning: {name}: input is not a valid queue file")
        if not names:
            raise Fatal("no queue files to read: use -q with queue IDs")
        return 0
    become_owner(config)
    out = sys.stdout.buffer
    try:
        spool = Spool(config.queue_directory)
    except SpoolError as error:
        raise Fatal(str(error)) from error
    with spool:
        for queue_id in names:
            if not is_queue_id(queue_id):
                raise Fatal(f"bad mail queue ID: {queue_id}")
            entry = spool.find(queue_id)
            if entry is None:
                out.flush()
                if spool.problems:
                    raise Fatal(f"open queue file {queue_id}: {'; '.join(spool.problems)}")
                raise Fatal(f"open queue file {queue_id}: No such file or directory")
            path = path_of(entry.queue, queue_id)
            limit = config.get_int("line_length_limit")
            for piece in show(path, entry, lambda entry=entry: spool.content(entry), what, limit):  # type: ignore[misc]
                out.write(piece)
        out.flush()
    return 0
