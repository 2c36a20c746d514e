"""A worker process: some environments behind one pipe. Run as `python -m harden.envs.worker FD`."""

from __future__ import annotations

import numpy as np

from harden.child import serve
from harden.config.tasks import Task
from harden.envs.make import SeededEnv


class Slots:
    """Several environments of one task, addressed by their index."""

    def __init__(self) -> None:
        self.envs: list[SeededEnv] = []

    def make(self, task: Task, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Make `count` environments; returns the bounds of their action space, (act_dim,) each."""
        self.envs = [SeededEnv(task) for _ in range(count)]
        return self.envs[0].low, self.envs[0].high

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode at each index; returns observations, float32 (len, obs_dim)."""
        pairs = zip(indices, seeds, strict=True)
        return np.stack([self.envs[index].reset(int(seed)) for index, seed in pairs])

    def step(self, indices: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Advance each index by one step; returns observations, rewards, costs, terminals, timeouts."""
        results = [self.envs[index].step(action) for index, action in zip(indices, actions, strict=True)]
        obs, rewards, costs, terminals, timeouts = zip(*results, strict=True)
        return (
            np.stack(obs),
            np.array(rewards, dtype=np.float32),
            np.array(costs, dtype=np.float32),
            np.array(terminals, dtype=bool),
            np.array(timeouts, dtype=bool),
        )

    def close(self) -> None:
        """Close all of them."""
        for env in self.envs:
            env.close()


if __name__ == "__main__":
    serve(Slots())
