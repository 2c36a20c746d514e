"""What stored data say of a policy that was never simulated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, attack_stream, perturb
from harden.data import Dataset
from harden.method.schedules import scheduled
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import module_digest
from harden.training.checks import unknown_from_logs
from harden.training.imitation import split_episodes
from harden.training.run import Run
from harden.training.workspace import versions

FORMAT_VERSION = 1
# enough for shares and means to two digits
_STATES = 2000
NOT_SIMULATED = (
    "reward and cost of an episode, natural or attacked",
    "whether the cost limit holds",
    "states that the policy reaches and the data do not show",
)


@torch.no_grad()
def _entry(
    policy: GaussianPolicy,
    critics: Critics,
    behaviour: GaussianPolicy,
    obs: Tensor,
    given: Tensor,
    support: float,
) -> dict[str, float]:
    """Return what the policy does in stored states when given other observations, and what critics expect."""
    actions = policy.clip(policy.mean(given))
    mean, std = behaviour(obs)
    distance = (actions - behaviour.clip(mean)).abs() / std
    moved = (actions - policy.clip(policy.mean(obs))) / policy.half_range
    return {
        "q_reward": float(critics.q_reward(obs, actions).mean()),
        "q_cost": float(critics.q_cost(obs, actions).mean()),
        "distance": float(distance.square().mean().sqrt()),
        "outside_data": float((distance > support).any(1).float().mean()),
        "moved_by_attack": float(moved.square().mean().sqrt()),
    }


def offline_account(run: Run, dataset: Dataset) -> dict[str, Any]:
    """Return what can be said of an offline run's policy from held-out episodes, marked as not simulated.

    Args:
        run: one that learned from the data set.

    Returns:
        The account; its estimates are rows of policy, attack (natural or mc), q_reward and q_cost
        (discounted, means over states), distance (root mean square, of the action from the clone's mean, in
        its spreads), outside_data (the share of states whose action is further than `offline.support`
        spreads) and moved_by_attack (root mean square, in half action ranges).
    """
    config, learner = run.config, run.learner
    rows = dataset.recent(config.imitation.rows)
    held_out = split_episodes(rows, config.imitation.held_out, config.seed).held_out
    obs = rows.obs[held_out].to(learner.device)
    obs = obs[:: -(-len(obs) // _STATES)]
    task, options, behaviour, info = config.task_row, config.evaluate, learner.behaviour, dataset.info
    assert behaviour is not None
    strength = Strength(
        options.attack_steps or 50, options.restarts, options.step_share, options.norm, starts=options.starts
    )
    estimates, radius = [], task.radius(config.eval_epsilon)
    for name, policy in {"cloned": behaviour, "hardened": learner.average}.items():
        draw = attack_stream(obs.device, config.seed, "offline-mc")
        attacked = perturb(ATTACKS["mc"], policy, learner.critics, obs, radius, strength, draw)
        for attack, given in (("natural", obs), ("mc", attacked)):
            figures = _entry(policy, learner.critics, behaviour, obs, given, config.offline.support)
            estimates.append({"policy": name, "attack": attack} | figures)
    logs = {
        "path": str(dataset.path),
        "episodes": info.episodes,
        "reward": info.mean_reward,
        "cost": info.mean_cost,
    }
    return {
        "format_version": FORMAT_VERSION,
        "kind": "offline",
        "simulated": False,
        "not_simulated": [*NOT_SIMULATED, *unknown_from_logs(config, dataset)],
        "task": task.name,
        "cost_limit": task.cost_limit,
        "kappa": scheduled(config, None).kappa,
        "epsilon": config.eval_epsilon,
        "policy": {"path": str(run.workspace.policy), "policy_digest": module_digest(learner.average)},
        "data": (run.record.offline or {}) | logs,
        "estimates": estimates,
        "versions": versions(),
    }
