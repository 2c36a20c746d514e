"""What a reader of a foreign log takes and returns."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from harden.data.manifest import Attributes
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions


class ImportOptions(NamedTuple):
    """What the user says of a foreign log, because it does not say so itself or can be read in two ways.

    Args:
        cost_key: the array that holds the costs, "" for the format's own.
        env_id: the environment, "" for what the file says.
        horizon: steps of the time limit, 0 for what the file says.
        at_horizon: what an end on the last step of the time limit is, flagged as a terminal: "timeout" or
            "terminal"; None, here and below: refuse to guess.
        at_break: what a row is that leads elsewhere than to the next row and that no flag ends: a "timeout",
            or no end ("keep").
        shift: rows that the flags of ends are moved by, 0 for flags that are right.
        tail: whether rows at the end that are all alike go: "drop" or "keep".
    """

    cost_key: str = ""
    env_id: str = ""
    horizon: int = 0
    at_horizon: str | None = None
    at_break: str | None = None
    shift: int | None = None
    tail: str | None = None


class Log(NamedTuple):
    """A foreign log in memory.

    Args:
        stated: its environment, time limit and provenance.
        data: whole episodes.
        notes: what is not kept as it was, one line each.
    """

    stated: Attributes
    data: Transitions
    notes: list[str]


def check_lengths(lengths: np.ndarray, horizon: int, path: Path) -> None:
    """Refuse episodes that the time limit would have ended.

    Args:
        lengths: int64 (episodes,).
        horizon: steps of the time limit, 0 where unknown.

    Raises:
        InputError: says both.
    """
    if horizon and lengths.max() > horizon:
        raise InputError(
            f"{path}: the longest episode has {lengths.max()} steps, the horizon is {horizon}",
            "give the time limit's steps with --horizon; if the file never flags it, remove its 'timeouts'",
        )


def to_float32(values: np.ndarray, ndim: int, where: str, name: str, rounded: set[str]) -> np.ndarray:
    """Return numbers as float32.

    Args:
        values: of any numeric type.
        ndim: axes that they must have; of one axis more, the last may be 1 long.
        where, name: the file and the array, in an error.
        rounded: takes the name where float32 can't hold a value exactly.

    Raises:
        DamagedFileError: another number of axes; InputError: a finite number beyond those of float32.
    """
    if values.ndim == ndim + 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != ndim:
        raise DamagedFileError(f"{where}: '{name}' has {values.ndim} axes, expected {ndim}")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.ascontiguousarray(values, dtype=np.float32)
        if values.dtype != np.float32 and not np.array_equal(kept.astype(values.dtype), values):
            rounded.add(name)
            beyond = np.argwhere(np.isinf(kept) & np.isfinite(values))
            if len(beyond):
                raise InputError(
                    f"{where}: '{name}' holds {values[tuple(beyond[0])]:.6g} in row {beyond[0][0]}",
                    "harden keeps float32, whose largest number is 3.4e38: write it in a larger unit",
                )
    return kept


def note_rounded(rounded: set[str], notes: list[str]) -> None:
    """Note the arrays that float32 does not hold exactly."""
    if rounded:
        notes.append(f"rounded to float32, which is what harden keeps: {', '.join(sorted(rounded))}")
