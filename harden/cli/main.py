"""The command line's root: whatever is refused becomes one line and an exit code."""

from __future__ import annotations

import signal
import sys
from typing import Any

import click

from harden.cli.options import Command, version_option
from harden.errors import HardenError, InputError, Interrupted, StorageError, Terminated

# how torch says it, on a processor and on an accelerator
_NO_MEMORY = ("can't allocate memory", "out of memory")


def _fail(error: HardenError) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def _in_one_line(error: click.ClickException) -> InputError:
    """Return what click refuses, which it says in several lines, as we say it."""
    said = " ".join(error.format_message().split()).rstrip(".")
    # an option that the user can't have meant has no command to ask
    ctx = getattr(error, "ctx", None)
    return InputError(said[:1].lower() + said[1:], f"see: {ctx.command_path if ctx else 'harden'} --help")


class _Group(click.Group):
    """Turns what is refused into one line and the right exit code; anything else is a defect and shows."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        version_option(self)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command line; never returns."""
        signal.signal(signal.SIGINT, _stop)
        signal.signal(signal.SIGTERM, _stop)
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except HardenError as error:
            _fail(error)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_in_one_line(error))
        except (MemoryError, RuntimeError) as error:
            said = str(error).splitlines()[0] if str(error) else ""
            if not isinstance(error, MemoryError) and not any(words in said for words in _NO_MEMORY):
                raise
            _fail(InputError("there is not enough memory for this", "ask for less of it at once"))
        except PermissionError as error:
            said = f"can't use {error.filename or 'a file'} ({error.strerror})"
            _fail(StorageError(said, "get leave to read it, such as with chmod"))
        except (click.Abort, KeyboardInterrupt):
            _fail(Interrupted("stopped by Ctrl-C"))
        sys.exit(code or 0)


# what stands after a stop, where it is not what stands after all others; train says it itself
_STANDS = {
    "benchmark": "finished runs are in the ledger: the same command goes on with the others",
    "init": "remove what it wrote, and run it again",
}
_ELSEWHERE = "what was stored before stands, its own result is written at its end: run it again"


def _stop(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    ctx = click.get_current_context(silent=True)
    stands = _STANDS.get(ctx.info_name or "" if ctx else "", _ELSEWHERE)
    if number == signal.SIGTERM:
        raise Terminated("stopped by SIGTERM", stands)
    raise Interrupted("stopped by Ctrl-C", stands)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Harden a safe robot policy against observation attacks, from benign data only."""
