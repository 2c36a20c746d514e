"""A data set opened for reading: a manifest, and shards of which no more is read than is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harden.config.tasks import Task
from harden.data.header import MADE_BY
from harden.data.manifest import (
    ShardInfo,
    check_kind,
    check_task,
    entry_problems,
    inspect_shard,
    leads_out,
    read_manifest,
    shard_files,
    total_problems,
)
from harden.data.shard import empty_rows, read_rows
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError
from harden.storage.files import digest_file, read_errors, require_file
from harden.types import Transitions


def _remedy(path: Path) -> str:
    if path.suffix:
        return "name a file or folder that is there"
    # a pipeline's own has its name
    of = f"-p {path.name}" if path.parent == Path("datasets") else f"--out {path}"
    return f"make it with: {MADE_BY} {of}, or from logs with: harden data import FILE --out {path}"


class Dataset:
    """A data set opened for reading.

    Args:
        path: the folder, or one file in the DSRL layout, which has no manifest and so no checksums.

    Raises:
        MissingInputError: not there; StorageError: it may not be read; DamagedFileError: not a data set.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with read_errors(path):
            self.has_manifest = path.is_dir()
        if self.has_manifest:
            self.folder = path
            self.info = read_manifest(path)
            if not self.info.shards:
                raise MissingInputError(f"data set {path} is empty", f"fill it with: {MADE_BY}")
            return
        if not path.exists():
            raise MissingInputError(f"data set {path} is missing", _remedy(path))
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
                parts.append((shard, first, last))
            before += shard.transitions
        if not parts:
            raise InputError(f"rows {start} to {stop} of a data set of {len(self)}")
        return self._read(parts)

    def _read(self, parts: list[tuple[ShardInfo, int, int]]) -> Transitions:
        """Read rows of shards in one piece: of each the first, and the one after the last."""
        obs_dim, act_dim = self.info.obs_dim, self.info.act_dim
        # memory that a lying manifest asks for is never touched: a shard is looked at before it is read
        data = empty_rows(sum(last - first for _, first, last in parts), obs_dim, act_dim)
        start = 0
        for shard, first, last in parts:
            stop = start + last - first
            into = Transitions(*(column[start:stop] for column in data))
            with self._mendable():
                read_rows(self.folder / shard.name, first, into, (shard.transitions, obs_dim, act_dim))
            start = stop
        return data

    @contextmanager
    def _mendable(self) -> Iterator[None]:
        """Name what keeps the other shards where one is damaged or gone: they need not be made again."""
        try:
            yield
        except (DamagedFileError, MissingInputError) as error:
            # some say already what to do
            if not self.has_manifest or (error.remedy and MADE_BY not in error.remedy):
                raise
            mend = f"keep the other shards with: harden data repair {self.folder}"
            raise type(error)(error.message, mend) from error

    def shards(self) -> Iterator[tuple[ShardInfo, Transitions]]:
        """Read shard after shard, one in memory at a time.

        Raises:
            DamagedFileError: as `read`.
        """
        for shard in self.info.shards:
            yield shard, self._read([(shard, 0, shard.transitions)])

    def verified_shards(self) -> Iterator[tuple[ShardInfo, Transitions]]:
        """Read shard after shard as `shards`, each compared with its entry in the manifest as by `verify`.

        For whoever stores them again: a new checksum would vouch for whatever was damaged before.

        Raises:
            DamagedFileError: a shard is damaged, or not what the manifest says.
        """
        for shard in self.info.shards:
            with self._mendable():
                problems, data = self._verify(shard)
                if data is None or problems:
                    raise DamagedFileError(problems[0])
            yield shard, data

    def recent(self, count: int) -> Transitions:
        """Read the last `count` rows, or all where there are fewer."""
        return self.read(max(len(self) - count, 0), len(self))

    def verify(self) -> list[str]:
        """Read everything; returns what is wrong, one line each.

        Of a folder, each shard is compared with its entry in the manifest, its checksum above all. Of a
        single file, only values and structure can be looked at.
        """
        problems = total_problems(self.folder, self.info) if self.has_manifest else []
        for shard in self.info.shards:
            try:
                problems += self._verify(shard)[0]
            except HardenError as error:
                problems.append(error.message)
        return problems + self.links()

    def _verify(self, shard: ShardInfo) -> tuple[list[str], Transitions | None]:
        """Return what is wrong with a shard, and its transitions where the manifest lists its checksum."""
        path = self.folder / shard.name
        require_file(path, "")
        if digest_file(path) != shard.sha256:
            return [f"{path} does not have the checksum that the manifest lists"], None
        found, data = inspect_shard(path)
        problems = []
        if not bool((data.terminals | data.timeouts)[-1]):
            problems.append(f"{path} does not end with an episode's end")
        problems += entry_problems(path, shard, data, found.shards[0])
        check_kind(found, self.info, str(path), "the manifest", "")
        return problems, data

    def links(self) -> list[str]:
        """Return which shards are links out of the folder, one line each: it does not hold them."""
        shards = self.info.shards if self.has_manifest else ()
        return [said for shard in shards if (said := leads_out(self.folder / shard.name))]

    def unlisted(self) -> list[str]:
        """Return which shards lie in the folder and are not part of the data set, one line each."""
        if not self.has_manifest:
            return []
        listed = {shard.name for shard in self.info.shards}
        return [
            f"{path} is not listed in the manifest, and not read"
            for path in shard_files(self.folder)
            if path.name not in listed
        ]


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
