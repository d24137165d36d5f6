"""main.cf and master.cf: syntax, the typed table of parameters, the immutable configuration."""

from fastmta.config.configuration import Config, find_directory, load, load_errors
from fastmta.config.errors import ConfigError
from fastmta.config.mastercf import Service

__all__ = ["Config", "ConfigError", "Service", "find_directory", "load", "load_errors"]
