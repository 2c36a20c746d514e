"""What a long stage says while it works: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Protocol

from tqdm import tqdm

from harden import signals

_LINE_EVERY_S = 10.0
# tqdm's own, but that the time left is ours: it knows of parts that take longer than those before them
_BAR = "{l_bar}{bar}| {n:,.0f}/{total:,.0f} {unit} [{elapsed}{postfix}]"


def time_left(seconds: float) -> str:
    """Return seconds as a person reads them, such as "03:25 left"."""
    return f"{tqdm.format_interval(max(seconds, 0.0))} left"


class Track(Protocol):
    """One piece of long work."""

    def __call__(self, done: float, note: str = "", left: float | None = None) -> None:
        """Say how much of the total is done.

        Args:
            done: of the total.
            note: such as the reward so far.
            left: seconds; by the time that the part which is done took where not given, nan for unknown.
        """


class Reporter:
    """Says things to a person, or, `quiet`, nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        """Print one line, above a bar where there is one."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    @contextmanager
    def track(self, label: str, total: float, unit: str = "") -> Iterator[Track]:
        """Follow one piece of work, `label`, of which there is a `total` in some `unit`."""
        began = last = time.monotonic()

        def timed(done: float, note: str, left: float | None) -> str:
            if left is None:
                left = (time.monotonic() - began) * (total / done - 1) if done else math.nan
            return "  ".join(filter(None, (note, "" if math.isnan(left) else time_left(left))))

        def show(done: float, note: str = "", left: float | None = None) -> None:
            nonlocal last
            signals.check()
            now = time.monotonic()
            if bar is not None:
                bar.set_postfix_str(timed(done, note, left), refresh=False)
                bar.update(done - bar.n)
            elif shown and now - last >= _LINE_EVERY_S:
                last = now
                line = f"{label}: {done:,.0f} of {total:,.0f} {unit} ({100 * done / total:.0f} %)"
                print(f"{line} {timed(done, note, left)}".rstrip(), file=sys.stderr, flush=True)

        shown, bar = not self.quiet and total > 0, None
        if shown and sys.stderr.isatty():
            options = {"leave": False, "file": sys.stderr, "bar_format": _BAR, "miniters": 0}
            bar = tqdm(total=total, desc=label, unit=unit, **options)
        with bar or nullcontext():
            yield show


QUIET = Reporter(quiet=True)
