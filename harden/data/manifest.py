"""A data set's manifest: what each shard holds, and of which task they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from harden.data.shard import FORMAT_VERSION
from harden.errors import DamagedFileError, InputError
from harden.files import digest_file, read_json, write_json
from harden.tasks import Task
from harden.types import Transitions

MADE_BY = "harden collect"
_NAME = re.compile(r"shard-\d{5,}\.h5")


class ShardInfo(NamedTuple):
    """A shard's entry in the manifest."""

    name: str
    sha256: str
    transitions: int
    episodes: int
    reward: float
    cost: float
    behaviour: str
    policy_digest: str
    seed: int


class DatasetInfo(NamedTuple):
    """What a data set holds: its task's shape and its shards, oldest first."""

    env_id: str
    horizon: int
    obs_dim: int
    act_dim: int
    shards: tuple[ShardInfo, ...]

    @property
    def transitions(self) -> int:
        """Rows in all."""
        return sum(shard.transitions for shard in self.shards)

    @property
    def episodes(self) -> int:
        """Whole episodes in all."""
        return sum(shard.episodes for shard in self.shards)

    @property
    def reward(self) -> float:
        """Total reward."""
        return sum(shard.reward for shard in self.shards)

    @property
    def cost(self) -> float:
        """Total cost."""
        return sum(shard.cost for shard in self.shards)

    @property
    def attacked(self) -> bool:
        """Whether any of it was collected under attack."""
        return any(shard.behaviour == "mc" for shard in self.shards)

    @property
    def digest(self) -> str:
        """The identity of the content."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def describe_shard(path: Path, data: Transitions, behaviour: str, policy_digest: str, seed: int) -> ShardInfo:
    """Return the entry of a shard that is on the disk."""
    return ShardInfo(
        path.name,
        digest_file(path),
        len(data.rewards),
        int((data.terminals | data.timeouts).sum()),
        float(data.rewards.double().sum()),
        float(data.costs.double().sum()),
        behaviour,
        policy_digest,
        seed,
    )


def shard_name(index: int) -> str:
    """Return the file name of a data set's shard."""
    return f"shard-{index:05d}.h5"


def read_manifest(folder: Path) -> DatasetInfo:
    """Read a data set's manifest.

    Raises:
        MissingInputError: not there; DamagedFileError: not a manifest of this format.
    """
    path = folder / "manifest.json"
    value = read_json(path, MADE_BY)
    try:
        if value["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {value['format_version']}, this harden reads {FORMAT_VERSION}")
        shards = tuple(ShardInfo(**entry) for entry in value["shards"])
        for shard in shards:
            if not isinstance(shard.name, str) or not _NAME.fullmatch(shard.name):
                raise ValueError(f"'{shard.name}' is not a shard's name")
            if not all(isinstance(n, int) and n > 0 for n in (shard.transitions, shard.episodes)):
                raise ValueError(f"{shard.name} has {shard.transitions} rows in {shard.episodes} episodes")
            float(shard.reward), float(shard.cost), str(shard.sha256).encode()
        sizes = (int(value["horizon"]), int(value["obs_dim"]), int(value["act_dim"]))
        return DatasetInfo(str(value["env_id"]), *sizes, shards)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is not a data set's manifest ({error})", f"collect the data again with: {MADE_BY}"
        ) from error


def write_manifest(folder: Path, info: DatasetInfo) -> None:
    """Replace a data set's manifest whole."""
    plain = info._asdict() | {"shards": [shard._asdict() for shard in info.shards]}
    totals = {"transitions": info.transitions, "episodes": info.episodes}
    write_json(folder / "manifest.json", {"format_version": FORMAT_VERSION} | totals | plain)


def check_task(info: DatasetInfo, task: Task, path: Path) -> None:
    """Refuse a data set of another task.

    Raises:
        InputError: says which of sizes, environment and horizon differs.
    """
    for name, found, wanted in (
        ("obs_dim", info.obs_dim, task.obs_dim),
        ("act_dim", info.act_dim, task.act_dim),
        ("env_id", info.env_id or task.env_id, task.env_id),
        ("horizon", info.horizon or task.horizon, task.horizon),
    ):
        if found != wanted:
            raise InputError(
                f"data set {path} has {name} {found}, task '{task.name}' has {wanted}",
                "use the data of that task, or name another pipeline with -p",
            )
