"""The command line. Everything that it does is one call in Python as well."""

from harden.cli import (
    benchmark_command,
    data_commands,
    evaluate_command,
    other_commands,
    policy_commands,
    stage_commands,
)
from harden.cli.main import main

__all__ = [
    "benchmark_command",
    "data_commands",
    "evaluate_command",
    "main",
    "other_commands",
    "policy_commands",
    "stage_commands",
]
