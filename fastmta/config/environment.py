"""import_environment and export_environment: what the mail system takes from its caller, and what commands get from it.

Each is a list of NAME (kept as it is) and NAME=VALUE or { NAME=VALUE } (set so). The master drops everything else when
it starts, so that its workers and what they start have no more; MAIL_CONFIG names the configuration that is at work.
Other programs only take the NAME=VALUE ones: `import_environment = TZ=UTC` is for the times that mailq prints, too.
Called by master/supervisor.py and cli/tool.py, and by whoever starts a command. Raises ConfigError.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastmta.config.errors import ConfigError
from fastmta.config.lines import WHITESPACE, split_name_value

if TYPE_CHECKING:
    from fastmta.config.configuration import Config


def imported(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """What the mail system keeps of an environment."""
    kept = _chosen(config, "import_environment", config.get_list("import_environment"), environment)
    return kept | {"MAIL_CONFIG": str(config.directory)}


def exported(config: Config, environment: Mapping[str, str]) -> dict[str, str]:
    """What a command that is no part of the mail system gets of that environment."""
    return _chosen(config, "export_environment", config.get_list("export_environment"), environment)


def overrides(config: Config) -> dict[str, str]:
    """What import_environment sets whatever the caller has."""
    return _chosen(config, "import_environment", config.get_list("import_environment"), {})


def become(environment: Mapping[str, str]) -> None:
    """Make it the environment of this process; the time zone follows at once."""
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def _chosen(config: Config, parameter: str, words: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        text = word
        if word.startswith("{"):
            if not word.endswith("}"):
                problem = "syntax error after" if "}" in word else "missing"
                raise ConfigError(*config.where(parameter), parameter, f"{problem} '}}' in \"{word}\"")
            text = word[1:-1].strip(WHITESPACE)
        if "=" in text:
            pair = split_name_value(text)
            if isinstance(pair, str) or "\0" in text:
                raise ConfigError(*config.where(parameter), parameter, f"{pair} in: {text}")
            found[pair[0]] = pair[1]
        elif text in environment:
            found[text] = environment[text]
    return found
