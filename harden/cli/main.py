"""The command line's root: our errors become one line and an exit code."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from typing import Any

import click

from harden.errors import HardenError, InputError, Interrupted, StorageError

# how torch says it, on a processor and on an accelerator
_NO_MEMORY = ("can't allocate memory", "out of memory")


def _fail(error: HardenError) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


class _Group(click.Group):
    """Turns our own errors into one line and the right exit code; anything else is a defect and shows."""

    def invoke(self, ctx: click.Context) -> Any:
        signal.signal(signal.SIGINT, _interrupt)
        try:
            return super().invoke(ctx)
        except HardenError as error:
            _fail(error)
        except (MemoryError, RuntimeError) as error:
            said = str(error).splitlines()[0] if str(error) else ""
            if not isinstance(error, MemoryError) and not any(words in said for words in _NO_MEMORY):
                raise
            _fail(InputError("there is not enough memory for this", "ask for less of it at once"))
        except PermissionError as error:
            said = f"can't use {error.filename or 'a file'} ({error.strerror})"
            _fail(StorageError(said, "get leave to read it, such as with chmod"))
        except KeyboardInterrupt:
            _fail(Interrupted("stopped by Ctrl-C"))


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise Interrupted("stopped by Ctrl-C; what was stored stands", "train goes on from it with --resume")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("harden"), prog_name="harden")
def main() -> None:
    """Harden a safe robot policy against observation attacks, from benign data only."""
