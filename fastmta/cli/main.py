"""The multi-call program: `fastmta COMMAND`, and the programs named after Postfix's, which are commands of it.

    fastmta [-c DIR] [-v] start|start-fg|stop|abort|reload|status|check|flush|quickstart|why
    fastmta [-c DIR] postqueue|mailq|postsuper|postcat|qshape|postconf ...        as the programs of these names

Only dispatches: each command is a module with `main`, imported when it is asked for. -c may stand before or after the
command's name; it reaches the programs through MAIL_CONFIG, as Postfix hands it on.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

from fastmta.cli import script

# command: module with main(directory, arguments) -> exit status
COMMANDS: Final = {
    "start": "start",
    "start-fg": "foreground",
    "stop": "stop",
    "abort": "abort",
    "reload": "reload",
    "status": "status",
    "check": "check",
    "flush": "flush",
    "quickstart": "quickstart",
    "why": "why",
}
WITH_ARGUMENTS: Final = ("quickstart", "why", "check")
# program: module with main(argv) -> exit status
PROGRAMS: Final = ("postqueue", "mailq", "postsuper", "postcat", "qshape", "postconf")

USAGE: Final = f"""\
usage: fastmta [-c config_dir] [-v] command
  {" | ".join(COMMANDS)}
  {" | ".join(PROGRAMS)}  (with the options of these programs)"""


def run(arguments: Sequence[str]) -> int:
    """`fastmta` with these arguments."""
    directory: str | None = None
    words = list(arguments)
    command = ""
    rest: list[str] = []
    while words:
        word = words.pop(0)
        if word == "-c" and words:
            directory = words.pop(0)
        elif word.startswith("-c") and len(word) > 2:
            directory = word[2:]
        elif word in ("-h", "--help", "help"):
            print(USAGE)
            return 0
        elif word in ("-V", "--version", "version"):
            return _version()
        elif word in ("-v", "-D") and not command:
            continue
        elif command:
            rest.append(word)
        elif word.startswith("-") or word not in (*COMMANDS, *PROGRAMS):
            return _usage(f"unknown {'option' if word.startswith('-') else 'command'}: {word}")
        else:
            command = word
            if command in PROGRAMS:
                rest, words = words, []
    if not command:
        return _usage("no command given")
    if command in PROGRAMS:
        if directory is not None:
            os.environ["MAIL_CONFIG"] = directory
        return _program(command, rest)
    from fastmta.cli.directory import config_directory

    if rest and command not in WITH_ARGUMENTS:
        return _usage(f"{command} takes no argument: {rest[0]}")
    module = importlib.import_module(f"fastmta.cli.{COMMANDS[command]}")
    return int(module.main(config_directory(directory), rest))


def _usage(error: str) -> int:
    script.fatal(error)
    print(USAGE, file=sys.stderr)
    return 1


def _version() -> int:
    from fastmta import __version__

    print(f"FastMTA {__version__}")
    return 0


def _program(name: str, arguments: Sequence[str]) -> int:
    module = importlib.import_module(f"fastmta.cli.{name}")
    return int(module.main(list(arguments)))


# The entry points that pyproject.toml names


def fastmta() -> int:
    """The program `fastmta`."""
    return run(sys.argv[1:])


def postqueue() -> int:
    """The program `postqueue`."""
    return _program("postqueue", sys.argv[1:])


def mailq() -> int:
    """The program `mailq`."""
    return _program("mailq", sys.argv[1:])


def postsuper() -> int:
    """The program `postsuper`."""
    return _program("postsuper", sys.argv[1:])


def postcat() -> int:
    """The program `postcat`."""
    return _program("postcat", sys.argv[1:])


def qshape() -> int:
    """The program `qshape`."""
    return _program("qshape", sys.argv[1:])


def postconf() -> int:
    """The program `postconf`."""
    return _program("postconf", sys.argv[1:])
