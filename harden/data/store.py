"""A data set: shards and a manifest, replaced last, so that an interruption loses no finished shard."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch

from harden.data.shard import FORMAT_VERSION, check_values, read_header, read_shard, write_shard
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError
from harden.files import digest_file, make_folder, read_json, storage_errors, write_json
from harden.tasks import Task
from harden.types import Transitions

_NAME = re.compile(r"shard-\d{5,}\.h5")
_MADE_BY = "harden collect"


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


def _describe(path: Path, data: Transitions, behaviour: str, policy_digest: str, seed: int) -> ShardInfo:
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


def _parse_manifest(value: Any, path: Path) -> DatasetInfo:
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
            f"{path} is not a data set's manifest ({error})", f"collect the data again with: {_MADE_BY}"
        ) from error


def _manifest(info: DatasetInfo) -> dict[str, Any]:
    plain = info._asdict() | {"shards": [shard._asdict() for shard in info.shards]}
    totals = {"transitions": info.transitions, "episodes": info.episodes}
    return {"format_version": FORMAT_VERSION} | totals | plain


def _check_task(info: DatasetInfo, task: Task, path: Path) -> None:
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


class Dataset:
    """A data set opened for reading.

    Args:
        path: the folder, or one file in the DSRL layout.

    Raises:
        MissingInputError: not there; DamagedFileError: not a data set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            self.folder = path
            self.info = _parse_manifest(read_json(path / "manifest.json", _MADE_BY), path / "manifest.json")
            if not self.info.shards:
                raise MissingInputError(f"data set {path} is empty", f"fill it with: {_MADE_BY}")
            return
        if not path.exists():
            raise MissingInputError(f"data set {path} is missing", f"make it with: {_MADE_BY}")
        self.folder = path.parent
        header, data = read_header(path), read_shard(path)
        entry = _describe(path, data, header.behaviour, header.policy_digest, header.seed)
        self.info = DatasetInfo(header.env_id, header.horizon, header.obs_dim, header.act_dim, (entry,))

    def __len__(self) -> int:
        return self.info.transitions

    def read(self, start: int, stop: int) -> Transitions:
        """Read rows `start` to `stop`, from the shards that hold them only.

        Raises:
            DamagedFileError: a shard is damaged or not what the manifest says.
        """
        parts, before = [], 0
        for shard in self.info.shards:
            first, last = max(start - before, 0), min(stop - before, shard.transitions)
            if first < last:
                parts.append(self._read(shard, first, last))
            before += shard.transitions
        if not parts:
            raise InputError(f"rows {start} to {stop} of a data set of {len(self)}")
        return Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    def _read(self, shard: ShardInfo, first: int, last: int) -> Transitions:
        path = self.folder / shard.name
        data = read_shard(path, first, last)
        shapes = (len(data.rewards), data.obs.shape[1], data.actions.shape[1])
        if shapes != (last - first, self.info.obs_dim, self.info.act_dim):
            raise DamagedFileError(f"{path} is not the shard that the manifest lists")
        return data

    def recent(self, count: int) -> Transitions:
        """Read the last `count` rows, or all where there are fewer."""
        return self.read(max(len(self) - count, 0), len(self))

    def verify(self) -> list[str]:
        """Read everything; returns what is wrong, one line each."""
        problems = []
        for shard in self.info.shards:
            path = self.folder / shard.name
            try:
                data = self._read(shard, 0, shard.transitions)
                if read_header(path).transitions != shard.transitions:
                    problems.append(f"{path} has more rows than the manifest lists")
                if not bool((data.terminals | data.timeouts)[-1]):
                    problems.append(f"{path} does not end with an episode's end")
            except HardenError as error:
                problems.append(error.message)
                continue
            if digest_file(path) != shard.sha256:
                problems.append(f"{path} does not have the checksum that the manifest lists")
        return problems


def open_dataset(path: Path, task: Task | None = None) -> Dataset:
    """Open a data set: a folder, or one file in the DSRL layout.

    Args:
        task: what the data must be of.

    Raises:
        MissingInputError, DamagedFileError: as `Dataset`; InputError: data of another task.
    """
    dataset = Dataset(path)
    if task is not None:
        _check_task(dataset.info, task, path)
    return dataset


class DatasetWriter:
    """Appends shards to a data set; one writer at a time.

    Args:
        path: the folder, made where it is not there.
        task: what is collected.

    Raises:
        InputError: the data set is of another task, or another process is writing to it.
        StorageError: the folder can't be written.
    """

    def __init__(self, path: Path, task: Task) -> None:
        self.path, self.task = make_folder(path), task
        with storage_errors(path):
            self._lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise InputError(
                f"data set {path} is being written by another process",
                "wait for it, or collect elsewhere with --out",
            ) from None
        try:
            self.info = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def _open(self) -> DatasetInfo:
        manifest = self.path / "manifest.json"
        info = DatasetInfo(self.task.env_id, self.task.horizon, self.task.obs_dim, self.task.act_dim, ())
        if manifest.exists():
            info = _parse_manifest(read_json(manifest, _MADE_BY), manifest)
            _check_task(info, self.task, self.path)
        for stale in self.path.glob(".*.tmp"):
            stale.unlink()
        return self._adopt(info)

    def _adopt(self, info: DatasetInfo) -> DatasetInfo:
        """Take in a whole shard that a crash kept out of the manifest."""
        path = self.path / _shard_name(len(info.shards))
        if not path.exists():
            return info
        header, data = read_header(path), read_shard(path)
        entry = _describe(path, data, header.behaviour, header.policy_digest, header.seed)
        info = info._replace(shards=(*info.shards, entry))
        write_json(self.path / "manifest.json", _manifest(info))
        return info

    def append(self, data: Transitions, *, seed: int, policy_digest: str, behaviour: str) -> ShardInfo:
        """Write one shard; when this returns, it is on the disk for good.

        Args:
            data: whole episodes.
            seed, policy_digest, behaviour: how they came about.

        Raises:
            InputError: not the task's shapes, NaN, or an episode without its end; StorageError: no room.
        """
        sizes = (data.obs.shape[1], data.actions.shape[1])
        if sizes != (self.task.obs_dim, self.task.act_dim):
            raise InputError(f"transitions of shapes {sizes}, task '{self.task.name}' has others")
        check_values(data, "collected transitions")
        if not bool((data.terminals | data.timeouts)[-1]):
            raise InputError("the last episode has no end", "a shard holds whole episodes")
        path = self.path / _shard_name(len(self.info.shards))
        write_shard(path, data, self.task, seed=seed, policy_digest=policy_digest, behaviour=behaviour)
        entry = _describe(path, data, behaviour, policy_digest, seed)
        info = self.info._replace(shards=(*self.info.shards, entry))
        write_json(self.path / "manifest.json", _manifest(info))
        self.info = info
        return entry

    def close(self) -> None:
        """Let the next writer in."""
        os.close(self._lock)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _shard_name(index: int) -> str:
    return f"shard-{index:05d}.h5"
