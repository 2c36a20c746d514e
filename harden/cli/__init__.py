"""The command line. Everything that it does is one call in Python as well."""

from harden.cli import other_commands, policy_commands, stage_commands
from harden.cli.main import main

__all__ = ["main", "other_commands", "policy_commands", "stage_commands"]
