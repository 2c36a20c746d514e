"""The program: both signals are listened to before anything is imported that takes its time."""

from __future__ import annotations

import sys

from harden import signals
from harden.errors import Interrupted


def main() -> None:
    """Run the command line; never returns."""
    signals.listen()
    try:
        try:
            from harden.cli import main as command_line

            command_line()
        finally:
            signals.ignore()
    except Interrupted as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
