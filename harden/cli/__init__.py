"""The command line. Everything that it does is one call in Python as well."""

from harden.cli import data_commands, other_commands, policy_commands, stage_commands
from harden.cli.main import main

__all__ = ["data_commands", "main", "other_commands", "policy_commands", "stage_commands"]
