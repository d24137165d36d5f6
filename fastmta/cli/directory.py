"""Which folder holds main.cf and master.cf, for every command: -c, else MAIL_CONFIG, /etc/fastmta, /etc/postfix."""

from __future__ import annotations

from pathlib import Path

from fastmta.config import find_directory


def config_directory(option: str | None = None) -> Path:
    """The folder, as an absolute path; option is the argument of -c."""
    return find_directory(option).absolute()
