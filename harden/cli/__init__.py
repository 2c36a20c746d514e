"""The command line. Everything that it does is one call in Python as well."""

from harden.cli import benchmark_command, data_commands, evaluate_command, policy_commands, stage_commands
from harden.cli.main import main

__all__ = [
    "benchmark_command",
    "data_commands",
    "evaluate_command",
    "main",
    "policy_commands",
    "stage_commands",
]
