"""The threat model of an evaluation: what the attacker may do, and how much that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from harden.config import PipelineConfig
from harden.data import Dataset
from harden.evaluation.attacked import Tried
from harden.evaluation.entries import Trial


def data_spread(dataset: Dataset) -> dict[str, Any]:
    """Return how much each observation varies in a data set, read shard by shard.

    Returns:
        {"path", "digest", "transitions", "observation_std"}, the last one number a coordinate, raw units.
    """
    total = square = torch.zeros(dataset.info.obs_dim, dtype=torch.float64)
    for _, rows in dataset.shards():
        # what hardly varies far from zero would cancel in single precision
        obs = rows.obs.double()
        total, square = total + obs.sum(0), square + obs.square().sum(0)
    mean = total / len(dataset)
    std = (square / len(dataset) - mean.square()).clamp_min(0.0).sqrt()
    return {
        "path": str(dataset.path),
        "digest": dataset.info.digest,
        "transitions": len(dataset),
        "observation_std": std.tolist(),
    }


def threat_model(
    config: PipelineConfig,
    trials: Sequence[Trial],
    tried: Tried,
    critics: dict[str, Any],
    data: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return what the attacker may do, in raw units and beside how much each observation varies.

    Args:
        critics: which critics the attacks asked, in words.
        data: what `data_spread` says of the data set that epsilon is a share of; the states of the natural
            episodes where there is none.
    """
    task, std = config.task_row, tried.natural_obs.double().std(0).tolist()
    unit = task.epsilon_unit or (1.0,) * task.obs_dim
    spreads = data["observation_std"] if data else std
    return {
        "norm": trials[0].strength.norm,
        "centre": "the clean observation",
        "units": "raw observation, times epsilon_unit" if task.epsilon_unit else "raw observation",
        "epsilon": config.train_epsilon,
        "epsilon_unit": list(unit),
        "action": trials[0].action,
        "critics": critics,
        "observations": list(task.observations),
        "observation_std": std,
        "data": data,
        "epsilon_over_std": [
            {
                "epsilon": e,
                "ratio": [e * u / s if s > 0 else None for u, s in zip(unit, spreads, strict=True)],
            }
            for e in sorted({one["epsilon"] for one in tried.entries if one["epsilon"] > 0})
        ],
    }
