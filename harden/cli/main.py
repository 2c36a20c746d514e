"""The command line's root: whatever is refused becomes one line and an exit code."""

from __future__ import annotations

import sys
from typing import Any

import click

from harden import signals
from harden.cli.options import Command, version_option
from harden.errors import CommandEnd, InputError, Interrupted, StorageError

# how torch says it, on a processor and on an accelerator
_NO_MEMORY = ("can't allocate memory", "out of memory")


def _fail(error: CommandEnd) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def _one_line(error: click.ClickException) -> InputError:
    """Return what click refuses, in several lines, as an error of one line."""
    text = " ".join(error.format_message().split()).rstrip(".")
    # a wrong word before any command has no command to ask
    ctx = getattr(error, "ctx", None)
    return InputError(text[:1].lower() + text[1:], f"see: {ctx.command_path if ctx else 'harden'} --help")


class _Group(click.Group):
    """Turns what is refused into one line and the right exit code; anything else is a defect and shows."""

    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        version_option(self)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command line; never returns."""
        signals.listen()
        try:
            code = super().main(*args, **options | {"standalone_mode": False})
        except CommandEnd as error:
            _fail(error)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.ClickException as error:
            _fail(_one_line(error))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not any(text in str(error) for text in _NO_MEMORY):
                raise
            _fail(InputError("there is not enough memory for this", "ask for less of it at once"))
        except PermissionError as error:
            text = f"can't use {error.filename or 'a file'} ({error.strerror})"
            _fail(StorageError(text, "get leave to read it, such as with chmod"))
        except (click.Abort, KeyboardInterrupt):
            _fail(Interrupted("stopped by Ctrl-C"))
        sys.exit(code or 0)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Harden a safe robot policy against observation attacks, from benign data only."""
