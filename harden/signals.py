"""Ctrl-C and SIGTERM: either raises where it arrives, and is raised again where that was swallowed."""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from harden.errors import Interrupted, Terminated

_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 0.02
# what came, and no exception that was raised: its traceback would keep open what is to be cleaned up
_came: Callable[[], Interrupted] | None = None


def listen() -> None:
    """Have both signals end what runs in this process from now on; one that came before is forgotten."""
    global _came
    _came = None
    for number in _NUMBERS:
        signal.signal(number, _stop)
    # what is raised in the callback of a weak reference, a destructor or a C library ends up here
    signal.signal(signal.SIGALRM, lambda *_: check())
    sys.unraisablehook = _not_raised


def ignore() -> None:
    """Ignore both from now on: the work is done, and the interpreter ends."""
    # the alarm that raises a lost one again would end the process, once the interpreter hears none any more
    for number in (*_NUMBERS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def check() -> None:
    """Raise the signal that came, where somebody else's code caught it: to be called wherever work goes on.

    Raises:
        Interrupted: one came since `listen`.
    """
    if _came is not None:
        raise _came()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Raise what came inside where it was swallowed to the end, or made an error of.

    Raises:
        Interrupted: as `check`.
    """
    try:
        yield
    except Interrupted:
        raise
    except BaseException:
        check()
        raise
    if _came is not None:
        came = _came()
        raise type(came)(came.message, "it was noticed at the end: the result is written")


def _stop(number: int, frame: object) -> None:
    global _came
    # a second one would end what cleans up after the first
    signal.signal(number, signal.SIG_IGN)
    kind, name = (Terminated, "SIGTERM") if number == signal.SIGTERM else (Interrupted, "Ctrl-C")
    _came = functools.partial(kind, f"stopped by {name}")
    raise _came()


def _not_raised(lost: Any) -> None:
    if isinstance(lost.exc_value, Interrupted):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S)
    else:
        sys.__unraisablehook__(lost)
