"""What an attacker ascends: one function an attack, one value a state."""

from __future__ import annotations

from torch import Tensor

from harden.nets import Critics, GaussianPolicy


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
