"""Where the robot went: an episode once more by its seed and actions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from harden.envs.worker import SeededEnv


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


def boundary(env: SeededEnv) -> Boundary | None:
    """Return a task's safety boundary, None for a task that is neither a Circle nor a Run."""
    task: Any = getattr(env.env, "task", None)
    if hasattr(task, "x_lim") and hasattr(task, "circle"):
        return Boundary("x", float(task.x_lim), float(task.circle.radius))
    if hasattr(task, "y_lim"):
        return Boundary("y", float(task.y_lim), None)
    return None


def replay(env: SeededEnv, seed: int, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the episode of a seed by its actions as they were applied, (T, act_dim).

    Returns:
        The robot's positions in metres, the start first, (T + 1, 2), and the costs, (T,).
    """
    env.reset(seed)
    path, costs = [env.env.agent.get_position()[:2]], []
    for action in actions:
        costs.append(env.step(action).cost)
        path.append(env.env.agent.get_position()[:2])
    return np.array(path, dtype=np.float64), np.array(costs)
