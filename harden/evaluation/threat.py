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


def _others(evaluation: dict[str, Any]) -> str:
    """Name the attacks that ask critics other than the policy's own."""
    by_kind: dict[str, list[str]] = {"independent": [], "learned": []}
    for one in evaluation["results"]:
        names = by_kind.get(one.get("critics") or "", [])
        if one["attack"] not in names:
            names.append(one["attack"])
    words = {
        "independent": "critics fitted here without the policy's own",
        "learned": "critics of its future",
    }
    asking = {kind: f"{' and '.join(names)} ask{'s' * (len(names) == 1)}" for kind, names in by_kind.items()}
    return "".join(f"; {asking[kind]} {words[kind]}" for kind, names in by_kind.items() if names)


def threat_in_words(evaluation: dict[str, Any]) -> dict[str, Any] | None:
    """Return the threat model as a sentence and a row a sensor value, None for a file without one."""
    model = evaluation.get("threat_model")
    tried = [one["epsilon"] for one in model["epsilon_over_std"]] if model else []
    if not model or not (model.get("epsilon") or tried):
        return None
    radius = model.get("epsilon") or tried[-1]
    shape = (
        "each sensor value by at most epsilon, all of them at once (l-infinity),"
        if model["norm"] == "linf"
        else "all sensor values together, within a ball of radius epsilon (l2)"
    )
    critics = model.get("critics") or {}
    text = (
        "At every step the attacker sees the true values and shows the policy others: it may move "
        f"{shape} away from the true ones, which it can't accumulate over time. Epsilon is {radius:g} in the "
        "sensors' own (raw) units. The policy acts with its "
        f"{'mean action' if evaluation['action'] == 'mean' else 'actions drawn at random'}."
    )
    if not tried:
        begins = "Nothing was attacked in this evaluation; this is what the policy is meant to withstand."
        text = f"{begins} {text}"
    else:
        text += (
            " Attacks that ask critics, the learned predictions of cost and reward, ask "
            f"{critics.get('own') or 'none'}{_others(evaluation)}."
        )
        if "surrogate_error" in critics:
            text += (
                " Those were learned with the help of a copy of the policy, whose actions differ from the "
                f"policy's by {critics['surrogate_error']:.2g} (root mean square)."
            )
    names = model.get("observations") or [f"value {i + 1}" for i in range(len(model["observation_std"]))]
    reaches = [radius * unit for unit in model.get("epsilon_unit") or [1.0] * len(names)]
    data = model.get("data")
    spreads = data["observation_std"] if data else model["observation_std"]
    rows = [
        {"name": name, "epsilon": reach, "std": std, "share": reach / std if std > 0 else None}
        for name, reach, std in zip(names, reaches, spreads, strict=True)
    ]
    source = "the states of the episodes without an attack"
    if data:
        source = f"the {data['transitions']:,} states of {data['path']} (digest {data['digest'][:12]})"
    return {"text": text, "rows": rows, "source": source}
