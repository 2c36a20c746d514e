"""A damaged data set mended in place: its whole shards are kept, the others set aside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from harden.data.manifest import (
    DatasetInfo,
    ShardInfo,
    check_kind,
    inspect_shard,
    leads_out,
    read_manifest,
    shard_files,
    write_manifest,
)
from harden.errors import HardenError, InputError, MissingInputError, StorageError
from harden.storage.files import digest_file, make_folder, read_errors, storage_errors, sync_folder
from harden.storage.folders import FolderLock

ASIDE = "damaged"


class Repaired(NamedTuple):
    """What a repair found.

    Args:
        info: the data set as it is now.
        aside: what was set aside and why, one line each.
        lost: shards that the manifest lists and that are not there.
        taken_in: shards that it did not list.
    """

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
        InputError: another process writes there, nothing in it is whole, or the manifest contradicts shards
            whose checksums it lists: then it is left as it is.
        MissingInputError: no data set.
        StorageError: something in it may not be read: then it is left as it is as well.
    """
    with read_errors(path):
        if not path.is_dir() or not ((path / "manifest.json").exists() or shard_files(path)):
            raise MissingInputError(f"{path} is not a data set's folder", "name one that holds shards")
    with contextlib.nullcontext() if dry_run else FolderLock(path):
        old = _manifest(path)
        listed = {shard.name: shard for shard in old.shards} if old else {}
        info, damaged = old, {}
        whole: list[ShardInfo] = []
        for file in shard_files(path):
            try:
                found = _whole(file, listed)
                info = info or found
                _check_kind(path, file, found, info, vouched=file.name in listed)
                whole.append(found.shards[0])
            except (StorageError, _ManifestChangedError):
                # what may not be read may be whole: nobody sets it aside
                raise
            except HardenError as error:
                damaged[file] = error.message
        if info is None or not whole:
            raise InputError(f"no shard of {path} is whole, nothing was changed", "collect the data again")
        info = info._replace(shards=tuple(whole))
        names = {shard.name for shard in whole}
        if not dry_run:
            _set_aside(path, list(damaged))
            write_manifest(path, info)
    there = names | {file.name for file in damaged}
    return Repaired(
        info,
        [f"{file.name}: {why}" for file, why in damaged.items()],
        sorted(set(listed) - there),
        sorted(names - set(listed)) if old else [],
    )


class _ManifestChangedError(InputError):
    """The manifest says something else of the data set than a shard whose checksum it lists."""


def _manifest(path: Path) -> DatasetInfo | None:
    try:
        return read_manifest(path)
    except StorageError:
        raise
    except HardenError:
        return None


def _whole(file: Path, listed: dict[str, ShardInfo]) -> DatasetInfo:
    """Read a shard; raises a HardenError that says what is wrong with it."""
    if said := leads_out(file):
        raise InputError(said, "put a copy in its place")
    entry = listed.get(file.name)
    # before HDF5 sees it: what is damaged may hold it up
    if entry is not None and entry.sha256 != digest_file(file):
        raise InputError(f"{file} does not have the checksum that the manifest lists")
    found, data = inspect_shard(file)
    if not bool((data.terminals | data.timeouts)[-1]):
        raise InputError(f"{file} does not end with an episode's end")
    return found


def _check_kind(path: Path, file: Path, found: DatasetInfo, info: DatasetInfo, vouched: bool) -> None:
    try:
        check_kind(found, info, str(file), "its data set", "")
    except InputError as error:
        if vouched:
            raise _ManifestChangedError(
                f"{path / 'manifest.json'} was changed: {error.message}, and has the checksum listed there",
                "nothing was done: remove the manifest and repair again, then it is made of the shards",
            ) from error
        raise


def _set_aside(path: Path, files: list[Path]) -> None:
    if not files:
        return
    folder = make_folder(path / ASIDE)
    with storage_errors(folder):
        for file in files:
            number, place = 0, folder / file.name
            while place.exists():
                number += 1
                place = folder / f"{file.name}.{number}"
            os.rename(file, place)
        sync_folder(folder)
        sync_folder(path)
