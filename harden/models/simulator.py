"""A simulation in a world model: what roll-outs, training and trials ask of one, learned from data alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harden.config.tasks import Task
from harden.envs.vector import Step
from harden.models.world import WorldModel


class WorldEnv:
    """Imagined environments in lockstep, in the place of a VectorEnv; on the CPU.

    What the data do not show is the worst there is: where the members disagree more than `lost` times
    `world.reach`, a step leads nowhere, costs C_m and earns the least.

    Args:
        world: predicts.
        task: whose it is.
        firsts: (E, obs_dim), where episodes begin.
        num_envs: slots.
        branches: (N, obs_dim), where a share `branched` of the episodes begin instead.
        horizon: steps of an episode, the task's where not given.
        apart: each slot is in one member of the ensemble, the next slot in the next one; else all are in the
            members' mean.

    Source: Kidambi et al. 2020 (what is unknown is a state of its own, and a bad one).
    """

    def __init__(
        self,
        world: WorldModel,
        task: Task,
        firsts: Tensor,
        num_envs: int,
        *,
        branches: Tensor | None = None,
        branched: float = 0.0,
        horizon: int | None = None,
        lost: float,
        apart: bool = False,
    ) -> None:
        self.world, self.task, self.firsts, self.num_envs = world, task, firsts, num_envs
        self.branches = firsts if branches is None else branches
        self.branched, self.horizon = branched, horizon or task.horizon
        self.lost, self.apart = lost, apart
        self.action_low, self.action_high = (np.asarray(bound, dtype=np.float32) for bound in task.bounds)
        self.obs = torch.zeros(num_envs, task.obs_dim)
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.draws = [np.random.default_rng(0)] * num_envs

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode of each seed (len,) in its slot (len,); returns obs, float32 (len, obs_dim)."""
        for slot, seed in zip(slots.tolist(), seeds.tolist(), strict=True):
            draw = self.draws[slot] = np.random.default_rng(seed)
            begins = self.branches if draw.random() < self.branched else self.firsts
            self.obs[slot] = begins[int(draw.integers(len(begins)))]
        self.steps[slots] = 0
        return self.obs[slots].numpy()

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Step:
        """Advance each of the slots (len,) by an action inside the action space, float32 (len, act_dim)."""
        before = self.obs[slots]
        outcome = self.world(before, torch.as_tensor(actions))
        member, row = torch.as_tensor(slots) % len(self.world.members), torch.arange(len(slots))
        obs, rewards, costs, ends = (
            part[member, row] if self.apart else part.mean(0) for part in outcome[:4]
        )
        lost = outcome.disagreement > self.lost * self.world.reach
        self.obs[slots] = obs = torch.where(lost.unsqueeze(1), before, obs)
        rewards = torch.where(lost, self.world.least_reward, rewards)
        costs = costs.masked_fill(lost, self.task.max_step_cost)
        self.steps[slots] += 1
        chance = torch.tensor([self.draws[slot].random() for slot in slots.tolist()])
        terminals = (~lost & (chance < ends)).numpy()
        timeouts = (self.steps[slots] >= self.horizon) & ~terminals
        return Step(obs.numpy(), rewards.numpy(), costs.numpy(), terminals, timeouts)

    def __enter__(self) -> WorldEnv:
        return self

    def __exit__(self, *_: object) -> None:
        """There is nothing to end."""
