"""Data sets made of data sets, by whole episodes: merge, filter, split; and a damaged one mended in place."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.data.dataset import Dataset, DatasetWriter
from harden.data.episodes import lengths, select, totals
from harden.data.manifest import (
    DatasetInfo,
    ShardInfo,
    check_kind,
    provenance_of,
    read_manifest,
    shard_files,
    write_manifest,
)
from harden.data.shard import read_whole_shard
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError, StorageError
from harden.seeds import generator
from harden.storage.files import make_folder, read_errors, storage_errors, sync_folder
from harden.storage.folders import FolderLock, require_new, require_plain_name, whole_folder
from harden.types import Transitions

_ALL = (-math.inf, math.inf)


def _append(writer: DatasetWriter, dataset: Dataset, keep: Callable[[int, Transitions], Tensor]) -> None:
    """Add a data set's episodes to another, shard by shard, each with where it comes from.

    Args:
        keep: takes the number of a shard's first episode and its data; returns bool (episodes,).
    """
    before = 0
    for shard, data in dataset.verified_shards():
        kept = keep(before, data)
        before += len(kept)
        if bool(kept.any()):
            part = data if bool(kept.all()) else select(data, kept)
            writer.append(part, **provenance_of(shard)._asdict())


def merge(paths: Sequence[Path], out: Path) -> DatasetInfo:
    """Make one data set of several, in the order given.

    Raises:
        InputError: of different tasks, the same shard twice, or benign and attacked ones.
    """
    require_new(out)
    datasets = [Dataset(path) for path in paths]
    first = datasets[0]
    kind = first.info._replace(shards=())
    for dataset in datasets[1:]:
        info = dataset.info
        check_kind(info, kind, f"data set {dataset.path}", str(first.path), "merge data of one task")
        kind = kind._replace(env_id=kind.env_id or info.env_id, horizon=kind.horizon or info.horizon)
    shards = [shard.sha256 for dataset in datasets for shard in dataset.info.shards]
    if len(set(shards)) != len(shards):
        raise InputError(f"{', '.join(map(str, paths))} share a shard", "name each data set once")
    attacked = [str(dataset.path) for dataset in datasets if dataset.info.attacked]
    if attacked and len(attacked) < len(datasets):
        raise InputError(f"{attacked[0]} was collected under attack, and others were not", "merge one kind")
    with whole_folder(out) as aside, DatasetWriter(aside, kind) as writer:
        for dataset in datasets:
            _append(writer, dataset, lambda _, data: torch.ones(len(lengths(data)), dtype=torch.bool))
    return writer.info


def filter_episodes(
    path: Path,
    out: Path,
    rewards: tuple[float, float] = _ALL,
    costs: tuple[float, float] = _ALL,
    ranges: Sequence[tuple[int, int]] = (),
) -> DatasetInfo:
    """Make a data set of those episodes of another that are within all the limits, in their order.

    Args:
        rewards, costs: least and most of a whole episode.
        ranges: numbers of episodes from 0, each first to last, the last not included; empty for all.

    Raises:
        InputError: none is left, or something is at `out`.
    """
    require_new(out)
    dataset = Dataset(path)

    def keep(before: int, data: Transitions) -> Tensor:
        reward, cost = totals(data)
        number = torch.arange(before, before + len(reward))
        kept = torch.full((len(reward),), not ranges)
        for first, last in ranges:
            kept = kept | ((number >= first) & (number < last))
        for values, (least, most) in ((reward, rewards), (cost, costs)):
            kept = kept & (values >= least) & (values <= most)
        return kept

    with whole_folder(out) as aside, DatasetWriter(aside, dataset.info) as writer:
        _append(writer, dataset, keep)
        if not writer.info.shards:
            raise InputError(f"none of the {dataset.info.episodes} episodes of {path} is within the limits")
    return writer.info


def split(path: Path, out: Path, shares: dict[str, float], seed: int) -> dict[str, DatasetInfo]:
    """Divide a data set's episodes at random: each goes into one part, and keeps its place in the order.

    Args:
        out: the folder of the parts, each a data set named like its part.
        shares: of each part, positive, one together.
        seed: of the draw.

    Raises:
        InputError: shares that are not, a part without an episode, or something at a part's place.
    """
    if not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise InputError(f"shares {list(shares.values())}", "shares are positive and sum to 1")
    for name in shares:
        require_plain_name(name, "a part")
    dataset = Dataset(path)
    episodes = dataset.info.episodes
    order = torch.randperm(episodes, generator=generator("cpu", seed, "split"))
    share = torch.tensor(list(shares.values()), dtype=torch.float64)
    edges = (share.cumsum(0) * episodes).round().long()
    # which part an episode is in: its place in the shuffled order among the parts' edges
    part = torch.empty(episodes, dtype=torch.int64)
    part[order] = torch.searchsorted(edges, torch.arange(episodes), right=True).clamp_max(len(shares) - 1)
    if int(torch.bincount(part, minlength=len(shares)).min()) == 0:
        raise InputError(f"{episodes} episodes leave a part without one (shares {list(shares.values())})")
    made = {}
    with contextlib.ExitStack() as whole:
        asides = [whole.enter_context(whole_folder(out / name)) for name in shares]
        for number, (name, aside) in enumerate(zip(shares, asides, strict=True)):

            def keep(before: int, data: Transitions, mine: Tensor = part == number) -> Tensor:
                return mine[before : before + len(lengths(data))]

            with DatasetWriter(aside, dataset.info) as writer:
                _append(writer, dataset, keep)
                made[name] = writer.info
    return made


class Repaired(NamedTuple):
    """The data set as it is after a repair, and which shards were set aside and why, lost, and taken in."""

    info: DatasetInfo
    aside: list[str]
    lost: list[str]
    taken_in: list[str]


def repair(path: Path, dry_run: bool = False) -> Repaired:
    """Keep every whole shard of a data set, set the others aside and write the manifest anew, last.

    A shard is whole when `read_whole_shard` takes it and it is of the data set's kind: the manifest's, or the
    first whole shard's where there is no manifest.

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
        old = None
        with contextlib.suppress(MissingInputError, DamagedFileError):
            old = read_manifest(path)
        info = old
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
            named = f"{path}/manifest.json" if file.name in listed else "its data set"
            try:
                check_kind(info, shard, named, str(file), "remove the manifest, and repair again")
                whole += shard.shards
            except InputError as error:
                if file.name in listed:
                    raise
                damaged[file.name] = error.message
        if info is None or not whole:
            raise InputError(f"no shard of {path} is whole, nothing was changed", "collect the data again")
        info = info._replace(shards=tuple(whole))
        if not dry_run:
            _set_aside(path, list(damaged))
            write_manifest(path, info)
    names, aside = {shard.name for shard in whole}, [f"{name}: {why}" for name, why in damaged.items()]
    lost, taken_in = sorted(set(listed) - names - set(damaged)), sorted(names - set(listed)) if old else []
    return Repaired(info, aside, lost, taken_in)


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
