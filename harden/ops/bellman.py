"""Returns and Bellman targets that never cross an episode and bootstrap through time limits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harden.types import Transitions


class Backups(NamedTuple):
    """What a TD target needs of each transition, looked ahead up to n steps (N rows).

    Args:
        obs: (N, obs_dim).
        actions: (N, act_dim).
        rewards: (N,), discounted sum over the steps looked ahead.
        costs: (N,), likewise.
        next_obs: (N, obs_dim), the observation to bootstrap from.
        discounts: (N,), gamma to the number of steps looked ahead, 0 where the dynamics ended the episode.
        step_costs, step_next_obs, step_discounts: of the same shapes, of the transition alone: n = 1.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    costs: Tensor
    next_obs: Tensor
    discounts: Tensor
    step_costs: Tensor
    step_next_obs: Tensor
    step_discounts: Tensor


def backups(data: Transitions, gamma: float, n_step: int) -> Backups:
    """Look ahead n steps within each episode.

    Args:
        data: whole episodes one after another; the first may lack its beginning.
        gamma: discount a step.
        n_step: steps to look ahead, at least 1; fewer at an episode's end.

    Source: Eq. 58, 59.
    Deviation: n above 1, which the paper has not, passes a value on over n steps at once; what the policy of
        those steps did is not corrected for.
    """
    count = len(data.rewards)
    ends = data.terminals | data.timeouts
    rewards, costs = data.rewards.clone(), data.costs.clone()
    index = torch.arange(count, device=ends.device)
    last = index
    alive = ~ends
    length = torch.ones(count, dtype=torch.int64, device=ends.device)
    for ahead in range(1, n_step):
        follower = (index + ahead).clamp_max(count - 1)
        alive = alive & (index + ahead < count)
        factor = alive * gamma**ahead
        rewards = rewards + factor * data.rewards[follower]
        costs = costs + factor * data.costs[follower]
        last = torch.where(alive, follower, last)
        length = length + alive
        alive = alive & ~ends[follower]
    powers = gamma ** torch.arange(n_step + 1, dtype=torch.float64, device=ends.device)
    discounts = torch.where(data.terminals[last], 0.0, powers[length]).to(rewards.dtype)
    step_discounts = torch.where(data.terminals, 0.0, powers[1]).to(rewards.dtype)
    looked_ahead = rewards, costs, data.next_obs[last], discounts
    return Backups(data.obs, data.actions, *looked_ahead, data.costs, data.next_obs, step_discounts)


def td_target(now: Tensor, discounts: Tensor, next_q: Tensor) -> Tensor:
    """Return now + discount * Q'(s', a').

    Source: Eq. 58, 59.
    """
    return now + discounts * next_q


def cost_ceiling(max_step_cost: float, gamma: float) -> float:
    """Return C_m / (1 - gamma): no discounted sum of costs in [0, C_m] is higher."""
    return max_step_cost / (1.0 - gamma) if gamma < 1.0 else float("inf")


def monte_carlo_returns(signal: Tensor, ends: Tensor, gamma: float) -> Tensor:
    """Return each step's discounted sum of what followed in its own episode.

    Args:
        signal: (N,), rewards or costs.
        ends: bool (N,), the last step of each episode.
        gamma: discount a step.

    Returns:
        float64 (N,).
    """
    out = torch.zeros(len(signal), dtype=torch.float64)
    running = 0.0
    for i in range(len(signal) - 1, -1, -1):
        running = float(signal[i]) + (0.0 if ends[i] else gamma * running)
        out[i] = running
    return out
