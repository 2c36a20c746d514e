"""What the readers of foreign formats have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harden.data.shard import Provenance
from harden.errors import DamagedFileError
from harden.types import Transitions


class Wanted(NamedTuple):
    """What the user says of a foreign file, because it does not say so itself.

    Args:
        cost_key: the array that holds the costs, "" for the format's own.
        env_id: the environment, "" for what the file says.
        horizon: steps of the time limit, 0 for what the file says.
    """

    cost_key: str = ""
    env_id: str = ""
    horizon: int = 0


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


def narrow(values: np.ndarray, ndim: int, what: str, rounded: set[str]) -> Tensor:
    """Return numbers as float32.

    Args:
        values: of any numeric type.
        ndim: axes that they must have.
        what: the array's name in an error.
        rounded: takes the name where float32 can't hold a value exactly.

    Raises:
        DamagedFileError: another number of axes.
    """
    if values.ndim != ndim:
        raise DamagedFileError(f"{what} has {values.ndim} axes, expected {ndim}")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.ascontiguousarray(values, dtype=np.float32)
        if values.dtype != np.float32 and not np.array_equal(kept.astype(values.dtype), values):
            rounded.add(what.rsplit("'", 2)[-2])
    return torch.from_numpy(kept)
