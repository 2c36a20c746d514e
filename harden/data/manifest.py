"""A data set's manifest: what each shard holds, and of which task they are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple, get_type_hints

from harden.config.tasks import Task
from harden.config.variants import MC_BEHAVIOUR
from harden.data.header import FORMAT_VERSION, MADE_BY, Kind, Provenance
from harden.data.shard import read_shard
from harden.errors import DamagedFileError, InputError, MissingInputError
from harden.storage.files import digest_file, read_errors, read_json, write_json
from harden.types import Transitions

_NAME = re.compile(r"shard-([0-9]{5,9})\.h5")


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

    @property
    def provenance(self) -> Provenance:
        """Where its transitions come from."""
        return Provenance(self.seed, self.policy_digest, self.behaviour)


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
        return any(shard.behaviour == MC_BEHAVIOUR for shard in self.shards)

    @property
    def digest(self) -> str:
        """The identity of the content."""
        return hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()


def describe_shard(path: Path, data: Transitions, provenance: Provenance) -> ShardInfo:
    """Return the entry of a shard that is on the disk."""
    return ShardInfo(
        path.name,
        digest_file(path),
        len(data.rewards),
        int((data.terminals | data.timeouts).sum()),
        float(data.rewards.double().sum()),
        float(data.costs.double().sum()),
        provenance.behaviour,
        provenance.policy_digest,
        provenance.seed,
    )


def inspect_shard(path: Path) -> tuple[DatasetInfo, Transitions]:
    """Read a file in the DSRL layout; returns it as a data set of one shard.

    Raises:
        MissingInputError, DamagedFileError, InputError: as `read_shard`.
    """
    header, data = read_shard(path)
    entry = describe_shard(path, data, header.provenance)
    return DatasetInfo(header.env_id, header.horizon, header.obs_dim, header.act_dim, (entry,)), data


def leads_out(shard: Path) -> str:
    """Say where a shard that is a link out of its folder leads; "" where it is not."""
    try:
        there = shard.resolve()
    except (RuntimeError, OSError):
        return f"{shard} is a link that leads to itself"
    return "" if there.parent == shard.parent.resolve() else f"{shard} leads out of the data set, to {there}"


def entry_problems(path: Path, listed: ShardInfo, data: Transitions, found: ShardInfo) -> list[str]:
    """Compare a shard's entry in the manifest with the shard; returns what differs, one line each."""
    # threads add up in any order
    slack = {
        name: 1e-12 * float(column.double().abs().sum())
        for name, column in (("reward", data.rewards), ("cost", data.costs))
    }
    problems = []
    for name in ShardInfo._fields:
        said, there = getattr(listed, name), getattr(found, name)
        if said != there and not (name in slack and abs(said - there) <= slack[name]):
            problems.append(f"{path} has {name} {there!r}, the manifest lists {said!r}")
    return problems


def total_problems(folder: Path, info: DatasetInfo) -> list[str]:
    """Compare the manifest's totals with the sums of its entries; returns what differs, one line each."""
    value = read_json(folder / "manifest.json", MADE_BY)
    sums = {"transitions": info.transitions, "episodes": info.episodes}
    return [
        f"{folder / 'manifest.json'} says {value[name]!r} {name}, its shards have {there} together"
        for name, there in sums.items()
        if value.get(name, there) != there
    ]


def shard_files(folder: Path) -> list[Path]:
    """Return the shards that lie in a folder, oldest first, listed in its manifest or not."""
    found = {path.name: path for path in folder.iterdir() if _NAME.fullmatch(path.name)}
    return [found[name] for name in sorted(found, key=_index)]


def data_files(path: Path) -> list[Path]:
    """Return the files that a data set is read from: those of its folder, or the file itself."""
    return [path / "manifest.json", *shard_files(path)] if path.is_dir() else [path]


def next_shard(folder: Path, info: DatasetInfo) -> Path:
    """Return where the next shard goes: after the last one, also where earlier ones were set aside."""
    last = max((_index(shard.name) for shard in info.shards), default=-1)
    return folder / f"shard-{last + 1:05d}.h5"


def _index(name: str) -> int:
    found = _NAME.fullmatch(name)
    assert found is not None
    return int(found.group(1))


def read_manifest(folder: Path) -> DatasetInfo:
    """Read a data set's manifest.

    Raises:
        MissingInputError: not there; StorageError: it may not be read.
        DamagedFileError: not a manifest of this format.
    """
    path = folder / "manifest.json"
    mend = f"mend it with: harden data repair {folder}"
    with read_errors(folder):
        if not path.exists() and folder.is_dir() and shard_files(folder):
            raise MissingInputError(f"{path} is missing", mend)
    try:
        value = read_json(path, MADE_BY)
    except DamagedFileError as error:
        raise DamagedFileError(error.message, mend) from error
    try:
        if value["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {value['format_version']}, this harden reads {FORMAT_VERSION}")
        shards = tuple(ShardInfo(**entry) for entry in value["shards"])
        for shard in shards:
            _check_entry(shard)
        if len({shard.name for shard in shards}) != len(shards):
            raise ValueError("it lists a shard twice")
        sizes = (value["horizon"], value["obs_dim"], value["act_dim"])
        least = (0, 1, 1)
        if not all(type(n) is int and low <= n < 1 << 31 for n, low in zip(sizes, least, strict=True)):
            raise ValueError("horizon, obs_dim or act_dim are of another kind or size")
        return DatasetInfo(str(value["env_id"]), *sizes, shards)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedFileError(f"{path} is not a data set's manifest ({error})", mend) from error


def _check_entry(shard: ShardInfo) -> None:
    if not isinstance(shard.name, str) or not _NAME.fullmatch(shard.name):
        raise ValueError(f"{shard.name!r} is not a shard's name")
    for field, kind in get_type_hints(ShardInfo).items():
        value = getattr(shard, field)
        # JSON has one kind of number: a sum of rewards may be written as 3
        # and an integer may be of any size, which nothing else here can hold
        whole = type(value) is int and kind in (int, float) and abs(value) < 1 << 63
        if not whole and (type(value) is not kind or kind is int):
            raise ValueError(f"{shard.name} has {field} of another kind or size")
    if not 1 <= shard.episodes <= shard.transitions < 1 << 48:
        raise ValueError(f"{shard.name} has {shard.transitions} rows in {shard.episodes} episodes")


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
    check_kind(
        info,
        task,
        f"data set {path}",
        f"task '{task.name}'",
        "use the data of that task, or name another pipeline with -p",
    )


def check_kind(info: Kind, wanted: Kind, mine: str, theirs: str, remedy: str) -> None:
    """Refuse data that are not of the kind wanted; what one of them does not know can't differ.

    Args:
        mine, theirs: what the two are called in the message.

    Raises:
        InputError: says which of sizes, environment and horizon differs.
    """
    for name, found, needed in (
        ("obs_dim", info.obs_dim, wanted.obs_dim),
        ("act_dim", info.act_dim, wanted.act_dim),
        ("env_id", info.env_id or wanted.env_id, wanted.env_id or info.env_id),
        ("horizon", info.horizon or wanted.horizon, wanted.horizon or info.horizon),
    ):
        if found != needed:
            raise InputError(f"{mine} has {name} {found}, {theirs} has {needed}", remedy)
