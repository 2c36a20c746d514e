"""Roll-outs of a frozen policy, clean and under attack, all episodes in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harden.attacks import ATTACKS, Attack, PaperStrength, Strength, perturb
from harden.envs.rollout import Acted, Progress, rollout
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.evaluation.statistics import summarise, violation_rate
from harden.nets import Critics, GaussianPolicy
from harden.seeds import episode_seeds, generator
from harden.tasks import Task


class Trial(NamedTuple):
    """How a policy is tried.

    Args:
        episodes: how many; their seeds are the same for every attack and policy.
        epsilon: radius, raw observation units.
        strength: of the gradient attacks.
        action: act with the policy's "mean" or a "sample".
        seed: of the episodes and the attacks.
    """

    episodes: int
    epsilon: float
    strength: Strength | PaperStrength
    action: str
    seed: int


def parse_attacks(names: str) -> list[str]:
    """Return the attacks meant by "mc,mr" or "all", natural first and always.

    Raises:
        InputError: an unknown name.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if "all" in asked:
        asked = list(ATTACKS)
    for name in asked:
        if name != "natural" and name not in ATTACKS:
            raise InputError(f"unknown attack '{name}'", f"choose from: natural, {', '.join(ATTACKS)}, all")
    return ["natural", *dict.fromkeys(name for name in asked if name != "natural")]


def _actor(
    attack: Attack | None, policy: GaussianPolicy, critics: Critics | None, trial: Trial, device: torch.device
) -> Callable[[Tensor, Tensor], Acted]:
    name = attack.name if attack else "natural"
    draw = generator(device, trial.seed, f"attack-{name}")
    sampling = generator(device, trial.seed, "evaluated-sample")
    # one episode a slot: the perturbation of its step before
    carried = torch.zeros(trial.episodes, policy.architecture["obs_dim"], device=device)

    def act(obs: Tensor, slots: Tensor) -> Acted:
        clean = given = obs.to(device)
        if attack is not None:
            start = carried[slots]
            given = perturb(attack, policy, critics, clean, trial.epsilon, trial.strength, draw, start)
            carried[slots] = given - clean
        with torch.no_grad():
            mean = trial.action == "mean"
            actions = policy.clip(policy.mean(given)) if mean else policy.sample(given, sampling)
        return Acted(actions.cpu(), given.cpu())

    return act


def _stop_rule(strength: Strength | PaperStrength) -> dict[str, float]:
    if isinstance(strength, Strength):
        return {}
    return {"stop_value": strength.stop_value, "stop_move": strength.stop_move}


def _entry(name: str, trial: Trial, critics: Critics | None, task: Task, run: Any) -> dict[str, Any]:
    gradient = name != "natural" and ATTACKS[name].objective is not None
    noise = name != "natural" and not gradient
    return {
        "attack": name,
        "style": trial.strength.style if gradient else "uniform" if noise else None,
        "norm": trial.strength.norm,
        "epsilon": 0.0 if name == "natural" else trial.epsilon,
        "steps": trial.strength.steps if gradient else 0,
        "restarts": trial.strength.restarts if gradient else 0,
        "critics": "own" if gradient and critics is not None else None,
        **(_stop_rule(trial.strength) if gradient else {}),
        "reward": summarise(run.rewards),
        "cost": summarise(run.costs),
        "violation_rate": violation_rate(run.costs, task.cost_limit),
        "per_episode": [
            {"seed": int(seed), "reward": float(reward), "cost": float(cost), "length": int(length)}
            for seed, reward, cost, length in zip(run.seeds, run.rewards, run.costs, run.lengths, strict=True)
        ],
    }


def evaluate_policy(
    policy: GaussianPolicy,
    critics: Critics | None,
    task: Task,
    attacks: Sequence[str],
    trial: Trial,
    *,
    workers: int | None = None,
    device: torch.device | None = None,
    on_step: Callable[[str, Progress], None] | None = None,
) -> list[dict[str, Any]]:
    """Try a policy under each attack on the same episodes.

    Args:
        policy: frozen; critics: what gradient attacks climb, or None.
        task: simulation and cost limit.
        attacks: names, as `parse_attacks` returns them.
        trial: episodes, radius, strength, seed.
        workers: simulation processes, one a core where not given.
        on_step: progress, with the attack's name.

    Returns:
        One entry an attack, in the form of the evaluation file.

    Raises:
        InputError: a gradient attack and no critics.
    """
    device = device or torch.device("cpu")
    for name in attacks:
        if critics is None and name != "natural" and ATTACKS[name].objective is not None:
            raise InputError(
                f"attack '{name}' climbs critics, and the policy brings none",
                "fit them first with: harden fit-critics --policy FOLDER, or use --attack random",
            )
    policy = policy.to(device)
    critics = None if critics is None else critics.to(device)
    seeds = episode_seeds(trial.seed, "evaluate", 0, trial.episodes)
    entries = []
    with VectorEnv(task, trial.episodes, workers) as envs:
        for name in attacks:
            attack = None if name == "natural" else ATTACKS[name]
            act = _actor(attack, policy, critics, trial, device)

            def follow(now: Progress, name: str = name) -> None:
                if on_step is not None:
                    on_step(name, now)

            run = rollout(envs, act, seeds.tolist(), follow)
            entries.append(_entry(name, trial, critics, task, run))
    return entries


def table(results: Sequence[dict[str, Any]], cost_limit: float) -> str:
    """Return the results as a text table."""
    lines = [f"{'attack':<10} {'reward':>16} {'cost':>16} {'violations':>11}"]
    for entry in results:
        reward, cost = entry["reward"], entry["cost"]
        lines.append(
            f"{entry['attack']:<10} {reward['mean']:>8.1f} ± {reward['std']:>5.1f} "
            f"{cost['mean']:>8.2f} ± {cost['std']:>5.2f} {100 * entry['violation_rate']:>9.0f} %"
        )
    lines.append(f"cost limit {np.format_float_positional(cost_limit, trim='-')} an episode")
    return "\n".join(lines)
