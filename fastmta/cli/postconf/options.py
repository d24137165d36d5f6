"""The command line of postconf(1): which options there are, and which of them go together.

Called by __init__.py. Raises Fatal with postconf's words.
"""

from __future__ import annotations

from typing import Final

from fastmta.cli.postconf.edit import Change
from fastmta.cli.tool import Fatal, Tool

USAGE: Final = (
    "postconf [-a (server SASL types)] [-A (client SASL types)] [-b (bounce templates)] [-c config_dir] "
    "[-C param_class] [-d (parameter defaults)] [-e (edit configuration)] [-f (fold lines)] [-F (master.cf fields)] "
    "[-h (no names)] [-H (no values)] [-j (JSON format)] [-l (lock types)] [-m (map types)] [-M (master.cf)] "
    "[-n (non-default parameters)] [-o name=value (override parameter value)] [-p (main.cf, default)] "
    "[-P (master.cf parameters)] [-q (no warnings)] [-t (bounce templates)] "
    "[-T compile-version|run-version|public-key-algorithms] [-v (verbose)] [-x (expand parameter values)] "
    "[-X (exclude)] [-# (comment-out)] [name...]"
)
# In the order in which messages name them.
_ORDER: Final = "aAbdefFhHjlmMnopPtTxX#"
_MAJOR: Final = "aAbltmpMFPT"
# No two of a group go together.
_EXCLUSIVE: Final = (_MAJOR, "den#X", "fe#X", "xe#X", "ode#X", "he#XH", "je#X", "jhH")
# What goes with a major mode.
_WITH: Final = {
    "p": "eX#fhHjxdno",
    "M": "eX#fojx",
    "F": "efhHjox",
    "P": "eXfhHjox",
}
_CHANGES: Final = {"e": Change.SET, "#": Change.COMMENT, "X": Change.REMOVE}


class Mode:
    """What a command line asks for."""

    def __init__(self, letters: set[str], arguments: list[str]) -> None:
        """The letters are the options that are set; more may come."""
        self._letters = letters
        self.arguments = arguments
        self.directory = ""
        self.classes: list[str] = []
        self.overrides: list[str] = []
        self.tls = ""
        self.quiet = False
        self.inherited = False

    def has(self, letter: str) -> bool:
        """Whether an option is set, by itself or because others mean it."""
        return letter in self._letters

    @property
    def change(self) -> Change | None:
        """What is to be done to a file; None: it is shown."""
        return next((change for letter, change in _CHANGES.items() if letter in self._letters), None)


def read_mode(tool: Tool, argv: list[str]) -> Mode:
    """Read a command line and check that its options go together."""
    options, arguments = tool.options(argv, "aAbc:C:deEfFhHjlmMno:pPqtT:vxX#")
    letters: set[str] = set()
    mode = Mode(letters, arguments)
    for letter, value in options:
        if letter == "c":
            mode.directory = value
        elif letter == "v":
            tool.verbose += 1
        elif letter == "q":
            mode.quiet = True
        elif letter == "C":
            mode.classes.append(value)
        else:
            mode.inherited = mode.inherited or (letter == "P" and letter in letters)
            letters.add(letter)
            if letter == "o":
                mode.overrides.append(value)
            elif letter == "T":
                if mode.tls:
                    raise Fatal("At most one -T <mode> option may be specified")
                mode.tls = value
    if "b" in letters and "t" in letters:
        raise Fatal("specify one of -b and -t")
    if not letters & set(_MAJOR):
        letters.add("p")
    if letters & set("pMFP") and arguments and "=" in arguments[0]:
        letters.add("e")
    _check(letters)
    if "e" in letters and not arguments:
        raise Fatal("-e requires name=value argument")
    return mode


def _check(letters: set[str]) -> None:
    for group in _EXCLUSIVE:
        chosen = letters & set(group)
        if len(chosen) > 1:
            raise Fatal(f"specify one of {_named(chosen)}")
    for letter in _MAJOR:
        if letter in letters:
            excess = letters - set(_WITH.get(letter, "")) - {letter, "E"}
            if excess:
                raise Fatal(f"with option -{letter}, do not specify {_named(excess)}")


def _named(letters: set[str]) -> str:
    return " ".join(f"-{letter}" for letter in _ORDER if letter in letters)
