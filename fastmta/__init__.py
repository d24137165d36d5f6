"""FastMTA: a mail transfer agent that reads a Postfix configuration."""

__version__ = "0.1.0"
