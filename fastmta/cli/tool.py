"""How the programs named after Postfix's begin and end: options, configuration, identity, messages, exit status.

Used by postqueue, mailq, postsuper, postcat and qshape. They say what Postfix's programs say, "postsuper: fatal: ..."
on stderr, with their exit statuses. `Fatal` ends a program from anywhere; `run` turns it, and a reader of ours that
went away (a closed pipe, as in `mailq | head`), into an exit status.
"""

from __future__ import annotations

import codecs
import getopt
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from fastmta.admin.client import NotAllowedError, RefusedError, UnreachableError
from fastmta.admin.spool import SpoolError
from fastmta.cli.directory import config_directory
from fastmta.config import Config, ConfigError, environment, load
from fastmta.config.errors import printable
from fastmta.master import identity
from fastmta.master.preload import preload_package

EX_FAILURE = 1
EX_UNAVAILABLE = 69
EX_TEMPFAIL = 75


class Fatal(Exception):
    """The program cannot go on: what to say, and the exit status where it is not the program's usual one."""

    def __init__(self, text: str, status: int | None = None) -> None:
        """Text without "fatal:"."""
        super().__init__(text)
        self.status = status


class Tool:
    """One program while it runs: its name, its usual exit status for errors, how to use it."""

    def __init__(self, name: str, usage: str, failure: int = EX_FAILURE) -> None:
        """Usage is the line after "usage: "."""
        self.name = name
        self.usage = usage
        self.failure = failure
        self.verbose = 0

    def say(self, text: str) -> None:
        """A line on stderr, under the program's name."""
        shown = "\n".join(map(printable, text.split("\n")))
        sys.stderr.write(f"{self.name}: {shown}\n")

    def run(self, body: Callable[[], int]) -> int:
        """The program's body; its exit status, or that of what ended it."""
        try:
            status = body()
            sys.stdout.flush()
        except Fatal as error:
            self._fatal(str(error))
            return self.failure if error.status is None else error.status
        except (
            ConfigError,
            identity.IdentityError,
            UnreachableError,
            NotAllowedError,
            RefusedError,
            SpoolError,
        ) as error:
            self._fatal(str(error))
            return self.failure
        except BrokenPipeError:
            # the interpreter flushes at exit: give it something to flush into
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 0
        except KeyboardInterrupt:
            return 130
        return status

    def _fatal(self, text: str) -> None:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        self.say(f"fatal: {text}")

    def options(self, arguments: Sequence[str], letters: str) -> tuple[list[tuple[str, str]], list[str]]:
        """Options (without their dashes) and what follows them, as getopt(3) gives them."""
        try:
            pairs, rest = getopt.getopt(list(arguments), letters)
        except getopt.GetoptError as error:
            if "requires argument" in error.msg:
                self.say(f"option requires an argument -- '{error.opt}'")
            elif error.opt.isalnum():
                self.say(f"invalid option -- '{error.opt}'")
            else:
                self.say(f"unrecognized option '--{error.opt}'")
            self.fail_usage()
        return [(option[1:], value) for option, value in pairs], rest

    def fail_usage(self) -> NoReturn:
        """Say how it is used, and end."""
        raise Fatal(f"usage: {self.usage}")

    def configuration(self, directory: str | None) -> Config:
        """main.cf of the folder that -c names, or of the usual places."""
        config = load(config_directory(directory), services=False)
        environment.become({**os.environ, **environment.overrides(config)})
        return config


def become_owner(config: Config) -> None:
    """Stop being root: the queue is mail_owner's, and what we make there must be, too."""
    owner = identity.find(config.get_str("mail_owner"))
    if owner.change:
        # what is loaded when first used may come from files that mail_owner cannot read
        for name in ("ascii", "latin_1"):
            codecs.lookup(name)
        preload_package("lmdb")
    owner.assume()


def is_queue_id(text: str) -> bool:
    """Whether it could be a queue id."""
    return 0 < len(text) <= 100 and text.isascii() and text.replace("_", "a").isalnum()
