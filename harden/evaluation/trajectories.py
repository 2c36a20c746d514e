"""The episodes that an attack made costliest, seen from above beside the same starts unattacked."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harden.config.tasks import Task
from harden.envs.replay import boundary, replay
from harden.envs.rollout import Rollout
from harden.envs.worker import SeededEnv
from harden.evaluation.verdict import costliest

_EPISODES = 3


def _actions(run: Rollout, seed: int) -> np.ndarray:
    index = run.seeds.tolist().index(seed)
    first = int(run.lengths[:index].sum())
    return run.transitions.actions[first : first + int(run.lengths[index])].numpy()


def trajectories(
    task: Task, results: Sequence[dict[str, Any]], runs: Mapping[int, Rollout], epsilon: float
) -> dict[str, Any] | None:
    """Return the paths of the costliest episodes of the costliest attack, clean and attacked.

    Args:
        task: whose boundary is drawn; None is returned for a task that has none.
        results: of the evaluation, natural first.
        runs: the roll-out of each entry, by its place in `results`; `worst` has none of its own.
        epsilon: the radius that the policy is meant to withstand.

    Returns:
        {"axis", "limit", "radius", "episodes": [{"seed", "attack", "epsilon", "clean", "attacked"}]}, where
        the last two are {"cost", "xy": [[x, y], ...]}, in metres.
    """
    worst = costliest(results, epsilon)
    # positions are those of bullet-safety-gym's robots, simulated in this process
    if worst["attack"] == "natural" or task.module != "bullet_safety_gym" or task.python:
        return None
    with contextlib.closing(SeededEnv(task)) as env:
        edge = boundary(env)
        if edge is None:
            return None
        episodes = []
        for episode in sorted(worst["per_episode"], key=lambda e: -e["cost"])[:_EPISODES]:
            seed, name = episode["seed"], episode.get("attack", worst["attack"])
            # a curve has several entries of one attack: the one that this episode is of
            attacked = next(
                run
                for index, run in runs.items()
                if results[index]["attack"] == name
                and results[index]["epsilon"] in (0.0, worst["epsilon"])
                and run.costs[run.seeds.tolist().index(seed)] == episode["cost"]
            )
            shown = {"seed": seed, "attack": name, "epsilon": worst["epsilon"]}
            for label, run in (("clean", runs[0]), ("attacked", attacked)):
                path, costs = replay(env, seed, _actions(run, seed))
                shown[label] = {"cost": float(costs.sum()), "xy": np.round(path, 3).tolist()}
            episodes.append(shown)
        return {**edge._asdict(), "episodes": episodes}
