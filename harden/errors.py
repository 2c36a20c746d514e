"""What harden raises: one line for the user, with the exit code that the command line returns.

Anything else that escapes is a defect of ours, and the command line shows it as such.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def known_names(name: object, known: Iterable[str], words: str = "choose from") -> str:
    """Return what an unknown name may have been meant for, and which names there are, after `words`."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names)
    return f"did you mean {' or '.join(close)}?" if close else f"{words}: {', '.join(names)}"


class CommandEnd(BaseException):
    """An end of a command that its user reads as one line: what happened, and what is allowed or mends it."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message if not remedy else f"{message}; {remedy}")
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[CommandEnd], tuple[str, str]]:
        """Return how it is made again in another process: pickle gives the whole line as message."""
        return type(self), (self.message, self.remedy)


class HardenError(CommandEnd, Exception):
    """A failure that harden understands."""


class InputError(HardenError):
    """The user's input can't be used: a wrong name, value or combination."""

    exit_code = 2


class MissingInputError(InputError):
    """A file that an earlier stage makes is not there."""


class DamagedFileError(InputError):
    """A file is not what its name promises: truncated, foreign, hostile or altered."""


class OtherConfigurationError(InputError):
    """A run that is to be resumed was made with another configuration."""


class StorageError(InputError):
    """The file system refused: no room, no permission."""


class DivergedError(HardenError):
    """A loss or a weight became NaN or infinite; the last good state was kept."""


class Interrupted(CommandEnd):
    """The user pressed Ctrl-C; what was committed stands.

    It is no failure: whoever handles failures, ours or any Exception, lets it pass. It is no
    KeyboardInterrupt either, which click and Lightning turn into an exit of their own.
    """

    exit_code = 130


class Terminated(Interrupted):
    """SIGTERM asked for the end, as a scheduler or `timeout` does; what was committed stands."""

    exit_code = 143


def describe_error(error: BaseException) -> str:
    """Return the class of an error that is not ours, and the line of it that says what happened."""
    lines = str(error).strip().splitlines()
    # a TorchScript error begins with where in the program it happened, and ends with what happened
    which = -1 if "TorchScript interpreter" in "".join(lines[:1]) else 0
    return ": ".join([type(error).__name__, *([lines[which].strip()] if lines else [])])


@contextmanager
def foreign_errors(what: str, remedy: str = "", kind: type[HardenError] = InputError) -> Iterator[None]:
    """Turn whatever somebody else's code, or a library that reads a foreign file, raises into one line."""
    try:
        yield
    except HardenError:
        raise
    # a script that ends itself when it is imported would end harden, and look like success
    except (Exception, SystemExit) as error:
        raise kind(f"{what} ({describe_error(error)})", remedy) from error


def require_extra(extra: str, *names: str) -> None:
    """Refuse to go on without the packages of an optional extra: InputError names the first missing."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            remedy = f"install it with: pip install 'harden[{extra}]'"
            raise InputError(f"{name} is not installed", remedy) from error
