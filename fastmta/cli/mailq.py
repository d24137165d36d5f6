"""`mailq`: the queue for people, as `postqueue -p`. mailq(1): the options are those of sendmail(1) that matter here.

mailq [-v] [-C config_dir] [-c config_dir] [-q | -qI queue_id | -qR site]
"""

from __future__ import annotations

from typing import Final

from fastmta.cli import postqueue
from fastmta.cli.tool import EX_UNAVAILABLE, Tool

USAGE: Final = "mailq [-v] [-C config_dir]"


def main(argv: list[str]) -> int:
    """The program; argv without its name."""
    tool = Tool("mailq", USAGE, EX_UNAVAILABLE)
    return tool.run(lambda: _main(tool, argv))


def _main(tool: Tool, argv: list[str]) -> int:
    # sendmail's -q has an optional argument, which getopt does not know
    queue = [word for word in argv if word.startswith("-q")]
    options, rest = tool.options([word for word in argv if word not in queue], "C:c:v")
    directory = next((value for option, value in reversed(options) if option in "Cc"), None)
    if queue and queue[-1] in ("-qI", "-qR") and len(rest) == 1:
        queue.append(queue.pop() + rest.pop())
    if rest:
        tool.fail_usage()
    config = tool.configuration(directory)
    if not queue:
        return postqueue.show(tool, config, as_json=False)
    what = queue[-1]
    if what.startswith("-qI"):
        return postqueue.flush_id(config, what[3:])
    if what.startswith("-qR"):
        return postqueue.flush_site(config, what[3:])
    return postqueue.flush(config)
