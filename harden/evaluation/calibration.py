"""How right critics are: their Q values beside the discounted sums that followed in roll-outs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from harden.nets import Critics
from harden.ops.bellman import monte_carlo_returns
from harden.types import Transitions

# a sum cut by the time limit lacks what a critic still expects: rows where that is more are left out
_LOST_AT_MOST = 0.02


def _compare(predicted: Tensor, observed: Tensor) -> dict[str, float]:
    q, returns = predicted.double().cpu().numpy(), observed.cpu().numpy()
    scale = float(np.abs(returns).mean())
    return {
        "rank_correlation": float(stats.spearmanr(q, returns).statistic),
        "bias": float((q - returns).mean() / scale) if scale else float("inf"),
        "mean_q": float(q.mean()),
        "mean_return": float(returns.mean()),
    }


def calibrate(critics: Critics, rollouts: Transitions, gamma: float) -> dict[str, Any]:
    """Compare Q with Monte Carlo returns on roll-outs of the policy that the critics were fitted for.

    Args:
        critics: Q_r and Q_c.
        rollouts: whole episodes, none of which the critics were fitted to.
        gamma: the critics' discount.

    Returns:
        {"rows", "reward", "cost"}, the last two with Spearman's rank correlation, the bias (mean error as a
        share of the mean absolute return) and the two means.
    """
    ends = rollouts.terminals | rollouts.timeouts
    left = monte_carlo_returns(torch.ones_like(rollouts.rewards), ends, 1.0)
    end = torch.arange(len(left)) + left.long() - 1
    # after an end by the dynamics nothing is missing
    whole = (gamma**left <= _LOST_AT_MOST) | rollouts.terminals[end]
    with torch.no_grad():
        q_reward = critics.q_reward(rollouts.obs, rollouts.actions)
        q_cost = critics.q_cost(rollouts.obs, rollouts.actions)
    return {
        "rows": int(whole.sum()),
        "reward": _compare(q_reward[whole], monte_carlo_returns(rollouts.rewards, ends, gamma)[whole]),
        "cost": _compare(q_cost[whole], monte_carlo_returns(rollouts.costs, ends, gamma)[whole]),
    }
