"""The schedules of training: what each refresh works under, or a stage by hand at their end."""

from __future__ import annotations

from typing import NamedTuple

from harden.config.pipeline import PipelineConfig
from harden.config.sections import MStep


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


class Scheduled(NamedTuple):
    """What a round works under.

    Args:
        epsilon: radius of the adversary, raw observation units; 0 for a variant without one.
        kappa: the discounted cost that the E-step allows, on average over states.
        lam_max: ceiling of the cost multiplier.
        dual_rate: share of the way to the exact multipliers that a round takes; 1 uses the exact ones.
        kl_estep: delta, the E-step's bound on KL(q* || policy_old), nats.
        mstep: the M-step's section, with the learning rate and the bounds in force.
        by_hand: a stage outside `train`.
    """

    epsilon: float
    kappa: float
    lam_max: float
    dual_rate: float
    kl_estep: float
    mstep: MStep
    by_hand: bool


def scheduled(config: PipelineConfig, refresh: int | None, first_cost: float | None = None) -> Scheduled:
    """Return what the schedules set.

    Args:
        config: the pipeline.
        first_cost: an episode's cost in the first data, which a limit that falls from the measured one starts
            at; what asks for kappa has to give it.
        refresh: the refresh of `train`, t of Eq. 67, from 0. None is the end of every schedule, where a stage
            works that is run by hand: the full radius, the task's limit and exact multipliers, with the trust
            regions of `by_hand`.

    Source: Eq. 67 and appendix B.1.
    """
    task = config.task_row
    epsilon, limit = _epsilon(config, refresh), _limit(config, refresh, first_cost)
    return Scheduled(
        epsilon,
        discounted_threshold(limit, task.horizon, config.critics.gamma_cost),
        _lam_max(config, epsilon),
        1.0 if refresh is None else config.estep.dual_rate,
        config.by_hand.kl_estep if refresh is None else config.estep.kl_bound,
        _mstep(config, refresh),
        by_hand=refresh is None,
    )


def _epsilon(config: PipelineConfig, refresh: int | None) -> float:
    if not config.variant_row.adversarial:
        return 0.0
    if refresh is None:
        return config.train_epsilon
    total, adversary = config.refreshes, config.adversary
    start, ramp = adversary.ramp_start * total, adversary.ramp * total
    return scheduled_epsilon(config.train_epsilon, refresh, start, ramp)


def _limit(config: PipelineConfig, refresh: int | None, first_cost: float | None) -> float:
    step, limit = config.estep, config.train_limit
    # from a limit of nothing there is no geometric way
    if refresh is None or limit == 0:
        return limit
    named = {"limit": limit, "measured": max(first_cost or limit, limit)}
    start = named[step.limit_start] if isinstance(step.limit_start, str) else step.limit_start
    return scheduled_limit(limit, start, refresh, step.limit_ramp * config.refreshes)


def _lam_max(config: PipelineConfig, epsilon: float) -> float:
    """Return the ceiling of lam, which rises with the radius from the E-step's own to the adversary's."""
    low, high = config.estep.lam_max, config.adversary.lam_max
    if high is None or not config.variant_row.adversarial or config.train_epsilon == 0:
        return low
    return low + epsilon / config.train_epsilon * (high - low)


def _mstep(config: PipelineConfig, refresh: int | None) -> MStep:
    step = config.mstep
    if refresh is None:
        return step.model_copy(update=config.by_hand.model_dump(exclude={"kl_estep"}))
    end = step.learning_rate if step.learning_rate_end is None else step.learning_rate_end
    rate = scheduled_rate(step.learning_rate, end, refresh, config.refreshes)
    return step.model_copy(update={"learning_rate": rate})
