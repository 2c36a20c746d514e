"""The episodes that an attack made costliest, seen from above beside the same starts unattacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from harden.attacks import ATTACKS
from harden.config.tasks import Task
from harden.envs.make import SeededEnv
from harden.envs.replay import boundary, replay
from harden.envs.rollout import Rollout

_EPISODES = 3


class Moves(NamedTuple):
    """What a roll-out did, to be done again (E episodes).

    Args:
        seeds: (E,); actions: (T, act_dim) each.
    """

    seeds: list[int]
    actions: list[np.ndarray]

    def of(self, seed: int) -> np.ndarray:
        """Return the actions of one episode."""
        return self.actions[self.seeds.index(seed)]


def moves(run: Rollout) -> Moves:
    """Return a roll-out's actions by episode."""
    ends = np.cumsum(run.lengths)[:-1]
    return Moves(run.seeds.tolist(), np.split(run.transitions.actions.numpy(), ends))


def headline(results: Sequence[dict[str, Any]], epsilon: float | None = None) -> dict[str, Any]:
    """Return the entry with the highest mean cost, at one radius where attacks of that radius were run.

    Of equally costly ones it is an attack that is after cost.

    Args:
        results: of an evaluation, natural first.
        epsilon: the radius that the policy is meant to withstand, None where nobody said.
    """
    attacked = [one for one in results if one["attack"] != "natural"]
    meant = [one for one in attacked if epsilon is not None and abs(one["epsilon"] - epsilon) < 1e-12]

    def rank(one: dict[str, Any]) -> tuple[float, bool]:
        row = ATTACKS.get(one["attack"])
        return one["cost"]["mean"], row is not None and row.aim == ("cost", 1)

    return max(meant or attacked or results, key=rank)


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
    worst = headline(results, epsilon)
    if worst["attack"] == "natural":
        return None
    env = SeededEnv(task)
    try:
        edge = boundary(env)
        if edge is None:
            return None
        costliest = sorted(worst["per_episode"], key=lambda e: -e["cost"])[:_EPISODES]
        episodes = []
        for episode in costliest:
            name = episode.get("attack", worst["attack"])
            place = next(
                i
                for i, one in enumerate(results)
                if one["attack"] == name
                and one["epsilon"] in (0.0, worst["epsilon"])
                and i in made
                # a curve has several of one name: the one that this episode is of
                and any(
                    e["seed"] == episode["seed"] and e["cost"] == episode["cost"] for e in one["per_episode"]
                )
            )
            shown = {"seed": episode["seed"], "attack": name, "epsilon": worst["epsilon"]}
            for label, where in (("clean", 0), ("attacked", place)):
                found = replay(env, episode["seed"], made[where].of(episode["seed"]))
                shown[label] = {"cost": float(found.costs.sum()), "xy": np.round(found.xy, 3).tolist()}
            episodes.append(shown)
        return {**edge._asdict(), "episodes": episodes}
    finally:
        env.close()
