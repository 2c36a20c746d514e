"""Somebody else's Gymnasium environment: a point is paid for going right and must stay left of 1."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class PointMass(gymnasium.Env):
    """Observed are position and velocity; the action is a force from -2 to 2. It falls off below -3."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start near the middle, at rest."""
        super().reset(seed=seed)
        self.state = np.array([self.np_random.uniform(-0.5, 0.5), 0.0])
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> Any:
        """Advance by a tenth of a second."""
        position, velocity = self.state
        velocity = 0.9 * velocity + 0.1 * float(action[0])
        position = position + 0.1 * velocity
        self.state = np.array([position, velocity])
        assert self.spec is not None
        info = {} if self.spec.id == "PointMassFree-v0" else {"cost": float(position > 1)}
        return self.state.copy(), velocity, bool(position < -3), False, info


class PointMassBrief(PointMass):
    """The same, over after six steps."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Start, and count from here."""
        self.count = 0
        return super().reset(seed=seed)

    def step(self, action: np.ndarray) -> Any:
        """Advance, or end."""
        self.count += 1
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.count == 6, False, info


class PointMassByKey(PointMass):
    """The same with two keys in place of a force."""

    action_space = spaces.Discrete(2)


for name, kind in (
    ("PointMass-v0", PointMass),
    ("PointMassFree-v0", PointMass),
    ("PointMassBrief-v0", PointMassBrief),
    ("PointMassByKey-v0", PointMassByKey),
):
    gymnasium.register(name, entry_point=kind)
