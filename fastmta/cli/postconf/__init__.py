"""`postconf`: shows and changes main.cf and master.cf, and tells what there is. postconf(1) of Postfix 3.11.

    postconf [-dfhHjnopqvx] [-c dir] [-C class,...] [parameter ...]     postconf -M|-F|-P [-fhHjoqvx] [pattern ...]
    postconf [-e] parameter=value ...     postconf -# | -X parameter ...     the same with -M, -F, -P for master.cf
    postconf -a | -A | -b [file] | -l | -m | -t [file] | -T mode

Reads more leniently than the mail system: a value is text here, so that a configuration that does not load can be
looked at and repaired. main.py imports this when it is asked for; no other command does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

from fastmta.cli.postconf import bounces, edit, other
from fastmta.cli.postconf.entries import BadEntry, Entry
from fastmta.cli.postconf.names import BUILTIN, SERVICE, USER, Names
from fastmta.cli.postconf.options import USAGE, Mode, read_mode
from fastmta.cli.postconf.show import Printer, Style
from fastmta.cli.tool import Fatal, Tool
from fastmta.config import find_directory
from fastmta.config.lines import logical_lines, split_name_value
from fastmta.config.maincf import parse_main_cf
from fastmta.config.replace import SUFFIX, replace_text

__all__ = ["main"]

_CLASSES: Final = {"builtin": {BUILTIN}, "service": {SERVICE}, "user": {USER}, "all": {BUILTIN, SERVICE, USER}}


def main(argv: list[str]) -> int:
    """The program; argv without its name."""
    tool = Tool("postconf", USAGE)
    return tool.run(lambda: _Run(tool, argv).run())


class _Run:
    """One run of the program."""

    def __init__(self, tool: Tool, argv: list[str]) -> None:
        self._tool = tool
        self._mode: Mode = read_mode(tool, argv)
        self.directory = self._mode.directory or str(find_directory())
        self._groups = self._read_groups()

    def warn(self, text: str) -> None:
        # what was printed before comes before, also when both go to one file
        sys.stdout.flush()
        self._tool.say(f"warning: {text}")

    def run(self) -> int:
        mode = self._mode
        if mode.has("b") or mode.has("t"):
            self._bounces()
        elif mode.has("m"):
            _print(other.map_types())
        elif mode.has("l"):
            _print(list(other.LOCKS))
        elif mode.has("a"):
            _print(list(other.SERVER_SASL))
        elif mode.has("A"):
            _print(list(other.CLIENT_SASL))
        elif mode.has("T"):
            _print(other.tls_information(mode.tls, self.warn))
        elif mode.change is not None:
            self._edit(mode.change)
        else:
            self._show()
        return 0

    # -- reading

    def _read_main(self) -> dict[str, str]:
        path = f"{self.directory}/main.cf"
        warnings: list[str] = []
        definitions = parse_main_cf(_read(path), path, warnings)
        settings = {"config_directory": self.directory}
        for name, definition in definitions.items():
            if name == "config_directory" and definition.value != self.directory:
                warnings.append(f"{path}, line {definition.line}: overriding earlier entry: {name}={self.directory}")
            settings[name] = definition.value
        for warning in warnings:
            self.warn(warning)
        for text in self._mode.overrides:
            pair = split_name_value(text)
            if isinstance(pair, str):
                raise Fatal(f"invalid parameter override: {text}: {pair}")
            settings[pair[0]] = pair[1]
        return settings

    def _read_master(self, *, must: bool) -> list[Entry]:
        path = f"{self.directory}/master.cf"
        try:
            text = _read(path)
        except Fatal as error:
            if must:
                raise
            self.warn(str(error))
            return []
        warnings: list[str] = []
        entries: list[Entry] = []
        for line, content in logical_lines(text, path, warnings):
            try:
                entries.append(Entry(content, self.warn))
            except BadEntry as error:
                raise Fatal(f"file {path}: line {line}: {error}") from None
        for warning in warnings:
            self.warn(warning)
        return entries

    # -- doing

    def _show(self) -> None:
        mode = self._mode
        of_master = mode.has("M") or mode.has("F") or mode.has("P")
        defaults = mode.has("d")
        entries = self._read_master(must=True) if of_master else []
        main = None if defaults else self._read_main()
        if not of_master:
            entries = self._read_master(must=False)
        names = Names(self.directory, entries, main, self.warn)
        names.add_services()
        if not defaults:
            names.add_users(quiet=mode.quiet)
        style = Style(
            mode.has("f"), mode.has("h"), mode.has("H"), mode.has("j"), mode.has("x"), mode.has("n"), mode.inherited
        )
        printer = Printer(names, style, sys.stdout.write, self.warn)
        show: Callable[[list[str]], None]
        if mode.has("M"):
            show = printer.entries
        elif mode.has("F"):
            show = printer.fields
        elif mode.has("P"):
            show = printer.settings
        else:

            def show(wanted: list[str]) -> None:
                printer.parameters(self._groups, wanted)

        show(mode.arguments)
        if not defaults and not mode.quiet:
            for line in names.unused(main=not of_master):
                self.warn(line)

    def _read_groups(self) -> frozenset[str]:
        chosen: set[str] = set()
        for text in self._mode.classes or ["all"]:
            for word in text.replace(",", " ").split():
                group = _CLASSES.get(word.lower())
                if group is None:
                    raise Fatal(f'unknown -C option value "{word}" in "{text}"')
                chosen |= group
        return frozenset(chosen)

    def _edit(self, change: edit.Change) -> None:
        mode = self._mode
        if not mode.arguments:
            raise Fatal("missing service argument")
        what = next((what for what in edit.What if mode.has(what.value[1])), None)
        path = f"{self.directory}/{'main.cf' if what is None else 'master.cf'}"
        changed: Callable[[str], str]
        if what is None:
            requests = edit.main_requests(change, mode.arguments, self.warn)

            def changed(text: str) -> str:
                return edit.edit_main(text, path, change, requests, self.warn)
        else:
            orders = edit.master_orders(what, change, mode.arguments, self.warn)

            def changed(text: str) -> str:
                return edit.edit_master(text, path, what, change, orders, self.warn)

        try:
            replace_text(path, changed)
        except OSError as error:
            if isinstance(error.filename, (str, os.PathLike)) and not str(error.filename).endswith(SUFFIX):
                raise Fatal(f"open {path} for reading: {error.strerror}") from None
            raise Fatal(f"open {path}{SUFFIX}: {error.strerror}") from None

    def _bounces(self) -> None:
        mode = self._mode
        if len(mode.arguments) > 1:
            raise Fatal("options -b and -t require at most one template file")
        names = Names(self.directory, [], self._read_main(), self.warn)
        path = mode.arguments[0] if mode.arguments else names.expand(names.value("bounce_template_file") or "")
        templates = bounces.read_templates(path, self.warn)
        sys.stdout.write(
            bounces.expanded(templates, names, path or "built-in", self.warn)
            if mode.has("b")
            else bounces.as_file(templates)
        )


def _print(lines: list[str]) -> None:
    sys.stdout.write("".join(line + "\n" for line in lines))


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise Fatal(f"open {path}: {error.strerror}") from None
