"""Statistics over episodes: mean, spread, bootstrap interval, violations, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

_RESAMPLES = 9999


def summarise(values: np.ndarray) -> dict[str, Any]:
    """Return mean, standard deviation and a 95 % bootstrap interval of the mean.

    Args:
        values: one number an episode, (N,).

    Returns:
        {"mean", "std", "ci95": [low, high]}; the deviation is the sample's (N - 1), 0 for one episode.
    """
    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if std == 0.0:
        return {"mean": mean, "std": std, "ci95": [mean, mean]}
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return {"mean": mean, "std": std, "ci95": [float(interval.low), float(interval.high)]}


def violation_rate(costs: np.ndarray, cost_limit: float) -> float:
    """Return the share of episodes whose cost is above the limit."""
    return float(np.mean(costs > cost_limit))


def violation_interval(costs: np.ndarray, cost_limit: float) -> list[float]:
    """Return an exact 95 % interval of the share of all episodes whose cost is above the limit.

    A bootstrap of episodes none of which is above it would say that none ever is.

    Source: Clopper and Pearson 1934.
    """
    found = stats.binomtest(int(np.sum(costs > cost_limit)), len(costs)).proportion_ci(0.95)
    return [float(found.low), float(found.high)]


def paired(
    episodes: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], quantity: str
) -> dict[str, Any]:
    """Return the summary of a difference, episode by episode: the start that both share cancels out.

    Args:
        episodes, others: `per_episode` of two entries; those of seeds that both have are compared.
        quantity: "cost" or "reward".

    Returns:
        As `summarise`, of the first less the second.
    """
    theirs = {episode["seed"]: episode[quantity] for episode in others}
    pairs = [(e[quantity], theirs[e["seed"]]) for e in episodes if e["seed"] in theirs]
    mine, other = np.array(pairs, dtype=np.float64).T
    return summarise(mine - other)
