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
from harden.data.store import FolderLock
from harden.errors import HardenError, InputError, MissingInputError, StorageError
from harden.files import make_folder, read_errors, storage_errors, sync_folder

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

    A shard is whole when it lies in the folder itself, can be read, holds whole episodes of values that can
    be learned from, has the checksum that the manifest lists, where there is one, and is of the data set's
    kind: that of the shards with such a checksum where they agree, else the manifest's or the first shard's.

    Args:
        path: the data set's folder. Damaged shards go to its folder `damaged`.
        dry_run: only find out what a repair would do.

    Raises:
        InputError: another process writes there, or nothing in it is whole: then it is left as it is.
        MissingInputError: no data set.
        StorageError: something in it may not be read: then it is left as it is as well.
    """
    with read_errors(path):
        if not path.is_dir() or not ((path / "manifest.json").exists() or shard_files(path)):
            raise MissingInputError(f"{path} is not a data set's folder", "name one that holds shards")
    with contextlib.nullcontext() if dry_run else FolderLock(path):
        try:
            old: DatasetInfo | None = read_manifest(path)
        except StorageError:
            # what may not be read may be whole: nobody sets it aside
            raise
        except HardenError:
            old = None
        listed = {shard.name: shard for shard in old.shards} if old else {}
        readable: list[tuple[Path, DatasetInfo]] = []
        whole: list[ShardInfo] = []
        damaged: list[tuple[Path, str]] = []
        for file in shard_files(path):
            try:
                readable.append((file, _whole(file, listed)))
            except StorageError:
                raise
            except HardenError as error:
                damaged.append((file, error.message))
        kind = _kind(old, [found for _, found in readable], listed)
        for file, found in readable:
            try:
                check_kind(found, kind or found, str(file), "its data set", "")
                whole.append(found.shards[0])
            except HardenError as error:
                damaged.append((file, error.message))
        if kind is None or not whole:
            raise InputError(f"no shard of {path} is whole, nothing was changed", "collect the data again")
        info = kind._replace(shards=tuple(whole))
        names = {shard.name for shard in info.shards}
        if not dry_run:
            _set_aside(path, [file for file, _ in damaged])
            write_manifest(path, info)
    there = names | {file.name for file, _ in damaged}
    return Repaired(
        info,
        [f"{file.name}: {why}" for file, why in damaged],
        sorted(set(listed) - there),
        sorted(names - set(listed)) if old else [],
    )


def _kind(
    old: DatasetInfo | None, readable: list[DatasetInfo], listed: dict[str, ShardInfo]
) -> DatasetInfo | None:
    """Return the kind of a data set; None where nothing says it."""
    kind = old or (readable[0] if readable else None)
    vouched = [found for found in readable if found.shards[0].name in listed]
    for name in ("env_id", "horizon", "obs_dim", "act_dim"):
        # a checksum covers what a shard says of itself, and nothing covers what the manifest says
        said = {getattr(found, name) for found in vouched} - {"", 0}
        if kind is not None and len(said) == 1:
            kind = kind._replace(**{name: said.pop()})
    return kind


def _whole(file: Path, listed: dict[str, ShardInfo]) -> DatasetInfo:
    """Read a shard; raises a HardenError that says what is wrong with it."""
    if said := leads_out(file):
        raise InputError(said, "put a copy in its place")
    found, data = inspect_shard(file)
    if not bool((data.terminals | data.timeouts)[-1]):
        raise InputError(f"{file} does not end with an episode's end")
    entry = listed.get(file.name)
    if entry is not None and entry.sha256 != found.shards[0].sha256:
        raise InputError(f"{file} does not have the checksum that the manifest lists")
    return found


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
