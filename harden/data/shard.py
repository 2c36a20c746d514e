"""One shard: whole episodes in the DSRL layout, a valid file by itself."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from harden.data.hdf5 import attributes, hdf5_image, numbers, open_hdf5, read_into
from harden.data.header import (
    ATTRIBUTES,
    FORMAT_VERSION,
    MADE_BY,
    Kind,
    Provenance,
    ShardHeader,
    parse_attributes,
    shard_attributes,
)
from harden.errors import DamagedFileError, InputError
from harden.storage.files import write_whole
from harden.types import Transitions

# name in the file, type, axes; in the order of Transitions
LAYOUT: dict[str, tuple[str, type, int]] = {
    "obs": ("observations", np.float32, 2),
    "actions": ("actions", np.float32, 2),
    "rewards": ("rewards", np.float32, 1),
    "costs": ("costs", np.float32, 1),
    "next_obs": ("next_observations", np.float32, 2),
    "terminals": ("terminals", np.bool_, 1),
    "timeouts": ("timeouts", np.bool_, 1),
}


def check_values(data: Transitions, where: str, first: int = 0) -> None:
    """Refuse transitions that nothing may learn from.

    Args:
        data: the transitions.
        where: the file or whatever else they come from.
        first: the number of their first row there.

    Raises:
        InputError: names the array and the row: NaN or infinite, a negative cost, both kinds of end at once.
    """
    # by numpy, on one thread: threads that wait for each other cost more than they save, beside other work
    arrays = columns(data)
    for name, column in arrays.items():
        if column.dtype != np.bool_ and not np.isfinite(column).all():
            row = int(np.argwhere(~np.isfinite(column))[0][0])
            raise InputError(
                f"{where}: '{name}' holds NaN or an infinite value in row {first + row}",
                "remove that episode, or collect it again",
            )
    costs, terminals, timeouts = (arrays[name] for name in ("costs", "terminals", "timeouts"))
    if costs.min(initial=0) < 0:
        row = int(np.argmax(costs < 0))
        raise InputError(f"{where}: cost {costs[row]} in row {first + row}", "costs are at least 0")
    both = terminals & timeouts
    if both.any():
        raise InputError(
            f"{where}: row {first + int(np.argmax(both))} is both a terminal and a timeout",
            "an episode ends in one way",
        )


def columns(data: Transitions) -> dict[str, np.ndarray]:
    """Return the arrays of the DSRL layout, by name."""
    return {
        name: getattr(data, field).detach().cpu().numpy().astype(dtype, copy=False)
        for field, (name, dtype, _) in LAYOUT.items()
    }


def write_shard(path: Path, data: Transitions, kind: Kind, provenance: Provenance) -> None:
    """Write a shard whole: to a temporary name, flushed, renamed."""
    image = hdf5_image(columns(data), shard_attributes(kind, provenance))
    write_whole(path, lambda aside: aside.write_bytes(image))


def _open_columns(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the arrays of a file in the DSRL layout, by field of Transitions.

    Raises:
        DamagedFileError: arrays missing, of other axes or of unequal length.
    """
    path, found, there = file.filename, {}, set(file)
    for field, (name, _, ndim) in LAYOUT.items():
        if name not in there:
            raise DamagedFileError(
                f"{path} has no '{name}'", f"a data set in the DSRL layout has: {_names()}"
            )
        item = found[field] = numbers(file, name)
        if item.ndim != ndim or 0 in item.shape:
            raise DamagedFileError(
                f"{path}: '{name}' has shape {item.shape}, expected {ndim} axes, none of them 0 long"
            )
    lengths = {len(item) for item in found.values()}
    if len(lengths) != 1:
        raise DamagedFileError(f"{path}: arrays of lengths {sorted(lengths)}; all must be equal")
    if found["obs"].shape != found["next_obs"].shape:
        raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
    return found


def _names() -> str:
    return ", ".join(name for name, _, _ in LAYOUT.values())


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


def read_rows(path: Path, first: int, into: Transitions, sizes: tuple[int, int, int] | None = None) -> None:
    """Fill `into` with the rows of a shard from `first` on.

    Args:
        path: the shard.
        first: the number of the first row.
        into: takes the rows.
        sizes: rows and coordinates of an observation and an action that the shard must have.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; also arrays missing, of other sizes or of unequal
            length. InputError: values that nothing may learn from.
    """
    with open_hdf5(path, MADE_BY) as file:
        items = _open_columns(file)
        if sizes is not None and _sizes(items) != sizes:
            raise DamagedFileError(f"{path} is not the shard that the manifest lists")
        _fill(items, first, into)
    check_values(into, str(path), first)


def _fill(items: dict[str, h5py.Dataset], first: int, into: Transitions) -> None:
    for field, column in zip(LAYOUT, into, strict=True):
        read_into(items[field], column.numpy(), first)


def _sizes(items: dict[str, h5py.Dataset]) -> tuple[int, int, int]:
    return (*items["obs"].shape, items["actions"].shape[1])


def read_shard(path: Path) -> tuple[ShardHeader, Transitions]:
    """Read a shard whole: what it says of itself, and its transitions.

    Raises:
        MissingInputError, DamagedFileError, InputError: as `read_rows`; attributes that no manifest holds.
    """
    with open_hdf5(path, MADE_BY) as file:
        items = _open_columns(file)
        said = attributes(file, ATTRIBUTES)
        found = said.get("format_version", FORMAT_VERSION)
        if found != FORMAT_VERSION:
            raise DamagedFileError(f"{path} has format version {found}, this harden reads {FORMAT_VERSION}")
        env_id, horizon, provenance = parse_attributes(said, str(path))
        sizes = _sizes(items)
        data = empty_rows(*sizes)
        _fill(items, 0, data)
    check_values(data, str(path))
    return ShardHeader(env_id, horizon, *sizes[1:], provenance), data
