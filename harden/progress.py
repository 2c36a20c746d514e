"""What a long stage says while it works: a bar on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

from harden import signals

_LINE_EVERY_S = 10.0


class Track(Protocol):
    """One piece of long work."""

    def __call__(self, done: float, note: str = "") -> None:
        """Say how much of the total is done, with a note such as the reward so far."""


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
        if self.quiet or total <= 0:
            yield lambda done, note="": signals.check()
        elif sys.stderr.isatty():
            with tqdm(total=total, desc=label, unit=unit, leave=False, file=sys.stderr) as bar:

                def draw(done: float, note: str = "") -> None:
                    signals.check()
                    bar.set_postfix_str(note, refresh=False)
                    bar.update(done - bar.n)

                yield draw
        else:
            last = time.monotonic()

            def write(done: float, note: str = "") -> None:
                nonlocal last
                signals.check()
                now = time.monotonic()
                if now - last >= _LINE_EVERY_S:
                    last = now
                    line = f"{label}: {done:,.0f} of {total:,.0f} {unit} ({100 * done / total:.0f} %) {note}"
                    print(line.rstrip(), file=sys.stderr, flush=True)

            yield write


QUIET = Reporter(quiet=True)
