"""What doing nothing earns, from the starts of an evaluation: a policy that earns no more shows nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harden.config.tasks import Task
from harden.envs.rollout import Acted, Rollout, Simulation, rollout
from harden.evaluation.entries import summarise
from harden.evaluation.schema import DOES_NOTHING
from harden.nets import GaussianPolicy
from harden.policies.foreign import OpaquePolicy
from harden.seeds import derive, generator

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
    # zero is no action of every task
    zero = torch.zeros(task.act_dim)
    still = torch.where((zero < low) | (zero > high), (low + high) / 2, zero)
    policies = fresh_policies(like, task, count, seed)
    draw, sampling = generator("cpu", seed, "uniform-actions"), generator("cpu", seed, "untrained-sample")

    def untrained(obs: Tensor, slots: Tensor) -> Tensor:
        pairs = zip((policies[slot] for slot in slots.tolist()), obs.split(1), strict=True)
        return torch.cat([p.mean(row) if action == "mean" else p.sample(row, sampling) for p, row in pairs])

    return {
        "random": lambda obs, slots: low + (high - low) * torch.rand(len(obs), len(low), generator=draw),
        "standing_still": lambda obs, slots: still.expand(len(obs), -1),
        "untrained": untrained,
    }


def _rolled(envs: Simulation, act: Act, seeds: Sequence[int]) -> Rollout:
    @torch.no_grad()
    def acted(obs: Tensor, slots: Tensor) -> Acted:
        return Acted(act(obs, slots), obs)

    return rollout(envs, acted, seeds)


def reference(
    envs: Simulation, task: Task, policy: GaussianPolicy, action: str, natural: Rollout, seed: int
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
    actors = _actors(policy, task, action, len(seeds), seed)
    runs = {name: _rolled(envs, act, seeds) for name, act in actors.items()}
    earned: dict[str, Any] = {
        name: {"reward": summarise(run.rewards), "cost": summarise(run.costs)} for name, run in runs.items()
    }
    by_chance = float(np.sqrt(np.mean(runs["random"].rewards ** 2)))
    networks = runs["untrained"].rewards
    median = float(np.median(networks))
    spread = float(np.median(np.abs(networks - median)))
    still = float(runs["standing_still"].rewards.mean())
    for name, level, least in (("standing_still", still, 0.0), ("untrained", median, _DEVIATIONS * spread)):
        margin = max(_EQUAL * max(abs(level), by_chance), least)
        nothing = abs(reward - level) <= margin or (name == "standing_still" and reward < level)
        earned[name] |= {"level": level, "equal_within": margin, "does_nothing": nothing}
    return {"episodes": len(seeds), "reward": reward} | earned


_WORDS = {"standing_still": "standing still", "untrained": "an untrained policy", "random": "random"}


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
                f"{_WORDS[name]} earns {row['level']:.4g} (equal within {row['equal_within']:.2g})"
            )
            return [{"check": DOES_NOTHING, "attack": "natural", "epsilon": None, "message": message}]
    return []


def line_of(reference: dict[str, Any]) -> str:
    """Return the rewards of doing nothing in one line."""
    rewards = [f"{word} {reference[name]['reward']['mean']:.1f}" for name, word in _WORDS.items()]
    return f"reward of doing nothing, {reference['episodes']} episodes: {', '.join(rewards)}"
