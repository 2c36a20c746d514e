"""One shard: whole episodes in the DSRL layout, a valid file by itself."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from harden.data.hdf5 import attribute, numbers, open_hdf5, read_array, write_hdf5
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
_MADE_BY = "harden collect"


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


def check_values(data: Transitions, where: str, first: int = 0) -> None:
    """Refuse transitions that nothing may learn from.

    Args:
        where: the file or whatever else they come from.
        first: the number of their first row there.

    Raises:
        InputError: names the array and the row: NaN or infinite, a negative cost, both kinds of end at once.
    """
    for field, (name, _, _) in LAYOUT.items():
        column = getattr(data, field)
        # a sum is finite where all its terms are, or overflows: then each of them is looked at
        broken = column.is_floating_point() and not bool(torch.isfinite(column.sum()))
        if broken and not bool(torch.isfinite(column).all()):
            row = int(torch.nonzero(~torch.isfinite(column))[0][0])
            raise InputError(
                f"{where}: '{name}' holds NaN or an infinite value in row {first + row}",
                "remove that episode, or collect it again",
            )
    if len(data.costs) and bool(data.costs.min() < 0):
        row = int(torch.nonzero(data.costs < 0)[0][0])
        raise InputError(
            f"{where}: cost {float(data.costs[row])} in row {first + row}", "costs are at least 0"
        )
    both = data.terminals & data.timeouts
    if bool(both.any()):
        row = int(torch.nonzero(both)[0][0])
        raise InputError(
            f"{where}: row {first + row} is both a terminal and a timeout", "an episode ends in one way"
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


def read_header(path: Path) -> ShardHeader:
    """Read a shard's attributes and check its layout.

    Raises:
        MissingInputError, DamagedFileError: as `open_hdf5`; also arrays missing or of unequal length.
    """
    with open_hdf5(path, _MADE_BY) as file:
        shapes = {}
        for name, _, ndim in LAYOUT.values():
            if name not in file:
                raise DamagedFileError(
                    f"{path} has no '{name}'", f"a data set in the DSRL layout has: {', '.join(_names())}"
                )
            shapes[name] = numbers(file, name).shape
            if len(shapes[name]) != ndim or 0 in shapes[name]:
                raise DamagedFileError(
                    f"{path}: '{name}' has shape {shapes[name]}, expected {ndim} axes, none of them 0 long"
                )
        lengths = {shape[0] for shape in shapes.values()}
        if len(lengths) != 1:
            raise DamagedFileError(f"{path}: arrays of lengths {sorted(lengths)}; all must be equal")
        if shapes["observations"] != shapes["next_observations"]:
            raise DamagedFileError(f"{path}: observations and next_observations differ in shape")
        found = attribute(file, "format_version", FORMAT_VERSION)
        if found != FORMAT_VERSION:
            raise DamagedFileError(f"{path} has format version {found}, this harden reads {FORMAT_VERSION}")
        return ShardHeader(
            str(attribute(file, "env_id", "")),
            int(attribute(file, "horizon", 0)),
            int(attribute(file, "seed", 0)),
            str(attribute(file, "policy_digest", "")),
            str(attribute(file, "behaviour", "imported")),
            shapes["observations"][0],
            shapes["observations"][1],
            shapes["actions"][1],
        )


def _names() -> list[str]:
    return [name for name, _, _ in LAYOUT.values()]


def read_shard(path: Path, start: int = 0, stop: int | None = None) -> Transitions:
    """Read rows of a shard, and no more than those.

    Raises:
        MissingInputError, DamagedFileError: as `read_header`; InputError: values that nothing may learn from.
    """
    rows = slice(start, stop)
    with open_hdf5(path, _MADE_BY) as file:
        found = [read_array(file, name, dtype, rows, ndim) for name, dtype, ndim in LAYOUT.values()]
    data = Transitions(*(torch.from_numpy(column) for column in found))
    if len({len(column) for column in data}) != 1 or data.obs.shape != data.next_obs.shape:
        raise DamagedFileError(f"{path}: arrays of different lengths")
    check_values(data, str(path))
    return data
