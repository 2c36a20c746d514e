"""Data sets made of data sets, by whole episodes: merge, filter, split."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.data.dataset import Dataset, DatasetWriter
from harden.data.episodes import lengths, select, totals
from harden.data.manifest import DatasetInfo, check_kind
from harden.errors import InputError
from harden.seeds import generator
from harden.storage.folders import require_new, whole_folder
from harden.types import Transitions


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
    for shard, data in dataset.verified_shards():
        kept = keep(before, data)
        before += len(kept)
        if bool(kept.any()):
            writer.append(select(data, kept), **shard.provenance._asdict())


def merge(paths: Sequence[Path], out: Path, mix: bool = False) -> DatasetInfo:
    """Make one data set of several, in the order given.

    Args:
        mix: whether benign data and data collected under attack may come together; shards say which is which.

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
        kept = torch.full((len(reward),), not limits.ranges)
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
    if not all(name.replace("-", "_").isidentifier() for name in shares):
        raise InputError(f"parts {', '.join(shares)}", "a part's name is made of letters, digits, - and _")
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

            with DatasetWriter(aside, dataset.info, mix=True) as writer:
                _append(writer, dataset, keep)
                made[name] = writer.info
    return made
