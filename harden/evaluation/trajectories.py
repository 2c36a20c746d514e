"""The episodes that an attack made costliest, seen from above beside the same starts unattacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harden.config.tasks import Task
from harden.envs.make import SeededEnv
from harden.envs.replay import boundary, replay
from harden.envs.rollout import Rollout
from harden.evaluation.verdict import costliest

_EPISODES = 3


class Moves(NamedTuple):
    """What a roll-out did, to be done again.

    Args:
        actions: (T, act_dim) by episode seed.
        costs: of each episode, by its seed.
    """

    actions: dict[int, np.ndarray]
    costs: dict[int, float]


def moves(run: Rollout) -> Moves:
    """Return a roll-out's actions and costs by episode seed."""
    seeds = run.seeds.tolist()
    actions = np.split(run.transitions.actions.numpy(), np.cumsum(run.lengths)[:-1])
    return Moves(dict(zip(seeds, actions, strict=True)), dict(zip(seeds, run.costs.tolist(), strict=True)))


def trajectories(
    task: Task, results: Sequence[dict[str, Any]], made: Mapping[int, Moves], epsilon: float
) -> dict[str, Any] | None:
    """Return the paths of the costliest episodes of the costliest attack, clean and attacked.

    Args:
        task: whose boundary is drawn; None is returned for a task that has none.
        results: of the evaluation, natural first.
        made: what each entry's roll-out did, by the entry's place in `results`; `worst` has none of its own.
        epsilon: the radius that the policy is meant to withstand.

    Returns:
        {"axis", "limit", "radius", "episodes": [{"seed", "attack", "epsilon", "clean", "attacked"}]}, where
        the last two are {"cost", "xy": [[x, y], ...]}, in metres.
    """
    worst = costliest(results, epsilon)
    if worst["attack"] == "natural":
        return None
    env = SeededEnv(task)
    try:
        edge = boundary(env)
        if edge is None:
            return None
        episodes = []
        for episode in sorted(worst["per_episode"], key=lambda e: -e["cost"])[:_EPISODES]:
            seed, name = episode["seed"], episode.get("attack", worst["attack"])
            # a curve has several entries of one attack: the one that this episode is of
            place = next(
                i
                for i, moved in made.items()
                if results[i]["attack"] == name
                and results[i]["epsilon"] in (0.0, worst["epsilon"])
                and moved.costs[seed] == episode["cost"]
            )
            shown = {"seed": seed, "attack": name, "epsilon": worst["epsilon"]}
            for label, moved in (("clean", made[0]), ("attacked", made[place])):
                walk = replay(env, seed, moved.actions[seed])
                shown[label] = {"cost": float(walk.costs.sum()), "xy": np.round(walk.xy, 3).tolist()}
            episodes.append(shown)
        return {**edge._asdict(), "episodes": episodes}
    finally:
        env.close()
