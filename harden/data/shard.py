"""One shard: whole episodes in the DSRL layout, a valid file by itself."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from harden.data.hdf5 import attribute, open_hdf5, read_array, write_hdf5
from harden.errors import DamagedFileError, InputError
from harden.files import write_whole
from harden.tasks import Task
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


def check_values(data: Transitions, where: str) -> None:
    """Refuse transitions that nothing may learn from.

    Raises:
        InputError: names the array and the row: NaN or infinite, a negative cost, both kinds of end at once.
    """
    for field, (name, _, _) in LAYOUT.items():
        column = getattr(data, field)
        if column.is_floating_point() and not bool(torch.isfinite(column).all()):
            row = int(torch.nonzero(~torch.isfinite(column))[0][0])
            raise InputError(
                f"{where}: '{name}' holds NaN or an infinite value in row {row}",
                "remove that episode, or collect it again",
            )
    if bool((data.costs < 0).any()):
        row = int(torch.nonzero(data.costs < 0)[0][0])
        raise InputError(f"{where}: cost {float(data.costs[row])} in row {row}", "costs are at least 0")
    both = data.terminals & data.timeouts
    if bool(both.any()):
        row = int(torch.nonzero(both)[0][0])
        raise InputError(f"{where}: row {row} is both a terminal and a timeout", "an episode ends in one way")


def write_shard(
    path: Path, data: Transitions, task: Task, *, seed: int, policy_digest: str, behaviour: str
) -> None:
    """Write a shard whole: to a temporary name, flushed, renamed."""
    arrays = {
        name: getattr(data, field).detach().cpu().numpy().astype(dtype, copy=False)
        for field, (name, dtype, _) in LAYOUT.items()
    }
    libraries = ("harden", "torch", "gymnasium", "bullet-safety-gym", "pybullet", "h5py")
    attributes: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "env_id": task.env_id,
        "horizon": task.horizon,
        "seed": seed,
        "policy_digest": policy_digest,
        "behaviour": behaviour,
    } | {f"version_{name}": version(name) for name in libraries}
    write_whole(path, lambda aside: write_hdf5(aside, arrays, attributes))


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
            if file[name].ndim != ndim:
                raise DamagedFileError(f"{path}: '{name}' has shape {file[name].shape}, expected {ndim} axes")
            shapes[name] = file[name].shape
        lengths = {shape[0] for shape in shapes.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise DamagedFileError(
                f"{path}: arrays of lengths {sorted(lengths)}; all must be equal and not 0"
            )
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
        columns = [read_array(file, name, dtype, rows, ndim) for name, dtype, ndim in LAYOUT.values()]
    data = Transitions(*(torch.from_numpy(column) for column in columns))
    check_values(data, str(path))
    return data
