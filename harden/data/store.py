"""A data set written: shards, and a manifest replaced last: an interruption loses no finished shard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from harden.config.tasks import Task
from harden.config.variants import MC_BEHAVIOUR
from harden.data.header import Kind, Provenance
from harden.data.manifest import (
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
from harden.data.shard import check_values, write_shard
from harden.errors import DamagedFileError, InputError
from harden.storage.folders import FolderLock
from harden.types import Transitions


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
        aside = f"set it aside with: harden data repair {self.path}"
        try:
            found, _ = inspect_shard(path)
        except DamagedFileError as error:
            raise DamagedFileError(error.message, aside) from error
        check_kind(found, info, str(path), "its data set", aside)
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
