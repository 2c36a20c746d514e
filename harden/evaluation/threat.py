"""The threat model of an evaluation: what the attacker may do, and how much that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.data import Dataset
from harden.evaluation.attacked import Tried
from harden.evaluation.entries import Trial

# a spread below this share of what the attacker moves is rounding: the value is constant
_CONSTANT = 1e-6
_BALLS = {
    "linf": "each sensor value by at most epsilon, all at once (l-infinity)",
    "l2": "all sensor values together, within a ball of radius epsilon (l2)",
}


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
    task, visited = config.task_row, tried.natural_obs.double()
    std = (visited - visited[0]).std(0, correction=min(1, len(visited) - 1)).tolist()
    unit = task.epsilon_unit or (1.0,) * task.obs_dim
    spreads = data["observation_std"] if data else std
    return {
        "norm": trials[0].strength.norm,
        "centre": "the clean observation",
        "units": "raw observation, times epsilon_unit" if task.epsilon_unit else "raw observation",
        # the task's: who trains at a margin does not mean to withstand that
        "epsilon": task.epsilon,
        "epsilon_unit": list(unit),
        "action": trials[0].action,
        "critics": critics,
        "observations": list(task.observations),
        "observation_std": std,
        "data": data,
        "epsilon_over_std": [
            {
                "epsilon": e,
                "ratio": [share(e * u, s) for u, s in zip(unit, spreads, strict=True)],
            }
            for e in sorted({one["epsilon"] for one in tried.entries if one["epsilon"] > 0})
        ],
    }


def _facts(evaluation: dict[str, Any], model: dict[str, Any], radius: float) -> list[tuple[str, str]]:
    """Return the threat model by name and value."""
    critics = model.get("critics") or {}
    asked = {"own": critics.get("own") or "none"}
    asked |= {"independent": "fitted here without the policy's own", "learned": "of its attacked future"}
    kinds = dict.fromkeys(one.get("critics") for one in evaluation["results"])
    facts = [
        ("sees", "the true observation, at every step; what it adds to one does not add up with the next"),
        ("moves", _BALLS[model["norm"]]),
        ("epsilon", f"{radius:g}, the task's, in units of the observations"),
        ("the policy acts by", {"mean": "its mean action", "sample": "drawn actions"}[evaluation["action"]]),
    ]
    facts += [(f"critics of {kind}", asked[kind]) for kind in kinds if kind in asked]
    if "surrogate_error" in critics:
        facts.append(
            ("error of the copy that critics were learned with", f"{critics['surrogate_error']:.2g}")
        )
    if not model["epsilon_over_std"]:
        facts.append(("attacked", "nothing, in this evaluation"))
    return facts


def threat(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the threat model as tables, None for a file without one.

    Returns:
        {"facts", "rows", "source"}: names and values; a row {"name", "epsilon", "std", "share"} a sensor
        value, share None where the value does not vary; and what the spread is of.
    """
    model = evaluation.get("threat_model")
    tried = [one["epsilon"] for one in model["epsilon_over_std"]] if model else []
    if not model or not (model.get("epsilon") or tried):
        return None
    radius = model.get("epsilon") or tried[-1]
    names = model.get("observations") or [f"value {i + 1}" for i in range(len(model["observation_std"]))]
    reaches = [radius * unit for unit in model.get("epsilon_unit") or [1.0] * len(names)]
    data = model.get("data")
    spreads = data["observation_std"] if data else model["observation_std"]
    rows = [
        {"name": name, "epsilon": reach, "std": std, "share": share(reach, std)}
        for name, reach, std in zip(names, reaches, spreads, strict=True)
    ]
    source = "the states of the episodes without an attack"
    if data:
        source = f"the {data['transitions']:,} states of {data['path']} (digest {data['digest'][:12]})"
    return {"facts": _facts(evaluation, model, radius), "rows": rows, "source": source}
