"""How right critics are: their Q values beside Monte Carlo returns from the same state and action.

One roll-out's return is mostly noise where a policy is: a network fitted to returns directly ranks held-out
ones no better than 0.4. So each point is an average over roll-outs that share their beginning to the bit and
part after the action that is judged.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from harden.config.tasks import Task
from harden.envs.rollout import Acted, rollout
from harden.envs.vector import VectorEnv
from harden.method.bellman import monte_carlo_returns
from harden.nets import Critics, GaussianPolicy
from harden.seeds import episode_seeds, generator

# a sum cut by the time limit lacks this share of what a critic still expects
_LOST_AT_MOST = 0.02


class Branches(NamedTuple):
    """States and actions with the returns that followed on each of B branches (P points).

    Args:
        obs: (P, obs_dim); actions: (P, act_dim).
        rewards, costs: float64 (P, B), discounted.
    """

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    costs: Tensor


def branch(
    policy: GaussianPolicy,
    task: Task,
    gammas: tuple[float, float],
    *,
    points: int,
    branches: int,
    seed: int,
    workers: int | None = None,
) -> Branches:
    """Roll out a policy from many states and actions, each several times.

    Args:
        policy: acts by sampling.
        task: simulation.
        gammas: discount a step of the rewards and of the costs.
        points: P, one an episode seed; those whose episode ends before its point are left out.
        branches: roll-outs a point, B.
        seed: of the episodes, the points and the actions.
        workers: simulation processes, one a core where not given.
    """
    latest = task.horizon - math.ceil(math.log(_LOST_AT_MOST) / math.log(max(gammas)))
    place = generator("cpu", seed, "branch-time")
    times = torch.randint(max(latest, 1), (points,), generator=place)
    seeds = episode_seeds(seed, "branch", 0, points)
    found = []
    with VectorEnv(task, branches, workers) as envs:
        for point in range(points):
            draw = generator("cpu", seed, "branch-actions", point)
            found.append(_one_point(envs, policy, gammas, int(seeds[point]), int(times[point]), draw))
    return Branches(*(torch.stack(column) for column in zip(*(f for f in found if f), strict=True)))


def _one_point(
    envs: VectorEnv,
    policy: GaussianPolicy,
    gammas: tuple[float, float],
    seed: int,
    time: int,
    draw: torch.Generator,
) -> tuple[Tensor, ...] | None:
    now = 0

    @torch.no_grad()
    def act(obs: Tensor, slots: Tensor) -> Acted:
        nonlocal now
        actions = policy.sample(obs, draw)
        if now <= time:
            # equal seeds and equal actions: the same episode to the bit, up to and with the point
            actions = actions[:1].expand_as(actions)
        now += 1
        return Acted(actions, obs)

    run = rollout(envs, act, [seed] * envs.num_envs)
    if run.lengths.min() <= time:
        return None
    data = run.transitions
    rows = torch.from_numpy(np.cumsum(run.lengths) - run.lengths + time)
    ends = data.terminals | data.timeouts
    signals = zip((data.rewards, data.costs), gammas, strict=True)
    rewards, costs = (monte_carlo_returns(signal, ends, gamma)[rows] for signal, gamma in signals)
    return data.obs[rows[0]], data.actions[rows[0]], rewards, costs


def rank_correlation(left: np.ndarray, right: np.ndarray) -> float | None:
    """Return Spearman's rank correlation, None where one side is constant: it ranks nothing."""
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        return None
    return float(stats.spearmanr(left, right).statistic)


def noise_ceiling(returns: np.ndarray) -> float | None:
    """Return the rank correlation that the true values would have with means of so many branches.

    None where the returns are all the same.

    Args:
        returns: (P, B), B at least 2.

    Source: the square root of the split-half reliability, stepped up to all branches (Spearman, Brown 1910).
    """
    halves = returns[:, ::2].mean(1), returns[:, 1::2].mean(1)
    between = rank_correlation(*halves)
    if between is None:
        return None
    agreement = max(between, 0.0)
    return math.sqrt(2 * agreement / (1 + agreement))


def _compare(predicted: Tensor, observed: Tensor) -> dict[str, float | None]:
    q, branches = predicted.double().cpu().numpy(), observed.cpu().numpy()
    returns = branches.mean(1)
    scale = float(np.abs(returns).mean())
    return {
        "rank_correlation": rank_correlation(q, returns),
        "noise_ceiling": noise_ceiling(branches),
        "bias": float((q - returns).mean() / scale) if scale else None,
        "mean_q": float(q.mean()),
        "mean_return": float(returns.mean()),
    }


def calibrate(critics: Critics, held_out: Branches) -> dict[str, Any]:
    """Compare Q with Monte Carlo returns.

    Args:
        critics: Q_r and Q_c of the policy that was rolled out, fitted to none of these roll-outs.
        held_out: as `branch` returns them.

    Returns:
        {"points", "reward", "cost"}, the last two with Spearman's rank correlation, what it would be for the
        true values, the bias (mean error as a share of the mean absolute return) and the two means. What
        constant returns leave undefined is None.
    """
    with torch.no_grad():
        q_reward = critics.q_reward(held_out.obs, held_out.actions)
        q_cost = critics.q_cost(held_out.obs, held_out.actions)
    return {
        "points": len(held_out.obs),
        "reward": _compare(q_reward, held_out.rewards),
        "cost": _compare(q_cost, held_out.costs),
    }
