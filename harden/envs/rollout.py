"""Whole episodes, all slots in lockstep, one call of the policy a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from harden.envs.vector import Step, VectorEnv
from harden.types import Transitions


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
        steps: simulated so far.
        episodes: finished so far.
        reward, cost: mean an episode over the finished ones, 0 while there is none.
    """

    steps: int
    episodes: int
    reward: float
    cost: float


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


class _Recorder:
    """Rows of each episode, until all are there."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = np.asarray(seeds, dtype=np.int64)
        self.rows: list[list[tuple[np.ndarray, ...]]] = [[] for _ in seeds]
        self.rewards = np.zeros(len(seeds))
        self.costs = np.zeros(len(seeds))
        self.steps, self.finished = 0, 0

    def add(self, episodes: np.ndarray, obs: np.ndarray, actions: np.ndarray, step: Step) -> None:
        columns = (obs, actions, step.rewards, step.costs, step.obs, step.terminals, step.timeouts)
        for row, episode in enumerate(episodes):
            self.rows[episode].append(tuple(column[row] for column in columns))
        self.rewards[episodes] += step.rewards
        self.costs[episodes] += step.costs
        self.steps += len(episodes)

    def progress(self, done: np.ndarray) -> Progress:
        mean_reward = float(self.rewards[done].mean()) if len(done) else 0.0
        mean_cost = float(self.costs[done].mean()) if len(done) else 0.0
        return Progress(self.steps, len(done), mean_reward, mean_cost)

    def result(self) -> Rollout:
        columns = zip(*(row for episode in self.rows for row in episode), strict=True)
        transitions = Transitions(*(torch.from_numpy(np.stack(column)) for column in columns))
        lengths = np.array([len(episode) for episode in self.rows], dtype=np.int64)
        return Rollout(transitions, self.seeds, self.rewards, self.costs, lengths)


def rollout(
    envs: VectorEnv,
    act: Callable[[Tensor, Tensor], Acted],
    seeds: Sequence[int],
    on_step: Callable[[Progress], None] | None = None,
) -> Rollout:
    """Run one whole episode for each seed; slot j runs episodes j, j + E, j + 2E, ...

    Args:
        envs: E slots.
        act: from observations (B, obs_dim) and their slots (B,) to what to do; called once a step.
        seeds: the simulator's seed of each episode.
        on_step: called after each step.
    """
    recorder = _Recorder(seeds)
    count = len(seeds)
    slots = np.arange(min(envs.num_envs, count))
    episodes = slots.copy()
    obs = envs.reset(slots, recorder.seeds[episodes])
    done: list[int] = []
    while len(slots):
        acted = act(torch.from_numpy(obs), torch.from_numpy(slots))
        actions = np.clip(acted.actions.numpy(), envs.action_low, envs.action_high)
        step = envs.step(slots, actions)
        recorder.add(episodes, acted.obs.numpy(), actions, step)
        ended = step.terminals | step.timeouts
        obs = step.obs
        if ended.any():
            done += episodes[ended].tolist()
            episodes = np.where(ended, episodes + envs.num_envs, episodes)
            keep = episodes < count
            again = ended & keep
            if again.any():
                obs = obs.copy()
                obs[again] = envs.reset(slots[again], recorder.seeds[episodes[again]])
            slots, episodes, obs = slots[keep], episodes[keep], obs[keep]
        if on_step is not None:
            on_step(recorder.progress(np.array(done, dtype=np.int64)))
    return recorder.result()
