"""How long a command takes that computes nothing: seconds from its start to its end, and of a processor.

    taskset -c 0 python benchmarks/start_up.py [--repeats 5]

Each command is run once before it is timed, in an empty folder; what is printed is a table in Markdown.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time

COMMANDS = {
    "harden --help": 0,
    "harden list attacks": 0,
    "harden list keys": 0,
    "harden status": 0,
    "harden evaluate --attack mcc": 2,
    "harden train --variant saferr": 2,
    "harden evalute": 2,
}


def timed(command: str, code: int, folder: str) -> tuple[float, float]:
    """Return a command's seconds by the clock and by the processor; it ends with this code."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    words = [sys.executable, "-m", *command.split()]
    done = subprocess.run(words, cwd=folder, capture_output=True)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == code, done.stderr.decode()
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("| command | seconds, median | least to most | of a processor, median |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for command, code in COMMANDS.items():
            timed(command, code, folder)
            took, used = zip(*(timed(command, code, folder) for _ in range(repeats)), strict=True)
            spread = f"{min(took):.2f} to {max(took):.2f}"
            print(
                f"| `{command}` | {statistics.median(took):.2f} | {spread} | {statistics.median(used):.2f} |"
            )


if __name__ == "__main__":
    main()
