"""What doing nothing earns, from the starts of an evaluation: a policy that earns no more shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harden.config.tasks import Task
from harden.envs.rollout import Acted, Rollout, rollout
from harden.envs.vector import VectorEnv
from harden.evaluation.statistics import summarise
from harden.nets import GaussianPolicy
from harden.policies.foreign import OpaquePolicy
from harden.seeds import derive, generator

DOES_NOTHING = "does-nothing"
_EPISODES = 10
# rewards that differ by less than this share of the scale count as equal
_EQUAL = 0.05
# of untrained networks' rewards: two standard deviations of a normal distribution
_DEVIATIONS = 3.0

Act = Callable[[Tensor, Tensor], Tensor]


def fresh_policies(like: GaussianPolicy, task: Task, count: int, seed: int) -> list[GaussianPolicy]:
    """Return untrained policies of a policy's shape, of the default one where its layers are not known."""
    low, high = (torch.tensor(bound) for bound in task.bounds)
    options: dict[str, Any] = {"obs_dim": task.obs_dim, "act_dim": task.act_dim}
    if not isinstance(like, OpaquePolicy):
        options = {name: value for name, value in like.architecture.items() if name != "kind"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "untrained"))
        return [GaussianPolicy(**(options | {"low": low, "high": high})) for _ in range(count)]


def _actors(like: GaussianPolicy, task: Task, action: str, count: int, seed: int) -> dict[str, Act]:
    """Return what acts beside the policy: from observations (B, obs_dim) and slots (B,) to actions."""
    low, high = (torch.tensor(bound) for bound in task.bounds)
    still = torch.zeros(task.act_dim)
    # zero is no action of every task
    still = torch.where((still < low) | (still > high), (low + high) / 2, still)
    policies = fresh_policies(like, task, count, seed)
    draw, sampling = generator("cpu", seed, "uniform-actions"), generator("cpu", seed, "untrained-sample")

    def untrained(obs: Tensor, slots: Tensor) -> Tensor:
        rows = []
        for slot, row in zip(slots.tolist(), obs.split(1), strict=True):
            policy = policies[slot]
            rows.append(policy.mean(row) if action == "mean" else policy.sample(row, sampling))
        return torch.cat(rows)

    return {
        "random": lambda obs, slots: low + (high - low) * torch.rand(len(obs), len(low), generator=draw),
        "standing_still": lambda obs, slots: still.expand(len(obs), -1),
        "untrained": untrained,
    }


def _rolled(envs: VectorEnv, act: Act, seeds: Sequence[int]) -> Rollout:
    @torch.no_grad()
    def acted(obs: Tensor, slots: Tensor) -> Acted:
        return Acted(act(obs, slots), obs)

    return rollout(envs, acted, seeds)


def reference(
    envs: VectorEnv, task: Task, policy: GaussianPolicy, action: str, natural: Rollout, seed: int
) -> dict[str, Any]:
    """Return what doing nothing earns, beside what the policy earns from the same starts.

    The policy does nothing where its reward equals that of standing still or of an untrained network, within
    5 % of the larger of two scales: that reward itself, and the root mean square reward of actions drawn at
    random; or where it is below that of standing still. Networks differ by their first weights, so that an
    untrained one is met within three median deviations of several as well, and counts by their median.

    Args:
        envs: at least ten slots, or one for each natural episode.
        policy: the one that is tried; an untrained network has its shape.
        action: how the evaluation acts, by the "mean" or a "sample".
        natural: the policy's episodes without an attack.
        seed: of the networks and of random actions.

    Returns:
        {"episodes", "reward", "random", "standing_still", "untrained"}: how many starts, the policy's mean
        reward from them, and for each other {"reward", "cost"} as `summarise`; for the last two also
        {"level", "equal_within", "does_nothing"}.
    """
    seeds = natural.seeds[:_EPISODES].tolist()
    reward = float(natural.rewards[: len(seeds)].mean())
    runs = {
        name: _rolled(envs, act, seeds)
        for name, act in _actors(policy, task, action, len(seeds), seed).items()
    }
    found: dict[str, Any] = {"episodes": len(seeds), "reward": reward}
    for name, run in runs.items():
        found[name] = {"reward": summarise(run.rewards), "cost": summarise(run.costs)}
    by_chance = float(np.sqrt(np.mean(runs["random"].rewards ** 2)))
    networks = runs["untrained"].rewards
    median = float(np.median(networks))
    levels = {"standing_still": float(runs["standing_still"].rewards.mean()), "untrained": median}
    for name, level in levels.items():
        margin = _EQUAL * max(abs(level), by_chance)
        if name == "untrained":
            margin = max(margin, _DEVIATIONS * float(np.median(np.abs(networks - median))))
        below = name == "standing_still" and reward < level
        nothing = below or abs(reward - level) <= margin
        found[name] |= {"level": level, "equal_within": margin, "does_nothing": nothing}
    return found


def does_nothing(reference: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the warning that a policy does nothing, in a list, or an empty list.

    Args:
        reference: as `reference` returns it.
    """
    for name in ("standing_still", "untrained"):
        row = reference[name]
        if row["does_nothing"]:
            message = (
                f"the policy's reward is {reference['reward']:.4g} from {reference['episodes']} starts, "
                f"{_words(name)} earns {row['level']:.4g} (equal within {row['equal_within']:.2g})"
            )
            return [{"check": DOES_NOTHING, "attack": "natural", "epsilon": None, "message": message}]
    return []


def _words(name: str) -> str:
    return {"standing_still": "standing still", "untrained": "an untrained policy"}.get(name, name)


def line_of(reference: dict[str, Any]) -> str:
    """Return the rewards of doing nothing in one line."""
    rewards = [
        f"{_words(name)} {reference[name]['reward']['mean']:.1f}"
        for name in ("standing_still", "untrained", "random")
    ]
    return f"reward of doing nothing, {reference['episodes']} episodes: {', '.join(rewards)}"
