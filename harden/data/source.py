"""What the readers of foreign formats have in common."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import h5py
import numpy as np
import torch
from torch import Tensor

from harden.data.hdf5 import attribute
from harden.data.shard import Provenance
from harden.errors import DamagedFileError, InputError
from harden.types import Transitions

# what a manifest can say: a data set that says more is one that nothing opens again
MOST_STEPS = (1 << 31) - 1
MOST_SEED = (1 << 63) - 1
_Said = TypeVar("_Said", int, str)


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


def check_said(value: Any, default: _Said, what: str, least: int = 0, most: int = MOST_STEPS) -> _Said:
    """Return what a file says of itself, if it can be.

    Args:
        value: as it was read.
        default: what holds where a file does not say: the value has to be of its type.
        what: the file and the name, in an error.
        least, most: bounds of a whole number.

    Raises:
        DamagedFileError: of another type, or out of bounds.
    """
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else value.tolist()
    if isinstance(default, str):
        if isinstance(value, str):
            return value
        allowed = "a text"
    else:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and least <= value <= most:
            return value
        allowed = f"a whole number from {least} to {most}"
    raise DamagedFileError(
        f"{what} is {reprlib.repr(value)}, allowed is {allowed}", "correct it in the file, or delete it there"
    )


def read_said(group: h5py.Group, name: str, default: _Said, least: int = 0, most: int = MOST_STEPS) -> _Said:
    """Return an attribute; arguments and errors as `check_said`."""
    value = attribute(group, name, default)
    return check_said(value, default, f"{group.file.filename}: attribute '{name}'", least, most)


def read_provenance(group: h5py.Group, prefix: str = "") -> Provenance:
    """Return where a group's transitions come from, as its attributes say.

    Raises:
        DamagedFileError: as `check_said`.
    """
    default = Provenance()
    return Provenance(
        read_said(group, f"{prefix}seed", default.seed, -MOST_SEED, MOST_SEED),
        read_said(group, f"{prefix}policy_digest", default.policy_digest),
        read_said(group, f"{prefix}behaviour", default.behaviour),
    )


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


def narrow(values: np.ndarray, ndim: int, what: str, rounded: set[str]) -> Tensor:
    """Return numbers as float32.

    Args:
        values: of any numeric type.
        ndim: axes that they must have.
        what: the array's name in an error.
        rounded: takes the name where float32 can't hold a value exactly.

    Raises:
        DamagedFileError: another number of axes; InputError: a number beyond what float32 holds.
    """
    if values.ndim != ndim:
        raise DamagedFileError(f"{what} has {values.ndim} axes, expected {ndim}")
    with np.errstate(over="ignore", invalid="ignore"):
        kept = np.ascontiguousarray(values, dtype=np.float32)
        if values.dtype != np.float32 and not np.array_equal(kept.astype(values.dtype), values):
            rounded.add(what.rsplit("'", 2)[-2])
            beyond = np.isinf(kept) & np.isfinite(values)
            if beyond.any():
                raise InputError(
                    f"{what} holds {values[beyond][0]:g}, more than the 3.4e38 of a float32",
                    "which is what is stored: give it in a larger unit, or remove that episode",
                )
    return torch.from_numpy(kept)
