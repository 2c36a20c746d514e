"""Whole episodes in flat arrays: their lengths, totals and choice, and what a data set of them holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from harden.data.manifest import DatasetInfo, ShardInfo
from harden.types import Transitions

_QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def lengths(data: Transitions) -> Tensor:
    """Return the rows of each whole episode, int64 (episodes,)."""
    stops = torch.nonzero(data.terminals | data.timeouts)[:, 0] + 1
    return torch.diff(stops, prepend=torch.zeros(1, dtype=torch.int64))


def totals(data: Transitions) -> tuple[Tensor, Tensor]:
    """Return the reward and the cost of each whole episode, float64 (episodes,)."""
    rows = lengths(data)
    episode = torch.repeat_interleave(torch.arange(len(rows)), rows)
    reward, cost = torch.zeros(2, len(rows), dtype=torch.float64)
    reward.index_add_(0, episode, data.rewards.double())
    cost.index_add_(0, episode, data.costs.double())
    return reward, cost


def episodes(data: Transitions) -> Iterator[Transitions]:
    """Yield one whole episode after another."""
    for part in zip(*(column.split(lengths(data).tolist()) for column in data), strict=True):
        yield Transitions(*part)


def select(data: Transitions, keep: Tensor) -> Transitions:
    """Return those of the whole episodes that `keep`, bool (episodes,), marks."""
    rows = torch.repeat_interleave(keep, lengths(data))
    return Transitions(*(column[rows] for column in data))


def _spread(values: Tensor) -> dict[str, float]:
    at = torch.tensor(list(_QUANTILES.values()), dtype=torch.float64)
    quantiles = dict(zip(_QUANTILES, values.double().quantile(at).tolist(), strict=True))
    return {"mean": float(values.double().mean())} | quantiles


def _moments(rows: Tensor) -> tuple[Tensor, ...]:
    """Return count, minimum, mean, variance and maximum of each coordinate of some rows."""
    count, rows = torch.tensor(float(len(rows))), rows.double()
    return count, rows.amin(0), rows.mean(0), rows.var(0, correction=0), rows.amax(0)


def _pooled(parts: list[tuple[Tensor, ...]]) -> dict[str, list[float]]:
    """Return range, mean and standard deviation of each coordinate, over the parts' moments."""
    counts, low, means, variances, high = map(torch.stack, zip(*parts, strict=True))
    weights = (counts.double() / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    # variance within the parts, and of their means
    std = (weights * (variances + (means - mean).square())).sum(0).sqrt()
    named = {"min": low.amin(0), "mean": mean, "std": std, "max": high.amax(0)}
    return {name: values.tolist() for name, values in named.items()}


def summarise(info: DatasetInfo, parts: Iterable[tuple[ShardInfo, Transitions]]) -> dict[str, Any]:
    """Describe a data set, one shard in memory at a time.

    Args:
        parts: its shards, as `Dataset.shards` reads them.

    Returns:
        What the manifest says of it as a whole; `reward`, `cost` and `length` of an episode as mean and
        quantiles; how many episodes ended by the dynamics and by the time limit; range, mean and standard
        deviation of each coordinate of observations and actions; `continuous`, the share of steps whose next
        observation is the next step's observation (below 1 where observations were attacked, near 0 where a
        conversion shifted them); and `shards`, the manifest's entries with means and ends.
    """
    shards = list[dict[str, Any]]()
    figures, inner, same = list[tuple[Tensor, ...]](), 0, 0
    obs, actions = list[tuple[Tensor, ...]](), list[tuple[Tensor, ...]]()
    for shard, data in parts:
        reward, cost = totals(data)
        figures.append((reward, cost, lengths(data)))
        obs.append(_moments(data.obs))
        actions.append(_moments(data.actions))
        goes_on = ~(data.terminals | data.timeouts)[:-1]
        inner += int(goes_on.sum())
        same += int(((data.next_obs[:-1] == data.obs[1:]).all(1) & goes_on).sum())
        ends = {"terminals": int(data.terminals.sum()), "timeouts": int(data.timeouts.sum())}
        means = {"mean_reward": float(reward.mean()), "mean_cost": float(cost.mean())}
        shards.append(shard._asdict() | ends | means)
    whole = zip(("reward", "cost", "length"), map(torch.cat, zip(*figures, strict=True)), strict=True)
    return {
        **{
            name: getattr(info, name) for name in ("env_id", "horizon", "transitions", "episodes", "attacked")
        },
        **{name: sum(entry[name] for entry in shards) for name in ("terminals", "timeouts")},
        **{name: _spread(values) for name, values in whole},
        "continuous": same / inner if inner else 1.0,
        "observations": _pooled(obs),
        "actions": _pooled(actions),
        "shards": shards,
    }
