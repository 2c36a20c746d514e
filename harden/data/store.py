"""A data set: shards and a manifest, replaced last, so that an interruption loses no finished shard."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

import torch

from harden.data.manifest import (
    MADE_BY,
    DatasetInfo,
    ShardInfo,
    check_task,
    describe_shard,
    read_manifest,
    shard_name,
    write_manifest,
)
from harden.data.shard import check_values, read_header, read_shard, write_shard
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError
from harden.files import digest_file, make_folder, storage_errors
from harden.tasks import Task
from harden.types import Transitions


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
            self.info = read_manifest(path)
            if not self.info.shards:
                raise MissingInputError(f"data set {path} is empty", f"fill it with: {MADE_BY}")
            return
        if not path.exists():
            raise MissingInputError(f"data set {path} is missing", f"make it with: {MADE_BY}")
        self.folder = path.parent
        header, data = read_header(path), read_shard(path)
        entry = describe_shard(path, data, header.behaviour, header.policy_digest, header.seed)
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
        check_task(dataset.info, task, path)
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
        info = DatasetInfo(self.task.env_id, self.task.horizon, self.task.obs_dim, self.task.act_dim, ())
        if (self.path / "manifest.json").exists():
            info = read_manifest(self.path)
            check_task(info, self.task, self.path)
        for stale in self.path.glob(".*.tmp"):
            stale.unlink()
        return self._adopt(info)

    def _adopt(self, info: DatasetInfo) -> DatasetInfo:
        """Take in a whole shard that a crash kept out of the manifest."""
        path = self.path / shard_name(len(info.shards))
        if not path.exists():
            return info
        header, data = read_header(path), read_shard(path)
        entry = describe_shard(path, data, header.behaviour, header.policy_digest, header.seed)
        info = info._replace(shards=(*info.shards, entry))
        write_manifest(self.path, info)
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
        path = self.path / shard_name(len(self.info.shards))
        write_shard(path, data, self.task, seed=seed, policy_digest=policy_digest, behaviour=behaviour)
        entry = describe_shard(path, data, behaviour, policy_digest, seed)
        info = self.info._replace(shards=(*self.info.shards, entry))
        write_manifest(self.path, info)
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
