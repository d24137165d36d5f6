"""All scripts."""

from __future__ import annotations

from tests.dialogue.scripts_commands import COMMANDS
from tests.dialogue.scripts_transactions import TRANSACTIONS

SCRIPTS = [*COMMANDS, *TRANSACTIONS]
