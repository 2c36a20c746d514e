"""Where the robot went: an episode once more by its seed and actions, and a camera on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from harden.envs.make import SeededEnv

_ASPECT = 4 / 3


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


class Camera:
    """Looks down on a Circle task as a whole, and on any other from behind the robot.

    Args:
        env: what is filmed.
        width: of a frame, in pixels.
    """

    def __init__(self, env: SeededEnv, width: int = 400) -> None:
        self.env, self.width, self.height = env, width, round(width / _ASPECT)
        edge = boundary(env)
        self.whole = edge.radius if edge is not None else None

    def frame(self) -> np.ndarray:
        """Return what is seen now, uint8 (height, width, 3)."""
        client: Any = self.env.env.bc
        x, y, z = (float(value) for value in self.env.env.agent.get_position())
        target, distance, yaw, pitch = (x + 1.0, 0.5 * y, z), 6.0, -90, -40
        if self.whole is not None:
            target, distance, yaw, pitch = (0.0, 0.0, 0.0), 3.8 * self.whole, 0, -70
        self._clear(client)
        view = client.computeViewMatrixFromYawPitchRoll(target, distance, yaw, pitch, 0, 2)
        lens = client.computeProjectionMatrixFOV(50, _ASPECT, 0.1, 100.0)
        # the renderer in software: no screen and no graphics driver
        size, renderer = (self.width, self.height), client.ER_TINY_RENDERER
        _, _, pixels, _, _ = client.getCameraImage(*size, view, lens, renderer=renderer)
        return np.asarray(pixels, dtype=np.uint8).reshape(self.height, self.width, -1)[:, :, :3]

    def _clear(self, client: Any) -> None:
        """Move a Circle task's zone out of sight: drawn in software it is opaque, and hides the robot.

        It has no mass that moves and no shape to collide with, so that nothing else of the episode changes.
        """
        zone = getattr(self.env.env.task, "circle", None)
        if zone is not None:
            client.resetBasePositionAndOrientation(zone.body_id, (0, 0, -1), (0, 0, 0, 1))
