"""A data set opened: to read no more of its shards than is asked for, or to append to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from harden.config.tasks import Task
from harden.config.variants import MC_BEHAVIOUR
from harden.data.manifest import (
    DatasetInfo,
    Kind,
    Provenance,
    ShardInfo,
    check_kind,
    listed_shards,
    next_shard,
    read_info,
    read_manifest,
    require_of_task,
    shard_files,
    write_manifest,
)
from harden.data.shard import check_values, empty_rows, read_rows, read_shard, read_whole_shard, write_shard
from harden.errors import DamagedFileError, HardenError, InputError
from harden.storage.files import clear_unfinished, read_errors
from harden.storage.folders import FolderLock
from harden.types import Transitions

# rows read in one piece: several episodes' worth, or a disk would spend its time seeking (docs/decisions.md)
BLOCK_ROWS = 1000


class Dataset:
    """A data set opened for reading; `info` is its task, sizes and shards.

    Args:
        path: the folder, or one file in the DSRL layout, which has a checksum where a manifest beside it
            lists the file.

    Raises:
        MissingInputError: not there; StorageError: it may not be read; DamagedFileError: not a data set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with read_errors(path):
            self.alone = path.exists() and not path.is_dir()
        self.folder, self.has_manifest = path, True
        if self.alone:
            self.folder = path.parent
            self.info, _ = read_shard(path)
            listed = listed_shards(path)
            self.has_manifest = bool(listed)
            self.info = self.info._replace(shards=listed or self.info.shards)
        else:
            self.info = read_info(path)

    def __len__(self) -> int:
        return self.info.transitions

    def read(self, start: int, stop: int) -> Transitions:
        """Read rows `start` to `stop` from the shards that hold them; DamagedFileError: one is not whole."""
        start, stop = max(start, 0), min(stop, len(self))
        if start >= stop:
            raise InputError(f"rows {start} to {stop} of a data set of {len(self)}")
        # memory that a lying manifest asks for is never touched: a shard is looked at before it is read
        data = empty_rows(stop - start, self.info)
        before = 0
        for shard in self.info.shards:
            first, last = max(start - before, 0), min(stop - before, shard.transitions)
            if first < last:
                at = before + first - start
                into = Transitions(*(column[at : at + last - first] for column in data))
                read_rows(self.folder / shard.name, first, into, shard.transitions, self.info)
            before += shard.transitions
        return data

    def recent(self, count: int) -> Transitions:
        """Read the last `count` rows, or all where there are fewer."""
        return self.read(len(self) - count, len(self))

    def shards(self) -> Iterator[tuple[ShardInfo, Transitions]]:
        """Read shard after shard, one in memory at a time; errors as `read`."""
        before = 0
        for shard in self.info.shards:
            yield shard, self.read(before, before + shard.transitions)
            before += shard.transitions

    def verified_shards(self) -> Iterator[tuple[ShardInfo, Transitions]]:
        """Read shard after shard, each compared with its entry in the manifest; errors as `read`.

        For what stores them again: a new checksum would vouch for whatever was damaged before.
        """
        for shard in self.info.shards:
            yield shard, self._verified(shard)

    def verify(self) -> list[str]:
        """Read everything, and compare it with the manifest if any; returns what is wrong, a line each."""
        problems = []
        for shard in self.info.shards:
            try:
                self._verified(shard)
            except HardenError as error:
                problems.append(error.message)
        return problems

    def _verified(self, shard: ShardInfo) -> Transitions:
        path = self.folder / shard.name
        if not self.has_manifest:
            return read_shard(path)[1]
        info, data = read_whole_shard(path, shard.sha256)
        if difference := info.shards[0].difference(shard):
            mend = f"write the manifest anew with: harden data repair {self.folder}"
            raise DamagedFileError(f"{path} has {difference}", mend)
        check_kind(info, self.info, str(path), "the manifest", "")
        return data

    def unlisted(self) -> list[str]:
        """Return which shards lie in the folder and are not part of the data set, one line each."""
        files = [] if self.alone else _unlisted(self.folder, self.info)
        return [f"{path} is not listed in the manifest, and not read" for path in files]


def _unlisted(folder: Path, info: DatasetInfo) -> list[Path]:
    listed = {shard.name for shard in info.shards}
    return [path for path in shard_files(folder) if path.name not in listed]


def open_dataset(path: Path, task: Task | None = None) -> Dataset:
    """Open a data set as `Dataset`; InputError: it is not of the task."""
    dataset = Dataset(path)
    if task is not None:
        require_of_task(dataset.info, task, path)
    return dataset


class DatasetWriter(contextlib.AbstractContextManager["DatasetWriter"]):
    """Appends shards to a data set; one writer at a time.

    The manifest is replaced last, so that an interruption loses no finished shard.

    Args:
        path: the folder, made where it is not there.
        kind: what is stored: a task, or whatever else says its sizes.

    Raises:
        InputError: the data set is of another task, or another process is writing to it.
        DamagedFileError: it holds shards that its manifest does not list.
        StorageError: the folder can't be written.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        self.path, self.kind = path, kind
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
            remedy = "name another folder, or another pipeline with -p"
            check_kind(info, kind, f"data set {self.path}", "what is to be stored", remedy)
        clear_unfinished(self.path)
        unlisted = _unlisted(self.path, info)
        return self._take_in(info, unlisted) if unlisted else info

    def _take_in(self, info: DatasetInfo, unlisted: list[Path]) -> DatasetInfo:
        """Take in a whole shard that a crash kept out of the manifest."""
        path = next_shard(self.path, info)
        mend = f"mend it with: harden data repair {self.path}"
        if unlisted != [path]:
            # no crash leaves that: somebody removed the manifest, or put files there
            what = f"{self.path} holds {len(unlisted)} shards that its manifest does not list"
            raise DamagedFileError(what, mend)
        try:
            whole, _ = read_shard(path)
        except DamagedFileError as error:
            raise DamagedFileError(error.message, mend) from error
        check_kind(whole, info, str(path), "its data set", mend)
        info = info._replace(shards=(*info.shards, *whole.shards))
        write_manifest(self.path, info)
        return info

    def require_same_kind(self, behaviour: str) -> None:
        """Refuse to mix transitions collected under attack with benign ones: InputError."""
        attacked = self.info.attacked
        if self.info.shards and attacked != (behaviour == MC_BEHAVIOUR):
            held, new = ("attacked", "benign") if attacked else ("benign", "attacked")
            what = f"data set {self.path} holds {held} transitions, these are {new} ones ({behaviour})"
            raise InputError(what, "the two are never mixed: collect into another folder with --out")

    def append(self, data: Transitions, *, seed: int, policy_digest: str, behaviour: str) -> ShardInfo:
        """Write one shard of whole episodes; when this returns, it is on the disk for good.

        Raises:
            InputError: not the task's shapes, NaN, an episode without its end, or of another kind than those
                that are there; StorageError: no room.
        """
        self.require_same_kind(behaviour)
        sizes, wanted = (data.obs.shape[1], data.actions.shape[1]), (self.kind.obs_dim, self.kind.act_dim)
        if sizes != wanted:
            raise InputError(f"transitions with {sizes} coordinates, the data set has {wanted}")
        check_values(data, "collected transitions")
        if not bool(data.terminals[-1] | data.timeouts[-1]):
            raise InputError("the last episode has no end", "a shard holds whole episodes")
        provenance = Provenance(seed, policy_digest, behaviour)
        entry = write_shard(next_shard(self.path, self.info), data, self.kind, provenance)
        info = self.info._replace(shards=(*self.info.shards, entry))
        write_manifest(self.path, info)
        self.info = info
        return entry

    def close(self) -> None:
        """Let the next writer in."""
        self._lock.close()

    def __exit__(self, *_: object) -> None:
        self.close()
