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
        rewards: (N,), discounted sum over the steps that the reward critic looks ahead.
        next_obs: (N, obs_dim), the observation that the reward critic bootstraps from.
        discounts: (N,), gamma to the number of steps looked ahead, 0 where the dynamics ended the episode.
        costs, cost_next_obs, cost_discounts: the same for the cost critic.
        step_costs, step_next_obs, step_discounts: of the same shapes, of the transition alone: n = 1.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    discounts: Tensor
    costs: Tensor
    cost_next_obs: Tensor
    cost_discounts: Tensor
    step_costs: Tensor
    step_next_obs: Tensor
    step_discounts: Tensor


def backups(data: Transitions, of_reward: tuple[float, int], of_cost: tuple[float, int]) -> Backups:
    """Look ahead within each episode, by the discount and the steps of each critic.

    Args:
        data: whole episodes one after another; the first may lack its beginning.
        of_reward, of_cost: the discount a step, and n, the steps to look ahead: at least 1, fewer at an
            episode's end.

    Source: Eq. 58, 59.
    Deviation: n above 1, which the paper has not, passes a value on over n steps at once; what the policy of
        those steps did is not corrected for. The paper has one discount for both.
    """
    rewards = _look_ahead(data, data.rewards, *of_reward)
    costs = _look_ahead(data, data.costs, *of_cost)
    step_costs = _look_ahead(data, data.costs, of_cost[0], 1)
    return Backups(data.obs, data.actions, *rewards, *costs, *step_costs)


class _Ahead(NamedTuple):
    """A signal's sum over n steps, the observation after them, and what the value there counts: N rows."""

    total: Tensor
    next_obs: Tensor
    discounts: Tensor


def _look_ahead(data: Transitions, signal: Tensor, gamma: float, n_step: int) -> _Ahead:
    count = len(signal)
    ends = data.terminals | data.timeouts
    total = signal.clone()
    index = torch.arange(count, device=ends.device)
    last = index
    alive = ~ends
    length = torch.ones(count, dtype=torch.int64, device=ends.device)
    for ahead in range(1, n_step):
        follower = (index + ahead).clamp_max(count - 1)
        alive = alive & (index + ahead < count)
        total = total + alive * gamma**ahead * signal[follower]
        last = torch.where(alive, follower, last)
        length = length + alive
        alive = alive & ~ends[follower]
    powers = gamma ** torch.arange(n_step + 1, dtype=torch.float64, device=ends.device)
    discounts = torch.where(data.terminals[last], 0.0, powers[length]).to(total.dtype)
    return _Ahead(total, data.next_obs if n_step == 1 else data.next_obs[last], discounts)


def as_observed(data: Transitions) -> Transitions:
    """Return transitions whose next observation is the one that the policy was given then.

    Under attack that is nu(s'), the next row's; an episode's last step keeps what the simulator showed.
    Benign transitions come out as they are.

    Args:
        data: whole episodes one after another.

    Source: Algorithm 5, line 3.
    """
    ends = data.terminals | data.timeouts
    follower = torch.cat((data.obs[1:], data.obs[-1:]))
    return data._replace(next_obs=torch.where(ends.unsqueeze(1), data.next_obs, follower))


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
