"""What attacks ascend: one function each, one value a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from harden.nets import Critics, GaussianPolicy, gaussian

# the critics are None for an objective that asks none
Objective = Callable[[GaussianPolicy, Any, Tensor, Tensor], Tensor]


def max_cost(policy: GaussianPolicy, critics: Critics, obs: Tensor, obs_adv: Tensor) -> Tensor:
    """Return Q_c(s, pi(nu(s))): the critic sees the clean observation, the policy the attacked one.

    Args:
        obs, obs_adv: (B, obs_dim).

    Returns:
        (B,), to be maximised.

    Source: Eq. 68 and Algorithm 3, with Q = Q_c.
    Deviation: they print a minus sign, which descends.
    """
    return critics.q_cost(obs, policy.mean(obs_adv))


def max_reward(policy: GaussianPolicy, critics: Critics, obs: Tensor, obs_adv: Tensor) -> Tensor:
    """Return Q_r(s, pi(nu(s))), to be maximised: a tempting policy is an unsafe one.

    Args, Returns: as in `max_cost`.

    Source: Eq. 68 and Algorithm 3, with Q = Q_r.
    Deviation: they print a minus sign, which descends.
    """
    return critics.q_reward(obs, policy.mean(obs_adv))


def min_reward(policy: GaussianPolicy, critics: Critics, obs: Tensor, obs_adv: Tensor) -> Tensor:
    """Return -Q_r(s, pi(nu(s))), to be maximised: the attack that robust RL without costs is measured by.

    Args, Returns: as in `max_cost`.
    """
    return -critics.q_reward(obs, policy.mean(obs_adv))


def action_difference(
    policy: GaussianPolicy, critics: Critics | None, obs: Tensor, obs_adv: Tensor
) -> Tensor:
    """Return KL(pi(.|s) || pi(.|nu(s))), to be maximised; it asks no critic, and is flat where nu(s) = s.

    Args, Returns: as in `max_cost`.

    Source: Zhang et al. 2020 (SA-MDP), section 4 (MAD).
    """
    return gaussian.kl(*policy(obs), *policy(obs_adv))


OBJECTIVES: dict[str, Objective] = {
    objective.__name__: objective for objective in (max_cost, max_reward, min_reward, action_difference)
}
