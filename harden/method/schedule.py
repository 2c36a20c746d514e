"""The schedules of epsilon, cost limit and learning rate, and a discounted critic's cost threshold."""

from __future__ import annotations


def scheduled_epsilon(epsilon: float, epoch: float, start: float, ramp: float) -> float:
    """Return epsilon_t, which rises from 0 to epsilon.

    Args:
        epsilon: the full radius.
        epoch: t, counted in refreshes.
        start: T_s, the epoch at which it starts to rise.
        ramp: T_i, over how many epochs it rises; 0 switches at once.

    Source: Eq. 67.
    """
    past = max(0.0, epoch - start)
    return epsilon if past > 0 and past >= ramp else epsilon * past / ramp if ramp > 0 else 0.0


def scheduled_limit(limit: float, start: float, epoch: float, ramp: float) -> float:
    """Return the cost limit in force, which falls geometrically from `start` to `limit`.

    Args:
        limit: kappa_H, the cost allowed an episode in the end, above zero.
        start: the cost allowed at epoch 0.
        epoch: t, counted in refreshes.
        ramp: over how many epochs it falls; 0 is in force at once.

    Deviation: the paper's limit holds from the first epoch. A policy that violates wherever it moves learns
        to stand still under it, and nothing that it collects then shows how to move.
    """
    left = max(0.0, 1.0 - epoch / ramp) if ramp > 0 else 0.0
    return float(limit * (start / limit) ** left)


def scheduled_rate(rate: float, end: float, epoch: float, epochs: int) -> float:
    """Return the learning rate in force, on a line from `rate` in the first epoch to `end` in the last.

    Args:
        rate, end: at both ends of training.
        epoch: t, counted in refreshes from 0.
        epochs: refreshes of the whole training.

    Deviation: the paper's rate is constant. Critics lag behind a policy that moves, and a policy that keeps
        jumping across its limit is stored wherever the last jump left it.
    """
    return rate + (end - rate) * min(epoch / max(epochs - 1, 1), 1.0)


def discounted_threshold(cost_limit: float, horizon: int, gamma: float) -> float:
    """Return kappa, the critic's share of an episode's cost limit.

    Args:
        cost_limit: kappa_H, the cost allowed an episode.
        horizon: H, the task's own.
        gamma: the cost critic's discount.

    Source: appendix B.1.
    """
    if gamma == 1.0:
        return cost_limit
    return cost_limit * (1.0 - gamma**horizon) / (horizon * (1.0 - gamma))
