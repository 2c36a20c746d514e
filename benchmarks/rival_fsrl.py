"""The rival's side of round.py: FSRL's CVPO with its own defaults. Run by FSRL's own environment.

Reads a number of updates from each line of its input and answers with the seconds they took.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version

import gymnasium
import numpy as np
import torch
from fsrl.agent import CVPOAgent
from gymnasium.envs.registration import EnvSpec
from tianshou.data import Batch, ReplayBuffer


class Shapes(gymnasium.Env):
    """Spaces and time limit of a task; never simulated."""

    def __init__(self, obs_dim: int, act_dim: int, horizon: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs_dim,))
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (act_dim,))
        self.spec = EnvSpec("Shapes-v0", max_episode_steps=horizon)


def fill(rows: int, obs_dim: int, act_dim: int, horizon: int) -> ReplayBuffer:
    """Return a replay buffer of random transitions in episodes of `horizon`."""
    rng = np.random.default_rng(0)
    buffer = ReplayBuffer(rows)
    for row in range(rows):
        buffer.add(
            Batch(
                obs=rng.normal(size=obs_dim).astype(np.float32),
                act=rng.uniform(-1, 1, act_dim).astype(np.float32),
                rew=rng.normal(),
                terminated=False,
                truncated=row % horizon == horizon - 1,
                obs_next=rng.normal(size=obs_dim).astype(np.float32),
                info={"cost": float(rng.random() < 0.3)},
            )
        )
    return buffer


def main() -> None:
    """Answer requests."""
    parser = argparse.ArgumentParser()
    for name in ("states", "obs-dim", "act-dim", "horizon", "rows"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    agent = CVPOAgent(Shapes(options.obs_dim, options.act_dim, options.horizon), cost_limit=5, thread=1)
    torch.set_num_threads(1)
    buffer = fill(options.rows, options.obs_dim, options.act_dim, options.horizon)
    policy = agent.policy
    policy.train()
    print(json.dumps({name: version(name) for name in ("fast-safe-rl", "torch", "numpy")}), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        policy.pre_update_fn()
        for _ in range(int(line)):
            policy.update(options.states, buffer)
        policy.post_update_fn()
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
