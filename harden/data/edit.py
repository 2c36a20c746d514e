"""Data sets made of data sets, by whole episodes: merge, filter, split; and repair in place."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.data.dataset import Dataset
from harden.data.episodes import lengths, select, totals
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
from harden.data.store import DatasetWriter, FolderLock
from harden.errors import HardenError, InputError, MissingInputError
from harden.files import make_folder, require_new, storage_errors, sync_folder, whole_folder
from harden.seeds import generator
from harden.types import Transitions

ASIDE = "damaged"


class Limits(NamedTuple):
    """Which episodes a filter keeps: those within all of these.

    Args:
        reward, cost: least and most of a whole episode.
        ranges: numbers of episodes from 0, each first to last, the last not included; empty for all.
    """

    reward: tuple[float, float] = (-float("inf"), float("inf"))
    cost: tuple[float, float] = (-float("inf"), float("inf"))
    ranges: tuple[tuple[int, int], ...] = ()


def _append(writer: DatasetWriter, dataset: Dataset, keep: Callable[[int, Transitions], Tensor]) -> None:
    """Add a data set's episodes to another, shard by shard, each with where it comes from.

    Args:
        keep: takes the number of a shard's first episode and its data; returns bool (episodes,).
    """
    before = 0
    for shard, data in dataset.shards():
        kept = keep(before, data)
        before += len(kept)
        if bool(kept.any()):
            writer.append(select(data, kept), **shard.provenance._asdict())


def merge(paths: Iterable[Path], out: Path, mix: bool = False) -> DatasetInfo:
    """Make one data set of several, in the order given.

    Args:
        paths: data sets of the same task.
        out: the data set's folder, to be made.
        mix: whether benign data and data collected under attack may come together; shards say which is which.

    Raises:
        InputError: of different tasks, the same episodes twice, or benign and attacked ones.
    """
    require_new(out)
    datasets = [Dataset(path) for path in paths]
    first, *others = datasets
    kind, seen = first.info._replace(shards=()), {shard.sha256: first.path for shard in first.info.shards}
    for dataset in others:
        info = dataset.info
        check_kind(info, kind, f"data set {dataset.path}", str(first.path), "merge data of one task")
        kind = kind._replace(env_id=kind.env_id or info.env_id, horizon=kind.horizon or info.horizon)
        for shard in info.shards:
            if shard.sha256 in seen:
                raise InputError(
                    f"{dataset.path} and {seen[shard.sha256]} hold the same shard ({shard.name})",
                    "name each data set once",
                )
            seen[shard.sha256] = dataset.path
    attacked = [str(dataset.path) for dataset in datasets if dataset.info.attacked]
    if attacked and len(attacked) < len(datasets) and not mix:
        raise InputError(
            f"{attacked[0]} was collected under attack, and others were not",
            "merge it with --mix-attacked if that is meant; what learns from benign data only will refuse it",
        )
    with whole_folder(out) as aside, DatasetWriter(aside, kind, mix) as writer:
        for dataset in datasets:
            _append(writer, dataset, lambda _, data: torch.ones(len(lengths(data)), dtype=torch.bool))
    return writer.info


def filter_episodes(path: Path, out: Path, limits: Limits) -> DatasetInfo:
    """Make a data set of some episodes of another, in their order.

    Raises:
        InputError: none is left, or something is at `out`.
    """
    require_new(out)
    dataset = Dataset(path)

    def keep(before: int, data: Transitions) -> Tensor:
        reward, cost = totals(data)
        number = torch.arange(before, before + len(reward))
        kept = torch.tensor([not limits.ranges]).expand(len(reward))
        for first, last in limits.ranges:
            kept = kept | ((number >= first) & (number < last))
        for values, (least, most) in ((reward, limits.reward), (cost, limits.cost)):
            kept = kept & (values >= least) & (values <= most)
        return kept

    with whole_folder(out) as aside, DatasetWriter(aside, dataset.info, mix=True) as writer:
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
    if not all(name.isidentifier() or name.replace("-", "_").isidentifier() for name in shares):
        raise InputError(f"parts {', '.join(shares)}", "a part's name is made of letters, digits, - and _")
    dataset = Dataset(path)
    episodes = dataset.info.episodes
    order = torch.randperm(episodes, generator=generator("cpu", seed, "split"))
    share = torch.tensor(list(shares.values()), dtype=torch.float64)
    edges = (share.cumsum(0) * episodes).round().long()
    # which part an episode is in: its place in the shuffled order among the parts' edges
    part = torch.empty(episodes, dtype=torch.int64)
    part[order] = torch.searchsorted(edges, torch.arange(episodes), right=True).clamp_max(len(shares) - 1)
    counts = torch.bincount(part, minlength=len(shares))
    if int(counts.min()) == 0:
        raise InputError(f"{episodes} episodes leave a part without one (shares {list(shares.values())})")
    made = {}
    with contextlib.ExitStack() as whole:
        asides = [whole.enter_context(whole_folder(out / name)) for name in shares]
        for number, (name, aside) in enumerate(zip(shares, asides, strict=True)):
            with DatasetWriter(aside, dataset.info, mix=True) as writer:
                _append(writer, dataset, functools.partial(_slice, part == number))
                made[name] = writer.info
    return made


def _slice(mine: Tensor, before: int, data: Transitions) -> Tensor:
    return mine[before : before + len(lengths(data))]


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


def repair(path: Path) -> Repaired:
    """Keep every whole shard of a data set, set the others aside and write the manifest anew, last.

    A shard is whole when it lies in the folder itself, can be read, holds whole episodes of values that can
    be learned from, has the checksum that the manifest lists, where there is one, and is of the data set's
    kind: that of the shards with such a checksum where they agree, else the manifest's or the first shard's.

    Args:
        path: the data set's folder. Damaged shards go to its folder `damaged`.

    Raises:
        InputError: another process writes there, or nothing in it is whole: then it is left as it is.
        MissingInputError: no data set.
    """
    if not path.is_dir() or not ((path / "manifest.json").exists() or shard_files(path)):
        raise MissingInputError(f"{path} is not a data set's folder", "name one that holds shards")
    with FolderLock(path):
        try:
            old: DatasetInfo | None = read_manifest(path)
        except HardenError:
            old = None
        listed = {shard.name: shard for shard in old.shards} if old else {}
        readable: list[tuple[Path, DatasetInfo]] = []
        whole: list[ShardInfo] = []
        damaged: list[tuple[Path, str]] = []
        for file in shard_files(path):
            try:
                readable.append((file, _whole(file, listed)))
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
