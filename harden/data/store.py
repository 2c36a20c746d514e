"""A data set: shards and a manifest, replaced last, so that an interruption loses no finished shard."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch

from harden.data.manifest import (
    MADE_BY,
    DatasetInfo,
    ShardInfo,
    check_kind,
    check_task,
    describe_shard,
    inspect_shard,
    next_shard,
    read_manifest,
    shard_files,
    write_manifest,
)
from harden.data.shard import Kind, Provenance, check_values, read_header, read_shard, write_shard
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError
from harden.files import digest_file, make_folder, storage_errors
from harden.tasks import Task
from harden.types import Transitions
from harden.variants import MC_BEHAVIOUR


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
        self.info, _ = inspect_shard(path)
        if not self.info.episodes:
            raise DamagedFileError(
                f"{path} flags no episode's end", "let `harden data import` find them, with --horizon"
            )

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
        joined = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return parts[0] if len(parts) == 1 else Transitions(*joined)

    def _read(self, shard: ShardInfo, first: int, last: int) -> Transitions:
        path = self.folder / shard.name
        data = read_shard(path, first, last)
        shapes = (len(data.rewards), data.obs.shape[1], data.actions.shape[1])
        if shapes != (last - first, self.info.obs_dim, self.info.act_dim):
            raise DamagedFileError(f"{path} is not the shard that the manifest lists")
        return data

    def shards(self) -> Iterator[tuple[ShardInfo, Transitions]]:
        """Read shard after shard, one in memory at a time.

        Raises:
            DamagedFileError: as `read`.
        """
        for shard in self.info.shards:
            yield shard, self._read(shard, 0, shard.transitions)

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


class FolderLock:
    """Holds a data set's folder against other writers.

    Args:
        path: the folder, made where it is not there.

    Raises:
        InputError: another process writes there; StorageError: the folder can't be written.
    """

    def __init__(self, path: Path) -> None:
        with storage_errors(make_folder(path)):
            self._handle = os.open(path / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._handle)
            raise InputError(
                f"data set {path} is being written by another process",
                "wait for it, or collect elsewhere with --out",
            ) from None

    def close(self) -> None:
        """Let the next writer in."""
        os.close(self._handle)

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DatasetWriter:
    """Appends shards to a data set; one writer at a time.

    Args:
        path: the folder, made where it is not there.
        kind: what is stored: a task, or whatever else says its sizes.
        mix: whether attacked and benign shards may stand side by side, as in what they are copied from.

    Raises:
        InputError: the data set is of another task, or another process is writing to it.
        DamagedFileError: it holds shards that its manifest does not list.
        StorageError: the folder can't be written.
    """

    def __init__(self, path: Path, kind: Kind, mix: bool = False) -> None:
        self.path, self.kind, self.mix = path, kind, mix
        self._lock = FolderLock(path)
        try:
            self.info = self._open()
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> DatasetInfo:
        kind = self.kind
        info = DatasetInfo(kind.env_id, kind.horizon, kind.obs_dim, kind.act_dim, ())
        if (self.path / "manifest.json").exists():
            info = read_manifest(self.path)
            if isinstance(kind, Task):
                check_task(info, kind, self.path)
            else:
                check_kind(info, kind, f"data set {self.path}", "what is to be stored", "name another folder")
        for stale in self.path.glob(".*.tmp"):
            stale.unlink()
        return self._adopt(info)

    def _adopt(self, info: DatasetInfo) -> DatasetInfo:
        """Take in a whole shard that a crash kept out of the manifest."""
        listed = {shard.name for shard in info.shards}
        unlisted = [path for path in shard_files(self.path) if path.name not in listed]
        if not unlisted:
            return info
        path = next_shard(self.path, info)
        if unlisted != [path]:
            # no crash leaves that: somebody removed the manifest, or put files there
            raise DamagedFileError(
                f"{self.path} holds {len(unlisted)} shards that its manifest does not list",
                f"take them in with: harden data repair {self.path}",
            )
        found, _ = inspect_shard(path)
        check_kind(
            found, info, str(path), "its data set", f"set it aside with: harden data repair {self.path}"
        )
        info = info._replace(shards=(*info.shards, *found.shards))
        write_manifest(self.path, info)
        return info

    def require_same_kind(self, behaviour: str) -> None:
        """Refuse to mix transitions collected under attack with benign ones.

        Raises:
            InputError: the data set holds the other kind.
        """
        attacked = self.info.attacked
        if not self.mix and self.info.shards and attacked != (behaviour == MC_BEHAVIOUR):
            there, new = ("attacked", "benign") if attacked else ("benign", "attacked")
            raise InputError(
                f"data set {self.path} holds {there} transitions, these are {new} ones ({behaviour})",
                "the two are never mixed: collect into another folder with --out",
            )

    def append(self, data: Transitions, *, seed: int, policy_digest: str, behaviour: str) -> ShardInfo:
        """Write one shard; when this returns, it is on the disk for good.

        Args:
            data: whole episodes.
            seed, policy_digest, behaviour: how they came about.

        Raises:
            InputError: not the task's shapes, NaN, an episode without its end, or of another kind than those
                that are there; StorageError: no room.
        """
        self.require_same_kind(behaviour)
        sizes = (data.obs.shape[1], data.actions.shape[1])
        if sizes != (self.kind.obs_dim, self.kind.act_dim):
            wanted = (self.kind.obs_dim, self.kind.act_dim)
            raise InputError(f"transitions with {sizes} coordinates, the data set has {wanted}")
        check_values(data, "collected transitions")
        if not bool((data.terminals | data.timeouts)[-1]):
            raise InputError("the last episode has no end", "a shard holds whole episodes")
        path = next_shard(self.path, self.info)
        provenance = Provenance(seed, policy_digest, behaviour)
        write_shard(path, data, self.kind, provenance)
        entry = describe_shard(path, data, provenance)
        info = self.info._replace(shards=(*self.info.shards, entry))
        write_manifest(self.path, info)
        self.info = info
        return entry

    def close(self) -> None:
        """Let the next writer in."""
        self._lock.close()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
