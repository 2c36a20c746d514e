"""Where episodes end in somebody else's logs: what the flags say, held against the observations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from harden.errors import InputError

# of the rows that no flag ends, so many must lead to the next row's observation before the others are doubted
_CONTINUOUS = 0.5
# a shift of the flags is the cause when no more than this share of what contradicts them is left by it
_LEFT = 0.1
# flags from which a shift can be told by the size of the steps between observations alone, and by how much
_LEAST_FLAGS, _LARGER = 3, 3.0


class Choices(NamedTuple):
    """What the user decides where a file can be read in two ways; None where that has to be asked.

    Args:
        at_horizon: what an end on the last step of the time limit is, flagged as a terminal: "timeout" or
            "terminal".
        at_break: what a row is that leads elsewhere than to the next row and that no flag ends: a "timeout",
            or no end ("keep").
        shift: rows that the flags of ends are moved by, 0 for flags that are right.
        tail: whether rows at the end that are all alike go: "drop" or "keep".
    """

    at_horizon: str | None = None
    at_break: str | None = None
    shift: int | None = None
    tail: str | None = None


class Steps(NamedTuple):
    """How the observations of a flat file follow each other (N rows).

    Args:
        follows: bool (N - 1,), whether the next observation of a row is the following row's; None where the
            file has no next observations.
        distance: float32 (N - 1,), between the observations of a row and the following one, by coordinate in
            units of its deviation; None where the file has next observations.
        lags: the share of rows whose next observation is the observation of the row itself, and of the row
            after the following one.
    """

    follows: np.ndarray | None
    distance: np.ndarray | None
    lags: tuple[float, float] = (0.0, 0.0)


def limit_ends(terminals: np.ndarray, horizon: int) -> np.ndarray:
    """Return where a time limit of `horizon` steps ended an episode, in data that do not say so."""
    row = np.arange(len(terminals))
    begins = np.r_[0, np.flatnonzero(terminals) + 1]
    age = row - begins[np.searchsorted(begins, row, side="right") - 1]
    return ((age + 1) % horizon == 0) & ~terminals


def shift_flags(flags: np.ndarray, rows: int) -> np.ndarray:
    """Return flags moved to later rows (to earlier ones by a negative number); what falls off is lost."""
    moved = np.roll(flags, rows)
    if rows > 0:
        moved[:rows] = False
    elif rows < 0:
        moved[rows:] = False
    return moved


def check_flags(path: Path, ends: Callable[[int], np.ndarray], steps: Steps) -> None:
    """Refuse flags that stand a row early or late, as the observations show.

    Args:
        path: the file, named in an error.
        ends: takes rows that the flags are moved by; returns bool (N,), where episodes end then.
        steps: how the observations follow each other.

    Raises:
        InputError: says which rows, and the shift that mends them.
    """
    better = _better_shift(ends, steps)
    if better:
        rows = np.flatnonzero(ends(0))
        breaks = (rows + better)[(rows + better >= 0) & (rows + better < len(ends(0)))]
        raise InputError(
            f"{path}: the flags of ends stand a row {'late' if better < 0 else 'early'}: they are at rows "
            f"{_some(rows)}, the observations break off at rows {_some(breaks)}",
            f"move them with --shift-flags {better}; if they are right, say --shift-flags 0",
        )


def _better_shift(ends: Callable[[int], np.ndarray], steps: Steps) -> int:
    if steps.follows is not None:
        left = {rows: int((~steps.follows & ~ends(rows)[:-1]).sum()) for rows in (0, -1, 1)}
        best = min(left, key=lambda rows: left[rows])
        return best if left[best] <= _LEFT * left[0] else 0
    assert steps.distance is not None
    rows = np.flatnonzero(ends(0))
    rows = rows[(rows > 0) & (rows < len(steps.distance) - 1)]
    if len(rows) < _LEAST_FLAGS:
        return 0
    here = steps.distance[rows]
    for better in (-1, 1):
        there = steps.distance[rows + better]
        if np.median(there) > _LARGER * np.median(here) and np.mean(there > here) >= 1 - _LEFT:
            return better
    return 0


def check_breaks(
    path: Path, ends: np.ndarray, steps: Steps, choice: str | None, notes: list[str]
) -> np.ndarray:
    """Return which rows end an episode though no flag says so, as the next observations show.

    Args:
        path: the file, named in an error.
        ends: bool (N,), as flagged.
        steps: how the observations follow each other.
        choice: `Choices.at_break`.
        notes: takes what the user should know.

    Raises:
        InputError: there are such rows and the user did not say what they are, or next observations that are
            those of other rows throughout.
    """
    breaks = np.zeros(len(ends), dtype=bool)
    if steps.follows is None:
        return breaks
    inner = ~ends[:-1]
    breaks[:-1] = ~steps.follows & inner
    if not breaks.any():
        return breaks
    share = 1 - breaks.sum() / inner.sum()
    if share < _CONTINUOUS:
        for lag, name in zip(steps.lags, ("the row itself", "two rows later"), strict=True):
            if lag > _CONTINUOUS:
                raise InputError(
                    f"{path}: 'next_observations' are the observations of {name} in {lag:.1%} of the rows",
                    "write the observation that followed the action, or leave the array out: then the "
                    "following row's is taken",
                )
    rows = f"{int(breaks.sum()):,} rows lead elsewhere than to the next row and are not flagged as ends"
    if choice:
        notes.append(f"{rows}: " + ("taken for timeouts" if choice == "timeout" else "kept as they are"))
        return breaks if choice == "timeout" else np.zeros_like(breaks)
    if share < _CONTINUOUS:
        notes.append(f"only {share:.1%} of the steps lead to the next row's observation: seen through noise?")
        return np.zeros_like(breaks)
    raise InputError(
        f"{path}: {rows} (rows {_some(np.flatnonzero(breaks))})",
        "say --at-break timeout where the recording was cut there, keep where the observations are noisy",
    )


def settle_ends(
    path: Path,
    lengths: np.ndarray,
    terminals: np.ndarray,
    timeouts: np.ndarray,
    horizon: int,
    choice: str | None,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each episode whether the dynamics ended it, and whether the time limit did: never both.

    Loggers of Gym's older interface write `done`, true at the time limit as well, where a terminal is asked
    for. A terminal there would teach the critics that nothing comes after the limit.

    Args:
        path: the file, named in an error.
        lengths: int64 (episodes,).
        terminals, timeouts: bool (episodes,), as flagged on the last row.
        horizon: steps of the time limit, 0 where unknown.
        choice: `Choices.at_horizon`.
        notes: takes what the user should know.

    Raises:
        InputError: it can't be told, and the user did not say.
    """
    limit = horizon or int(lengths.max())
    both = terminals & timeouts
    at_limit = terminals & (lengths == limit)
    # an end that is flagged as the limit's shows that the file tells the two apart
    apart = bool((timeouts & ~terminals & (lengths == limit)).any())
    # of an unknown limit there is no sign but that several episodes end on the same step, the last of all
    known = horizon > 0 or (int(at_limit.sum()) > 1 and limit > 1)
    doubtful = both | (at_limit & (known and not apart))
    said = f"{int(both.sum()):,} episodes end as terminal and timeout at once"
    if not both.any():
        said = f"all {int(at_limit.sum()):,} episodes of {limit} steps, the most, end as terminals"
    if choice:
        doubtful = both | (at_limit & (choice == "timeout"))
        if doubtful.any():
            notes.append(f"{said}: kept as {choice}s")
    elif doubtful.any():
        raise InputError(
            f"{path}: {said}, as in logs that write Gym's older 'done' for both",
            "say --at-horizon timeout where the time limit cut them, --at-horizon terminal where the robot "
            "failed or finished in that very step",
        )
    if choice == "timeout":
        return terminals & ~doubtful, timeouts | doubtful
    return terminals, timeouts & ~doubtful


def _some(rows: np.ndarray) -> str:
    shown = ", ".join(str(int(row)) for row in rows[:4])
    return shown + (f", ... {int(rows[-1])}" if len(rows) > 4 else "")
