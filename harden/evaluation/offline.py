"""What stored data say of a policy that was never simulated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, attack_stream, perturb
from harden.nets import Critics, GaussianPolicy

FORMAT_VERSION = 1
# enough for shares and means to two digits
_STATES = 2000
NOT_SIMULATED = (
    "reward and cost of an episode, natural or attacked",
    "whether the cost limit holds",
    "states that the policy reaches and the data do not show",
)


@torch.no_grad()
def _moved(policy: GaussianPolicy, obs: Tensor, given: Tensor) -> float:
    difference = (policy.clip(policy.mean(given)) - policy.clip(policy.mean(obs))) / policy.half_range
    return float(difference.square().mean().sqrt())


@torch.no_grad()
def _entry(
    policy: GaussianPolicy,
    critics: Critics,
    behaviour: GaussianPolicy,
    obs: Tensor,
    given: Tensor,
    support: float,
) -> dict[str, float]:
    """Return one row: what the policy does in stored states, and what its critics expect of that."""
    actions = policy.clip(policy.mean(given))
    mean, std = behaviour(obs)
    distance = (actions - behaviour.clip(mean)).abs() / std
    return {
        "q_reward": float(critics.q_reward(obs, actions).mean()),
        "q_cost": float(critics.q_cost(obs, actions).mean()),
        "distance": float(distance.square().mean().sqrt()),
        "outside_data": float((distance > support).any(1).float().mean()),
        "moved_by_attack": _moved(policy, obs, given),
    }


def estimate(
    policies: dict[str, GaussianPolicy],
    critics: Critics,
    behaviour: GaussianPolicy,
    obs: Tensor,
    radius: float | tuple[float, ...],
    strength: Strength,
    support: float,
    seed: int,
) -> list[dict[str, Any]]:
    """Return for each policy, natural and under MC, what can be said without a simulation.

    Args:
        policies: by name.
        critics: of the last of them; they expect its future after any first action.
        behaviour: a clone of the data.
        obs: states of held-out episodes, (N, obs_dim); at most 2,000 are used, evenly taken.
        radius: of the attack, raw observation units.
        strength: of the attack.
        support: how many of the behaviour's spreads count as inside the data.
        seed: of the attack.

    Returns:
        Rows of policy, attack, q_reward and q_cost (discounted, means over states), distance (root mean
        square, of the action from the behaviour's mean, in its spreads), outside_data (the share of states
        whose action is outside the support) and moved_by_attack (root mean square, in half action ranges).
    """
    obs = obs[:: -(-len(obs) // _STATES)]
    rows = []
    for name, policy in policies.items():
        draw = attack_stream(obs.device, seed, "offline-mc")
        attacked = perturb(ATTACKS["mc"], policy, critics, obs, radius, strength, draw)
        for attack, given in (("natural", obs), ("mc", attacked)):
            found = _entry(policy, critics, behaviour, obs, given, support)
            rows.append({"policy": name, "attack": attack} | found)
    return rows
