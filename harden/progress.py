"""What a long stage says while it works: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tqdm import tqdm

from harden import signals

_LINE_EVERY_S = 10.0


class Track(Protocol):
    """One piece of long work."""

    def __call__(self, done: float, note: str = "") -> None:
        """Say how much of the total is done, with a note such as the reward so far."""


class Reporter:
    """Says things to a person.

    Args:
        quiet: say nothing at all.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        """Print one line, above a bar where there is one."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    @contextmanager
    def track(self, label: str, total: float, unit: str = "") -> Iterator[Track]:
        """Follow one piece of work.

        Args:
            label: what is done, such as "collect".
            total: how much there is to do.
            unit: what is counted.
        """
        if self.quiet or total <= 0:
            yield _no_track
        elif sys.stderr.isatty():
            with tqdm(total=total, desc=label, unit=unit, leave=False, file=sys.stderr) as bar:
                yield _BarTrack(bar)
        else:
            yield _LineTrack(label, total, unit)


def _no_track(done: float, note: str = "") -> None:
    signals.check()


class _BarTrack:
    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def __call__(self, done: float, note: str = "") -> None:
        signals.check()
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)


class _LineTrack:
    def __init__(self, label: str, total: float, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.last = time.monotonic()

    def __call__(self, done: float, note: str = "") -> None:
        signals.check()
        now = time.monotonic()
        if now - self.last >= _LINE_EVERY_S:
            self.last = now
            share = 100 * done / self.total
            line = f"{self.label}: {done:,.0f} of {self.total:,.0f} {self.unit} ({share:.0f} %) {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)
