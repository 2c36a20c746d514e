"""Whole episodes, all slots in lockstep, one call of the policy a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from harden.config.tasks import Task
from harden.envs.vector import Step
from harden.errors import DivergedError
from harden.types import Transitions


class Simulation(Protocol):
    """Environments in lockstep: a VectorEnv, or what imagines the like."""

    task: Task
    num_envs: int
    action_low: np.ndarray
    action_high: np.ndarray

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode of each seed (len,) in its slot (len,); returns obs, float32 (len, obs_dim)."""

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Step:
        """Advance each of the slots (len,) by an action inside the action space, float32 (len, act_dim)."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


# opens so many environments
Simulate = Callable[[int], Simulation]


class Acted(NamedTuple):
    """What a behaviour decided for a batch.

    Args:
        actions: (B, act_dim), clipped to the action space before they are applied and stored.
        obs: (B, obs_dim), the observation that was acted on, which is the one stored.
    """

    actions: Tensor
    obs: Tensor


class Progress(NamedTuple):
    """How far a roll-out is.

    Args:
        reward, cost: mean an episode over the finished ones, 0 while there is none.
    """

    steps: int
    episodes: int
    reward: float
    cost: float

    def __str__(self) -> str:
        if not self.episodes:
            return "no episode finished yet"
        return f"{self.episodes} episodes, reward {self.reward:.1f}, cost {self.cost:.1f}"


class Rollout(NamedTuple):
    """Whole episodes, in the order of their seeds.

    Args:
        transitions: all rows, episode after episode.
        seeds, lengths: int64 (episodes,).
        rewards, costs: float64 (episodes,), sums over each episode.
    """

    transitions: Transitions
    seeds: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    lengths: np.ndarray


def rollout(
    envs: Simulation,
    act: Callable[[Tensor, Tensor], Acted],
    seeds: Sequence[int],
    on_step: Callable[[Progress], None] | None = None,
) -> Rollout:
    """Run one whole episode for each seed; slot j runs episodes j, j + E, j + 2E, ...

    Args:
        envs: E slots.
        act: from observations (B, obs_dim) and their slots (B,) to what to do; called once a step.
        seeds: the simulator's seed of each episode, at least one.
        on_step: called after each step.

    Raises:
        DivergedError: an action is NaN.
        HardenError: the simulation failed.
    """
    count, seed_of = len(seeds), np.asarray(seeds, dtype=np.int64)
    batches: list[tuple[np.ndarray, ...]] = []
    rewards, costs = np.zeros((2, count))
    lengths, done = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=bool)
    slots = np.arange(min(envs.num_envs, count))
    episodes = slots.copy()
    obs = envs.reset(slots, seed_of[episodes])
    while len(slots):
        # copies both ways: what is recorded must not change when a behaviour writes into its tensors
        acted = act(torch.tensor(obs), torch.tensor(slots))
        given = acted.obs.numpy().astype(np.float32)
        actions = np.clip(acted.actions.numpy().astype(np.float32), envs.action_low, envs.action_high)
        if np.isnan(actions).any():
            raise DivergedError("the policy's action is NaN", "act with a policy from before it diverged")
        step = envs.step(slots, actions)
        ended, flags = step.terminals | step.timeouts, (step.terminals, step.timeouts)
        batches.append((episodes, given, actions, step.rewards, step.costs, step.obs, *flags))
        rewards[episodes] += step.rewards
        costs[episodes] += step.costs
        lengths[episodes] += 1
        done[episodes] = ended
        obs = step.obs
        if ended.any():
            episodes = np.where(ended, episodes + envs.num_envs, episodes)
            keep = episodes < count
            again = ended & keep
            if again.any():
                obs = obs.copy()
                obs[again] = envs.reset(slots[again], seed_of[episodes[again]])
            slots, episodes, obs = slots[keep], episodes[keep], obs[keep]
        if on_step is not None:
            over = max(int(done.sum()), 1)
            means = float(rewards[done].sum()) / over, float(costs[done].sum()) / over
            on_step(Progress(int(lengths.sum()), int(done.sum()), *means))
    episode, *columns = (np.concatenate(column) for column in zip(*batches, strict=True))
    # a stable sort leaves each episode's rows in the order of time
    order = np.argsort(episode, kind="stable")
    transitions = Transitions(*(torch.from_numpy(column[order]) for column in columns))
    return Rollout(transitions, seed_of, rewards, costs, lengths)
