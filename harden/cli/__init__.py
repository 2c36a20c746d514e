"""The command line. Everything that it does is one call in Python as well."""

from harden.cli import data_commands, evaluate_command, other_commands, policy_commands, stage_commands
from harden.cli.main import main

__all__ = ["data_commands", "evaluate_command", "main", "other_commands", "policy_commands", "stage_commands"]
