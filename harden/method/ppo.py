"""PPO-Lagrangian: the clipped surrogate, its mix with the cost, and the PID rule of the multiplier."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PidGains(NamedTuple):
    """K_P, K_I and K_D."""

    proportional: float
    integral: float
    derivative: float


class PidState(NamedTuple):
    """What the controller of the multiplier remembers.

    Args:
        total: the sum of the excess so far, never below 0.
        last: the cost before.
        lam: the multiplier in force.
    """

    total: float = 0.0
    last: float = 0.0
    lam: float = 0.0


def step_pid(state: PidState, cost: float, limit: float, gains: PidGains) -> PidState:
    """Return the controller after one more measurement of the cost.

    Args:
        state: before.
        cost: of an episode on average, J_C.
        limit: what it may be, d.
        gains: of the three parts.

    Source: Stooke et al. 2020, Algorithm 2.
    """
    excess = cost - limit
    total = max(0.0, state.total + excess)
    rise = max(0.0, cost - state.last)
    lam = gains.proportional * excess + gains.integral * total + gains.derivative * rise
    return PidState(total, cost, max(0.0, lam))


def clipped_surrogate(log_ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return l_ppo, (N,), to be ascended.

    Args:
        log_ratio: (N,), log pi(a|s) - log pi_old(a|s).
        advantages: (N,), A_r.
        clip: epsilon_clip.

    Source: Eq. 69.
    """
    ratio = log_ratio.exp()
    return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)


def lagrangian_surrogate(
    log_ratio: Tensor, advantages: Tensor, cost_advantages: Tensor, lam: float, clip: float
) -> Tensor:
    """Return l_ppol, (N,), to be ascended.

    Args:
        log_ratio, advantages, clip: as in `clipped_surrogate`.
        cost_advantages: (N,), A_c.
        lam: the multiplier.

    Source: Eq. 70.
    Deviation: it prints A_c without the ratio, which has no gradient.
    """
    of_cost = log_ratio.exp() * cost_advantages
    return (clipped_surrogate(log_ratio, advantages, clip) - lam * of_cost) / (1.0 + lam)
