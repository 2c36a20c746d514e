"""Statistics over episodes: mean, spread, bootstrap interval, violations."""

from __future__ import annotations

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
