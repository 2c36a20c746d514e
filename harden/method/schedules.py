"""What training's schedules set: for one refresh, or at their end."""

from __future__ import annotations

from typing import NamedTuple

from harden.config.pipeline import PipelineConfig
from harden.config.sections import MStep
from harden.method.schedule import (
    discounted_threshold,
    scheduled_epsilon,
    scheduled_limit,
    scheduled_rate,
)


class Scheduled(NamedTuple):
    """What a round works under.

    Args:
        epsilon: radius of the adversary, raw observation units; 0 for a variant without one.
        kappa: the discounted cost that the E-step allows, on average over states.
        lam_max: ceiling of the cost multiplier.
        dual_rate: share of the way to the exact multipliers that a round takes; 1 uses the exact ones.
        kl_estep: delta, the E-step's bound on KL(q* || policy_old), nats.
        mstep: the M-step's section, with the learning rate and the bounds in force.
    """

    epsilon: float
    kappa: float
    lam_max: float
    dual_rate: float
    kl_estep: float
    mstep: MStep


def scheduled(config: PipelineConfig, refresh: int | None) -> Scheduled:
    """Return what the schedules set.

    Args:
        config: the pipeline.
        refresh: the refresh of `train`, t of Eq. 67, from 0. None is the end of every schedule, where a stage
            works that is run by hand: the full radius, the task's limit and exact multipliers, with the trust
            regions of `by_hand`.

    Source: Eq. 67 and appendix B.1.
    """
    task = config.task_row
    epsilon, limit = _epsilon(config, refresh), _limit(config, refresh)
    return Scheduled(
        epsilon,
        discounted_threshold(limit, task.horizon, config.critics.gamma_cost),
        _lam_max(config, epsilon),
        1.0 if refresh is None else config.estep.dual_rate,
        config.by_hand.kl_estep if refresh is None else config.estep.kl_bound,
        _mstep(config, refresh),
    )


def _epsilon(config: PipelineConfig, refresh: int | None) -> float:
    if not config.variant_row.adversarial:
        return 0.0
    if refresh is None:
        return config.train_epsilon
    total, adversary = config.refreshes, config.adversary
    start, ramp = adversary.ramp_start * total, adversary.ramp * total
    return scheduled_epsilon(config.train_epsilon, refresh, start, ramp)


def _limit(config: PipelineConfig, refresh: int | None) -> float:
    step, limit = config.estep, config.train_limit
    if refresh is None or step.limit_start is None:
        return limit
    return scheduled_limit(limit, step.limit_start, refresh, step.limit_ramp * config.refreshes)


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
