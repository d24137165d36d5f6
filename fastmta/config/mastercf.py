"""Reads master.cf: a service a logical line, with eight fields and the arguments of its command. See master(5).

    name type private unpriv chroot wakeup maxproc command [ARGUMENT ...]
    ARGUMENT: -o name=value   -o { name = value }   -v   word   { words with blanks }

Called by Config's loader; the services are bound and wired by master/. Raises ConfigError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from fastmta.config.errors import ConfigError
from fastmta.config.lines import logical_lines, read_text, split_name_value

TYPES: Final = ("inet", "unix", "fifo", "pass", "unix-dgram")
_BLANKS: Final = " \t\r\n"
_FIELDS: Final = ("service", "type", "private", "unprivileged", "chroot", "wakeup", "process_limit", "command")
# Options of Postfix's daemons that take a value.
_OPTIONS_WITH_VALUE: Final = "imnorst"


class Service(NamedTuple):
    """One service.

    fields are the eight as written; wakeup is in seconds, 0 meaning never, conditional with "?" after it; maxproc is
    None where the field is "-" (default_process_limit), 0 meaning no limit. options are the -o pairs in order, args
    everything after the options, flags the other options ("-v").
    """

    name: str
    type: str
    private: bool
    unpriv: bool
    chroot: bool
    wakeup: int
    wakeup_conditional: bool
    maxproc: int | None
    command: str
    args: tuple[str, ...]
    flags: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    fields: tuple[str, ...]
    file: str
    line: int

    @property
    def program(self) -> str:
        """The command without its folder."""
        return self.command.rpartition("/")[2]


def read_master_cf(path: Path, warnings: list[str], chroot_default: bool = False) -> tuple[Service, ...]:
    """The services of a file in order. chroot_default is what "-" in the chroot field means."""
    return parse_master_cf(read_text(path), str(path), warnings, chroot_default)


def parse_master_cf(text: str, file: str, warnings: list[str], chroot_default: bool = False) -> tuple[Service, ...]:
    """The same for a text that came from a file."""
    services: dict[tuple[str, str], Service] = {}
    for line, content in logical_lines(text, file, warnings):
        service = _parse_service(content, file, line, chroot_default)
        key = service.name, service.type
        if key in services:
            warnings.append(
                f'{file}, line {line}: duplicate master.cf entry for service "{service.name}" ({service.type})'
                " -- using the last entry"
            )
            del services[key]
        services[key] = service
    return tuple(services.values())


def _parse_service(content: str, file: str, line: int, chroot_default: bool) -> Service:
    words = split_words(content)
    if len(words) < len(_FIELDS):
        raise ConfigError(file, line, "", f'missing "{_FIELDS[len(words)]}" field in "{content.strip(_BLANKS)}"')
    fields = tuple(words[: len(_FIELDS)])
    name, type_, private, unpriv, chroot, wakeup, maxproc, command = fields

    def wrong(field: int) -> ConfigError:
        return ConfigError(
            file, line, "", f'invalid {_FIELDS[field]} field "{fields[field]}" in "{content.strip(_BLANKS)}"'
        )

    if type_ not in TYPES:
        raise wrong(1)
    for field, value in ((2, private), (3, unpriv), (4, chroot)):
        if value not in ("y", "n", "-"):
            raise wrong(field)
    if type_ == "inet" and private != "n":
        raise ConfigError(file, line, "", f"inet service {name} cannot be private")
    seconds = wakeup.removesuffix("?")
    if wakeup != "-" and not _is_number(seconds):
        raise wrong(5)
    if maxproc != "-" and not _is_number(maxproc):
        raise wrong(6)
    options, flags, args = _parse_arguments(words[len(_FIELDS) :], file, line)
    return Service(
        name=name,
        type=type_,
        private=private != "n",
        unpriv=unpriv != "n",
        chroot=chroot_default if chroot == "-" else chroot == "y",
        wakeup=0 if seconds == "-" else int(seconds),
        wakeup_conditional=wakeup.endswith("?"),
        maxproc=None if maxproc == "-" else int(maxproc),
        command=command,
        args=args,
        flags=flags,
        options=options,
        fields=fields,
        file=file,
        line=line,
    )


def _parse_arguments(
    words: list[str], file: str, line: int
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """(-o pairs, other options, arguments). Options end at the first word that is none, or at "--"."""
    options: list[tuple[str, str]] = []
    flags: list[str] = []
    plain = [_unbraced(word, file, line) for word in words]
    at = 0
    while at < len(plain):
        word = plain[at]
        if not word.startswith("-") or word == "-":
            break
        at += 1
        if word == "--":
            break
        # getopt(3): -vo a=b is -v -o a=b
        letters = word[1:].lstrip("".join(set(word) - set(_OPTIONS_WITH_VALUE)))
        flags += [f"-{letter}" for letter in word[1 : len(word) - len(letters)]]
        if not letters:
            continue
        value = letters[1:]
        if not value:
            if at == len(plain):
                raise ConfigError(file, line, "", f'option "{word}" needs a value')
            value = plain[at]
            at += 1
        if letters[0] != "o":
            flags += f"-{letters[0]}", value
            continue
        pair = split_name_value(value)
        if isinstance(pair, str):
            raise ConfigError(file, line, "", f'{pair}: "{value}"')
        options.append(pair)
    return tuple(options), tuple(flags), tuple(plain[at:])


def _unbraced(word: str, file: str, line: int) -> str:
    """{ text } without its braces and the blanks inside them; any other word as it is."""
    if not word.startswith("{"):
        return word
    level = 0
    for at, character in enumerate(word):
        if character == "{":
            level += 1
        elif character == "}":
            level -= 1
            if not level:
                if at + 1 < len(word):
                    raise ConfigError(file, line, "", f"syntax error after '}}' in \"{word}\"")
                return word[1:at].strip(_BLANKS)
    raise ConfigError(file, line, "", f"missing '}}' in \"{word}\"")


def split_words(text: str) -> list[str]:
    """Words separated by blanks; blanks between { and } separate nothing."""
    words: list[str] = []
    start = -1
    level = 0
    for at, character in enumerate(text):
        if level == 0 and character in _BLANKS:
            if start >= 0:
                words.append(text[start:at])
                start = -1
            continue
        if start < 0:
            start = at
        if character == "{":
            level += 1
        elif character == "}" and level:
            level -= 1
    if start >= 0:
        words.append(text[start:])
    return words


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
