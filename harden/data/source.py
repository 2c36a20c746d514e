"""What the readers of foreign formats have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harden.data.ends import Choices
from harden.data.header import Provenance
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions


class Wanted(NamedTuple):
    """What the user says of a foreign file, because it does not say so itself.

    Args:
        cost_key: the array that holds the costs, "" for the format's own.
        env_id: the environment, "" for what the file says.
        horizon: steps of the time limit, 0 for what the file says.
        choices: what holds where it can be read in two ways.
    """

    cost_key: str = ""
    env_id: str = ""
    horizon: int = 0
    choices: Choices = Choices()


class Source(NamedTuple):
    """A foreign file opened for conversion.

    Args:
        env_id, horizon: "" and 0 where unknown.
        obs_dim, act_dim: coordinates of an observation and of an action.
        chunks: whole episodes, a shard at a time, and where they come from.
        notes: what is not kept as it was, one line each; complete when the chunks are read.
    """

    env_id: str
    horizon: int
    obs_dim: int
    act_dim: int
    chunks: Iterator[tuple[Provenance, Transitions]]
    notes: list[str]


def check_lengths(longest: int, horizon: int, path: Path) -> None:
    """Refuse episodes that the time limit would have ended.

    Args:
        longest: rows of the longest episode.
        horizon: steps of the time limit, 0 where unknown.

    Raises:
        InputError: says both.
    """
    if horizon and longest > horizon:
        raise InputError(
            f"{path}: the longest episode has {longest} steps, the horizon is {horizon}",
            "give the time limit's steps with --horizon; if the file never flags it, remove its 'timeouts'",
        )


def narrow(values: np.ndarray, ndim: int, what: str, rounded: set[str], first: int = 0) -> Tensor:
    """Return numbers as float32.

    Args:
        values: of any numeric type.
        ndim: axes that they must have; of one axis more, the last may be 1 long.
        what: the file and the array's name, in an error.
        rounded: takes the name where float32 can't hold a value exactly.
        first: the number of the first row, in an error.

    Raises:
        DamagedFileError: another number of axes; InputError: a finite number beyond those of float32.
    """
    if values.ndim == ndim + 1 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != ndim:
        raise DamagedFileError(f"{what} has {values.ndim} axes, expected {ndim}")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.ascontiguousarray(values, dtype=np.float32)
        if values.dtype != np.float32 and not np.array_equal(kept.astype(values.dtype), values):
            rounded.add(what.rsplit("'", 2)[-2])
            beyond = np.isinf(kept) & np.isfinite(values)
            if beyond.any():
                place = tuple(np.argwhere(beyond)[0])
                raise InputError(
                    f"{what} holds {values[place]:.6g} in row {first + int(place[0])}",
                    "harden keeps float32, whose largest number is 3.4e38: write it in a larger unit",
                )
    return torch.from_numpy(kept)
