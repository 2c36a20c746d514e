"""The threat model of an evaluation: what the attacker may do, and how much that is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.data.dataset import Dataset
from harden.evaluation.trials import Tried

# a spread below this share of what the attacker moves is rounding: the value is constant
_CONSTANT = 1e-6


def share(reach: float, std: float) -> float | None:
    """Return how many of its standard deviations a value is moved by, None where it is constant."""
    return reach / std if std > _CONSTANT * reach else None


def data_spread(dataset: Dataset) -> dict[str, Any]:
    """Return how much each observation varies in a data set, read shard by shard.

    Returns:
        {"path", "digest", "transitions", "observation_std"}, the last one number a coordinate, raw units.
    """
    total = square = torch.zeros(dataset.info.obs_dim, dtype=torch.float64)
    first: Tensor | None = None
    for _, rows in dataset.shards():
        # what hardly varies far from zero would cancel
        first = rows.obs[0].double() if first is None else first
        obs = rows.obs.double() - first
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
    config: PipelineConfig, tried: Tried, critics: dict[str, Any], data: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the attacker may do, in raw units and beside how much each observation varies.

    Args:
        critics: which critics the attacks asked, in words.
        data: what `data_spread` says of the data set that epsilon is a share of; the states of the natural
            episodes where there is none.
    """
    task, visited = config.task_row, tried.natural_obs.double()
    std = (visited - visited[0]).std(0, correction=min(1, len(visited) - 1)).tolist()
    unit = task.epsilon_unit or (1.0,) * task.obs_dim
    spreads = data["observation_std"] if data else std
    radii = sorted({entry["epsilon"] for entry in tried.entries} - {0.0})
    ratios = {e: [share(e * u, s) for u, s in zip(unit, spreads, strict=True)] for e in radii}
    return {
        "norm": config.evaluate.norm,
        "centre": "the clean observation",
        "units": "raw observation, times epsilon_unit" if task.epsilon_unit else "raw observation",
        # the task's: who trains at a margin does not mean to withstand that
        "epsilon": task.epsilon,
        "epsilon_unit": list(unit),
        "action": config.evaluate.action,
        "critics": critics,
        "observations": list(task.observations),
        "observation_std": std,
        "data": data,
        "epsilon_over_std": [{"epsilon": epsilon, "ratio": ratio} for epsilon, ratio in ratios.items()],
    }


def threat(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the threat model as tables, None for a file without one.

    Returns:
        {"facts", "rows", "source"}: names and values; a row {"name", "epsilon", "std", "share"} a sensor
        value, share None where the value does not vary; and what the spread is of.
    """
    model = evaluation.get("threat_model")
    if not model:
        return None
    tried = sorted({e["epsilon"] for e in evaluation["results"]} - {0.0})
    radius = model.get("epsilon") or max(tried, default=0.0)
    names = model.get("observations") or [f"value {i + 1}" for i in range(len(model["observation_std"]))]
    reaches = [radius * unit for unit in model.get("epsilon_unit") or [1.0] * len(names)]
    data = model.get("data")
    spreads = data["observation_std"] if data else model["observation_std"]
    rows = [
        {"name": name, "epsilon": reach, "std": std, "share": share(reach, std)}
        for name, reach, std in zip(names, reaches, spreads, strict=True)
    ]
    facts = {
        "norm of the perturbation of a step": model["norm"],
        "epsilon, the task's": f"{radius:g}",
        "radii tried": ", ".join(f"{epsilon:g}" for epsilon in tried) or "none",
        "the policy acts by": {"mean": "its mean action", "sample": "drawn actions"}[evaluation["action"]],
        **{f"critics: {name}": value for name, value in (model.get("critics") or {}).items() if value},
    }
    source = "the states of the episodes without an attack"
    if data:
        source = f"the {data['transitions']:,} states of {data['path']} (digest {data['digest'][:12]})"
    return {"facts": facts, "rows": rows, "source": source}
