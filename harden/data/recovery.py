"""A damaged data set mended in place: its whole shards are kept, the others set aside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from harden.data.manifest import (
    DatasetInfo,
    ShardInfo,
    kind_difference,
    read_manifest,
    shard_files,
    write_manifest,
)
from harden.data.shard import read_whole_shard
from harden.errors import HardenError, InputError, MissingInputError, StorageError
from harden.storage.files import make_folder, read_errors, storage_errors, sync_folder
from harden.storage.folders import FolderLock


class Repaired(NamedTuple):
    """The data set as it is after a repair, and which shards were set aside and why, lost, and taken in."""

    info: DatasetInfo
    aside: list[str]
    lost: list[str]
    taken_in: list[str]


def repair(path: Path, dry_run: bool = False) -> Repaired:
    """Keep every whole shard of a data set, set the others aside and write the manifest anew, last.

    A shard is whole when it lies in the folder itself, has the checksum that the manifest lists, where there
    is one, can be read, holds whole episodes of values that can be learned from, and is of the data set's
    kind: the manifest's, or the first whole shard's where there is no manifest.

    Args:
        path: the data set's folder. Damaged shards go to its folder `damaged`.
        dry_run: only find out what a repair would do.

    Raises:
        MissingInputError: no data set. InputError: another process writes there, nothing in it is whole, or
            the manifest contradicts shards whose checksums it lists. StorageError: something in it may not be
            read. In all these cases it is left as it is.
    """
    with read_errors(path):
        if not path.is_dir() or not ((path / "manifest.json").exists() or shard_files(path)):
            raise MissingInputError(f"{path} is not a data set's folder", "name one that holds shards")
    with contextlib.nullcontext() if dry_run else FolderLock(path):
        old = info = _manifest(path)
        listed = {shard.name: shard.sha256 for shard in old.shards} if old else {}
        whole: list[ShardInfo] = []
        damaged: dict[str, str] = {}
        for file in shard_files(path):
            try:
                shard, _ = read_whole_shard(file, listed.get(file.name))
            except StorageError:
                # what may not be read may be whole: nobody sets it aside
                raise
            except HardenError as error:
                damaged[file.name] = error.message
                continue
            info = info or shard
            difference = kind_difference(shard, info)
            if difference is None:
                whole += shard.shards
                continue
            name, value, needed = difference
            if file.name in listed:
                raise InputError(
                    f"{path / 'manifest.json'} says {name} {needed}, {file} with the checksum listed there "
                    f"has {value}",
                    "nothing was done: remove the manifest and repair again, then it is made of the shards",
                )
            damaged[file.name] = f"{file} has {name} {value}, its data set has {needed}"
        if info is None or not whole:
            raise InputError(f"no shard of {path} is whole, nothing was changed", "collect the data again")
        info = info._replace(shards=tuple(whole))
        if not dry_run:
            _set_aside(path, list(damaged))
            write_manifest(path, info)
    names = {shard.name for shard in whole}
    return Repaired(
        info,
        [f"{name}: {reason}" for name, reason in damaged.items()],
        sorted(set(listed) - names - set(damaged)),
        sorted(names - set(listed)) if old else [],
    )


def _manifest(path: Path) -> DatasetInfo | None:
    try:
        return read_manifest(path)
    except StorageError:
        raise
    except HardenError:
        return None


def _set_aside(path: Path, names: list[str]) -> None:
    if not names:
        return
    folder = make_folder(path / "damaged")
    with storage_errors(folder):
        for name in names:
            target, number = folder / name, 0
            while target.exists():
                number += 1
                target = folder / f"{name}.{number}"
            os.rename(path / name, target)
        sync_folder(folder)
        sync_folder(path)
