"""An episode once more, to see where the robot went: equal seed and equal actions give it to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from harden.envs.make import SeededEnv


class Boundary(NamedTuple):
    """What a Circle or Run task may not cross, seen from above, in metres.

    Args:
        axis: the coordinate that is bounded, "x" or "y".
        limit: cost is paid beyond +-limit.
        radius: of the circle that is paid for, None for a Run task.
    """

    axis: str
    limit: float
    radius: float | None


class Replayed(NamedTuple):
    """Where an episode went (T steps).

    Args:
        xy: (T + 1, 2), the robot's position in metres, the start first.
        costs: (T,).
    """

    xy: np.ndarray
    costs: np.ndarray


def boundary(env: SeededEnv) -> Boundary | None:
    """Return a task's safety boundary, None for a task that is neither a Circle nor a Run."""
    task: Any = getattr(env.env, "task", None)
    if hasattr(task, "x_lim") and hasattr(task, "circle"):
        return Boundary("x", float(task.x_lim), float(task.circle.radius))
    if hasattr(task, "y_lim"):
        return Boundary("y", float(task.y_lim), None)
    return None


def replay(
    env: SeededEnv,
    seed: int,
    actions: np.ndarray,
    on_step: Callable[[float], None] | None = None,
) -> Replayed:
    """Run an episode by its actions.

    Args:
        env: of the episode's task.
        seed: of the episode.
        actions: (T, act_dim), as they were applied.
        on_step: called with the cost so far, at the start and after each step.
    """

    def place() -> Sequence[float]:
        return [float(v) for v in env.env.agent.get_position()[:2]]

    env.reset(seed)
    path, costs = [place()], []
    if on_step is not None:
        on_step(0.0)
    for action in actions:
        costs.append(env.step(action).cost)
        path.append(place())
        if on_step is not None:
            on_step(sum(costs))
    return Replayed(np.array(path), np.array(costs))
