"""Rows of shards, read from where they lie in the file straight to where they belong in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harden.data.hdf5 import open_hdf5, read_array
from harden.data.shard import LAYOUT, MADE_BY, Place, check_values, open_shard
from harden.errors import DamagedFileError, InputError
from harden.files import read_errors
from harden.types import Transitions

# bytes read in one piece and looked at while the processor still has them at hand
_BLOCK = 1 << 19


class Plan(NamedTuple):
    """A shard that was looked through once, and need not be again while its file is the same.

    Args:
        stamp: of the file that was looked through.
        places: of its arrays, in the layout's order.
    """

    stamp: tuple[int, ...]
    places: tuple[Place, ...]

    @property
    def rows(self) -> int:
        """Transitions in it."""
        return self.places[0].shape[0]

    @property
    def sizes(self) -> tuple[int, int]:
        """Coordinates of an observation and of an action."""
        obs, actions, *_ = self.places
        return obs.shape[1], actions.shape[1]


def _stamp(found: os.stat_result) -> tuple[int, ...]:
    """Return what is another where a file was replaced or written to."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def plan_shard(path: Path, known: Plan | None = None) -> Plan:
    """Look through a shard, unless that was done already.

    Args:
        known: what was found the last time.

    Raises:
        MissingInputError, DamagedFileError: as `open_shard`.
    """
    if known is not None and path.is_file() and _stamp(path.stat()) == known.stamp:
        return known
    with open_shard(path) as (file, places):
        return Plan(_stamp(os.fstat(file.get_vfd_handle())), places)


def empty_rows(rows: int, obs_dim: int, act_dim: int) -> Transitions:
    """Return room for transitions.

    Raises:
        InputError: there is none.
    """
    width = {"obs": (obs_dim,), "next_obs": (obs_dim,), "actions": (act_dim,)}
    try:
        arrays = [np.empty((rows, *width.get(field, ())), LAYOUT[field][1]) for field in LAYOUT]
    except (MemoryError, ValueError):
        raise InputError(f"{rows:,} transitions do not fit into memory") from None
    return Transitions(*map(torch.from_numpy, arrays))


def read_rows(path: Path, plan: Plan, first: int, into: Transitions) -> None:
    """Fill `into` with the rows of a shard from `first` on.

    Raises:
        DamagedFileError: the file is another than planned, or ends too early.
        InputError: values that nothing may learn from.
    """
    arrays = [column.numpy() for column in into]
    if all(place.offset is not None for place in plan.places):
        finite = _read_plain(path, plan, first, arrays)
    else:
        finite, rows = False, slice(first, first + len(into.rewards))
        with open_hdf5(path, MADE_BY) as file:
            for array, (name, dtype, ndim) in zip(arrays, LAYOUT.values(), strict=True):
                array[...] = read_array(file, name, dtype, rows, ndim)
    check_values(into, str(path), first, finite)


def _read_plain(path: Path, plan: Plan, first: int, arrays: list[np.ndarray]) -> bool:
    """Read without HDF5, which is slower; returns whether all numbers are finite."""
    try:
        # a pipe put in the file's place would wait for a writer
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if _stamp(os.fstat(handle)) != plan.stamp:
                raise DamagedFileError(f"{path} was replaced while it was read", "run the command again")
            finite = True
            for array, place in zip(arrays, plan.places, strict=True):
                begin = (place.offset or 0) + first * (array.nbytes // len(array))
                with read_errors(path):
                    finite = _fill(handle, array.reshape(-1), begin, path) and finite
            return finite
        finally:
            os.close(handle)
    except OSError as error:
        raise DamagedFileError(f"{path} can't be read ({error.strerror})") from error


def _fill(handle: int, flat: np.ndarray, offset: int, path: Path) -> bool:
    """Read one array from `offset` on; returns whether its numbers are finite."""
    finite, flags = True, flat.dtype == np.bool_
    for start in range(0, len(flat), _BLOCK // flat.itemsize):
        block = flat[start : start + _BLOCK // flat.itemsize]
        left = memoryview(block.data).cast("B")
        while left:
            count = os.preadv(handle, [left], offset)
            if not count:
                raise DamagedFileError(f"{path} ends before its arrays do")
            left, offset = left[count:], offset + count
        if flags and block.view(np.uint8).max() > 1:
            raise DamagedFileError(f"{path} holds flags other than 0 and 1")
        finite = finite and (flags or bool(np.isfinite(block).all()))
    return finite


def read_shard(path: Path) -> Transitions:
    """Read a shard whole.

    Raises:
        MissingInputError, DamagedFileError, InputError: as `plan_shard` and `read_rows`.
    """
    plan = plan_shard(path)
    data = empty_rows(plan.rows, *plan.sizes)
    read_rows(path, plan, 0, data)
    return data
