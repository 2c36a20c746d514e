"""One shard: whole episodes in the DSRL layout, a valid file by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import h5py
import numpy as np

from harden.data.hdf5 import Stored, attribute, numbers, open_arrays, write_hdf5
from harden.data.heaps import require_heaps_that_end
from harden.errors import DamagedFileError, InputError
from harden.files import write_whole
from harden.types import Transitions

FORMAT_VERSION = 1
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
_FIELDS = list(LAYOUT)
# a type in memory, and the same in the file
_STORED: dict[type, h5py.h5t.TypeID] = {
    dtype: h5py.h5t.py_create(np.dtype(dtype), logical=True) for dtype in (np.float32, np.bool_)
}
MADE_BY = "harden collect"


class Kind(Protocol):
    """What the data of one data set have in common: a task has it, and so have a data set and a source.

    Args:
        env_id, horizon: "" and 0 where unknown.
        obs_dim, act_dim: coordinates of an observation and of an action.
    """

    @property
    def env_id(self) -> str: ...
    @property
    def horizon(self) -> int: ...
    @property
    def obs_dim(self) -> int: ...
    @property
    def act_dim(self) -> int: ...


class Provenance(NamedTuple):
    """Where transitions come from.

    Args:
        seed: of the run that collected them.
        policy_digest: of the policy that acted, "" where unknown.
        behaviour: how it acted.
    """

    seed: int = 0
    policy_digest: str = ""
    behaviour: str = "imported"


class ShardHeader(NamedTuple):
    """What a shard says of itself, with defaults where a foreign file does not.

    Args:
        env_id, horizon: of its task, "" and 0 where unknown.
        seed: of the run that collected it.
        policy_digest: of the policy that acted.
        behaviour: how it acted.
        transitions, obs_dim, act_dim: sizes.
    """

    env_id: str
    horizon: int
    seed: int
    policy_digest: str
    behaviour: str
    transitions: int
    obs_dim: int
    act_dim: int


def check_values(data: Transitions, where: str, first: int = 0, finite: bool = False) -> None:
    """Refuse transitions that nothing may learn from.

    Args:
        where: the file or whatever else they come from.
        first: the number of their first row there.
        finite: whether all numbers are known to be finite.

    Raises:
        InputError: names the array and the row: NaN or infinite, a negative cost, both kinds of end at once.
    """
    # by numpy, on one thread: threads that wait for each other cost more than they save, beside other work
    arrays = columns(data)
    for name, column in arrays.items():
        if not finite and column.dtype != np.bool_ and not np.isfinite(column).all():
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


def shard_attributes(kind: Kind, provenance: Provenance) -> dict[str, Any]:
    """Return what a file in the DSRL layout says of itself, where harden wrote it."""
    libraries = ("harden", "torch", "gymnasium", "bullet-safety-gym", "pybullet", "h5py")
    return (
        {"format_version": FORMAT_VERSION, "env_id": kind.env_id, "horizon": kind.horizon}
        | provenance._asdict()
        | {f"version_{name}": version(name) for name in libraries}
    )


def write_shard(path: Path, data: Transitions, kind: Kind, provenance: Provenance) -> None:
    """Write a shard whole: to a temporary name, flushed, renamed."""
    attributes = shard_attributes(kind, provenance)
    write_whole(path, lambda aside: write_hdf5(aside, columns(data), attributes))


class Place(NamedTuple):
    """An array of a shard.

    Args:
        shape: rows first.
        offset: where its bytes lie in the file as they lie in memory; None where HDF5 has to convert them.
    """

    shape: tuple[int, ...]
    offset: int | None


@contextmanager
def open_shard(path: Path) -> Iterator[tuple[h5py.h5f.FileID, tuple[Place, ...]]]:
    """Open a file in the DSRL layout; returns its handle and its arrays, in the layout's order.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; also arrays missing or of unequal length.
    """
    with open_arrays(path, MADE_BY, _names()) as (file, found):
        places = tuple(_place(path, file, found.get(row[0]), *row) for row in LAYOUT.values())
        lengths = {place.shape[0] for place in places}
        if len(lengths) != 1:
            raise DamagedFileError(f"{path}: arrays of lengths {sorted(lengths)}; all must be equal")
        if places[_FIELDS.index("obs")].shape != places[_FIELDS.index("next_obs")].shape:
            raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
        yield file, places


def _place(
    path: Path, file: h5py.h5f.FileID, found: Stored | None, name: str, dtype: type, ndim: int
) -> Place:
    if found is not None and found.shape is not None and found.type.equal(_STORED[dtype]):
        place = Place(found.shape, found.offset)
    else:
        with_names = h5py.File(file)
        if name not in with_names:
            raise DamagedFileError(
                f"{path} has no '{name}'", f"a data set in the DSRL layout has: {', '.join(_names())}"
            )
        place = Place(numbers(with_names, name).shape, None)
    if len(place.shape) != ndim or 0 in place.shape:
        raise DamagedFileError(
            f"{path}: '{name}' has shape {place.shape}, expected {ndim} axes, none of them 0 long"
        )
    return place


def read_header(path: Path) -> ShardHeader:
    """Read a shard's attributes and check its layout.

    Raises:
        MissingInputError, DamagedFileError: as `open_shard`.
    """
    with open_shard(path) as (opened, places), h5py.File(opened) as file:
        require_heaps_that_end(path)
        found = attribute(file, "format_version", FORMAT_VERSION)
        if found != FORMAT_VERSION:
            raise DamagedFileError(f"{path} has format version {found}, this harden reads {FORMAT_VERSION}")
        (rows, obs_dim), (_, act_dim) = (places[_FIELDS.index(name)].shape for name in ("obs", "actions"))
        return ShardHeader(
            str(attribute(file, "env_id", "")),
            int(attribute(file, "horizon", 0)),
            int(attribute(file, "seed", 0)),
            str(attribute(file, "policy_digest", "")),
            str(attribute(file, "behaviour", "imported")),
            rows,
            obs_dim,
            act_dim,
        )


def _names() -> list[str]:
    return [name for name, _, _ in LAYOUT.values()]
