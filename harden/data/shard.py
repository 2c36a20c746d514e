"""One shard: whole episodes in the DSRL layout, a valid file by itself."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from harden.data.hdf5 import attributes, hdf5_image, numbers, open_hdf5, read_into
from harden.data.manifest import (
    Attributes,
    DatasetInfo,
    Kind,
    Provenance,
    ShardInfo,
    parse_attributes,
    provenance_of,
    shard_attributes,
)
from harden.errors import DamagedFileError, InputError
from harden.storage.files import digest_file, require_file, write_whole
from harden.types import Transitions

_MEND = "where it is a data set's shard, keep the others with: harden data repair"
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
        where: they come from; first: the number of their first row there.

    Raises:
        InputError: names the array and the row: NaN or infinite, a negative cost, both kinds of end at once.
    """
    # by numpy, on one thread: threads that wait for each other cost more than they save, beside other work
    arrays = columns(data)

    def refuse(bad: np.ndarray, what: str, remedy: str) -> None:
        if bad.any():
            raise InputError(f"{where}: {what} in row {first + int(np.argwhere(bad)[0][0])}", remedy)

    for name, column in arrays.items():
        if column.dtype != np.bool_:
            what = f"'{name}' holds NaN or an infinite value"
            refuse(~np.isfinite(column), what, "remove that episode, or collect it again")
    refuse(arrays["costs"] < 0, "a cost below 0", "costs are at least 0")
    refuse(arrays["terminals"] & arrays["timeouts"], "both kinds of end", "an episode ends in one way")


def columns(data: Transitions) -> dict[str, np.ndarray]:
    """Return the arrays of the DSRL layout, by name."""
    return {
        name: getattr(data, field).detach().cpu().numpy().astype(dtype, copy=False)
        for field, (name, dtype, _) in LAYOUT.items()
    }


def column_shapes(rows: int, kind: Kind) -> dict[str, tuple[int, ...]]:
    """Return the shape of each field of so many transitions."""
    widths = {"obs": (kind.obs_dim,), "next_obs": (kind.obs_dim,), "actions": (kind.act_dim,)}
    return {field: (rows, *widths.get(field, ())) for field in LAYOUT}


def empty_rows(rows: int, kind: Kind) -> Transitions:
    """Return room for transitions; InputError: there is none."""
    shapes = column_shapes(rows, kind)
    try:
        return Transitions(*(torch.from_numpy(np.empty(shapes[k], row[1])) for k, row in LAYOUT.items()))
    except (MemoryError, ValueError):
        raise InputError(f"{rows:,} transitions do not fit into memory") from None


def write_shard(path: Path, data: Transitions, kind: Kind, provenance: Provenance) -> ShardInfo:
    """Write a shard whole and return its entry for the manifest."""
    image = hdf5_image(columns(data), shard_attributes(kind, provenance))
    write_whole(path, lambda aside: aside.write_bytes(image))
    return describe(path.name, digest_file(path), data, provenance)


def describe(name: str, sha256: str, data: Transitions, provenance: Provenance) -> ShardInfo:
    """Return the manifest's entry of a shard of these transitions."""
    size = len(data.rewards), int((data.terminals | data.timeouts).sum())
    sums = float(data.rewards.double().sum()), float(data.costs.double().sum())
    return ShardInfo(name, sha256, *size, *sums, **provenance._asdict())


def _open_columns(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the arrays of a file in the DSRL layout, by field of Transitions."""
    path, items = file.filename, dict[str, h5py.Dataset]()
    for field, (name, _, ndim) in LAYOUT.items():
        item = items[field] = numbers(file, name)
        if item.ndim != ndim or 0 in item.shape:
            raise DamagedFileError(f"{path}: '{name}' {item.shape} needs {ndim} axes, none of them 0 long")
    shapes = {field: item.shape for field, item in items.items()}
    if len({shape[0] for shape in shapes.values()}) != 1 or shapes["obs"] != shapes["next_obs"]:
        raise DamagedFileError(f"{path}: lengths, or observations and next ones, that differ: {shapes}")
    return items


def _fill(items: dict[str, h5py.Dataset], first: int, into: Transitions) -> None:
    for field, column in zip(LAYOUT, into, strict=True):
        read_into(items[field], column.numpy(), first)


def read_rows(path: Path, first: int, into: Transitions, rows: int, kind: Kind) -> None:
    """Fill `into` with the rows from `first` on of a shard that must have so many rows, of such sizes.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; also arrays missing, of other sizes or of unequal
            length. InputError: values that nothing may learn from.
    """
    mend = f"{_MEND} {path.parent}"
    with open_hdf5(path, mend) as file:
        items = _open_columns(file)
        if {field: item.shape for field, item in items.items()} != column_shapes(rows, kind):
            raise DamagedFileError(f"{path} is not the shard that the manifest lists", mend)
        _fill(items, first, into)
    check_values(into, str(path), first)


def read_shard(path: Path) -> tuple[DatasetInfo, Transitions]:
    """Read a shard whole; returns it as a data set of one shard, and its transitions.

    Raises:
        MissingInputError, DamagedFileError, InputError: as `read_rows`; attributes that no manifest holds, or
            no end of the last episode.
    """
    with open_hdf5(path, f"{_MEND} {path.parent}") as file:
        items = _open_columns(file)
        stated = parse_attributes(attributes(file, Attributes._fields), str(path))
        rows, obs_dim = items["obs"].shape
        info = DatasetInfo(stated.env_id, stated.horizon, obs_dim, items["actions"].shape[1], ())
        data = empty_rows(rows, info)
        _fill(items, 0, data)
    check_values(data, str(path))
    if not bool(data.terminals[-1] | data.timeouts[-1]):
        remedy = "let `harden data import` find it, with --horizon"
        raise DamagedFileError(f"{path} does not end with an episode's end", remedy)
    return info._replace(shards=(describe(path.name, digest_file(path), data, provenance_of(stated)),)), data


def read_whole_shard(path: Path, sha256: str | None) -> tuple[DatasetInfo, Transitions]:
    """Read a shard that lies in its data set's folder with its checksum there, None if unlisted.

    Raises:
        As `read_shard`; DamagedFileError: it is a link, or has another checksum.
    """
    if path.is_symlink():
        raise DamagedFileError(f"{path} is a link, and not in the data set", "put a copy in its place")
    mend = f"{_MEND} {path.parent}"
    require_file(path, mend)
    # before HDF5 sees it: what is damaged may hold it up
    if sha256 is not None and digest_file(path) != sha256:
        raise DamagedFileError(f"{path} does not have the checksum that the manifest lists", mend)
    return read_shard(path)
