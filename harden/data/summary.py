"""What a data set holds, in figures that can be printed or written as JSON."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harden.data.dataset import Dataset
from harden.data.episodes import lengths, totals

QUANTILES = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}


def _spread(values: Tensor) -> dict[str, float]:
    at = torch.tensor(list(QUANTILES.values()), dtype=torch.float64)
    quantiles = dict(zip(QUANTILES, values.double().quantile(at).tolist(), strict=True))
    return {"mean": float(values.double().mean())} | quantiles


class _Moments:
    """Range, mean and standard deviation of each coordinate, over shards."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, ...]] = []

    def add(self, rows: Tensor) -> None:
        count, rows = torch.tensor(float(len(rows))), rows.double()
        self.parts.append((count, rows.amin(0), rows.mean(0), rows.var(0, correction=0), rows.amax(0)))

    def result(self) -> dict[str, list[float]]:
        counts, low, means, variances, high = map(torch.stack, zip(*self.parts, strict=True))
        weights = (counts.double() / counts.sum())[:, None]
        mean = (weights * means).sum(0)
        # variance within the shards, and of their means
        std = (weights * (variances + (means - mean).square())).sum(0).sqrt()
        named = {"min": low.amin(0), "mean": mean, "std": std, "max": high.amax(0)}
        return {name: values.tolist() for name, values in named.items()}


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Read a data set and describe it, one shard in memory at a time.

    Returns:
        env_id, horizon, sizes; `reward`, `cost` and `length` of an episode as mean and quantiles; how many
        episodes ended by the dynamics and by the time limit; range, mean and standard deviation of each
        coordinate of observations and actions; `continuous`, the share of steps whose next observation is the
        next step's observation (below 1 where observations were attacked, near 0 where a conversion shifted
        them); and the same in short for each shard.

    Raises:
        DamagedFileError: a shard is damaged.
    """
    info = dataset.info
    obs, actions = _Moments(), _Moments()
    rewards, costs, rows, shards = [], [], [], []
    inner = same = 0
    for shard, data in dataset.shards():
        reward, cost = totals(data)
        length = lengths(data)
        obs.add(data.obs)
        actions.add(data.actions)
        goes_on = ~(data.terminals | data.timeouts)[:-1]
        inner += int(goes_on.sum())
        same += int(((data.next_obs[:-1] == data.obs[1:]).all(1) & goes_on).sum())
        rewards.append(reward)
        costs.append(cost)
        rows.append(length)
        shards.append(
            shard._asdict()
            | {
                "terminals": int(data.terminals.sum()),
                "timeouts": int(data.timeouts.sum()),
                "mean_reward": float(reward.mean()),
                "mean_cost": float(cost.mean()),
                "min_length": int(length.min()),
                "max_length": int(length.max()),
            }
        )
    return info._asdict() | {
        "digest": info.digest,
        "transitions": info.transitions,
        "episodes": info.episodes,
        "attacked": info.attacked,
        "terminals": sum(entry["terminals"] for entry in shards),
        "timeouts": sum(entry["timeouts"] for entry in shards),
        "continuous": same / inner if inner else 1.0,
        "reward": _spread(torch.cat(rewards)),
        "cost": _spread(torch.cat(costs)),
        "length": _spread(torch.cat(rows)),
        "observations": obs.result(),
        "actions": actions.result(),
        "shards": shards,
    }
