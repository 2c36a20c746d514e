"""Transitions whose rows are told apart, and files of them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import torch

from harden.config.tasks import TASKS
from harden.types import Transitions

TASK = TASKS["ball-circle"]
HOW = {"seed": 3, "policy_digest": "abc", "behaviour": "policy-sample"}
NAMES = ("observations", "actions", "rewards", "costs", "next_observations", "terminals", "timeouts")


def counted(lengths: list[int], ends: list[str]) -> Transitions:
    """Return episodes of unique numbers: row t of episode e has observation 1000 e + t, action the negative.

    Each episode's last next observation is in no other row, so that nothing can be made up for it.
    """
    parts = []
    for e, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        t = torch.arange(length, dtype=torch.float32)
        count = 1000 * e + t
        last = torch.arange(length) == length - 1
        parts.append(
            Transitions(
                count[:, None] + torch.arange(TASK.obs_dim) / 16,
                -count[:, None] - torch.arange(TASK.act_dim) / 4,
                count * 2,
                count + 0.5,
                (count + 1)[:, None] + torch.arange(TASK.obs_dim) / 16,
                last & (end == "terminal"),
                last & (end == "timeout"),
            )
        )
    return Transitions(*map(torch.cat, zip(*parts, strict=True)))


LENGTHS, ENDS = [3, 1, 4, 2], ["timeout", "terminal", "terminal", "timeout"]
DATA = counted(LENGTHS, ENDS)


def write_flat(path: Path, data: Transitions, without: tuple[str, ...] = (), **more: np.ndarray) -> None:
    """Write a file as another tool would: arrays, and nothing said about them."""
    with h5py.File(path, "w") as file:
        for name, column in zip(NAMES, data, strict=True):
            if name not in without:
                file[name] = column.numpy()
        for name, values in more.items():
            file[name] = values


def make(lengths: list[int], start: int = 0, terminal: bool = False) -> Transitions:
    """Return episodes whose rows count on, so that a shift would show."""
    count = sum(lengths)
    counter = torch.arange(start, start + count, dtype=torch.float32)
    ends = torch.zeros(count, dtype=torch.bool)
    ends[np.cumsum(lengths) - 1] = True
    return Transitions(
        obs=counter[:, None].expand(-1, TASK.obs_dim).clone(),
        actions=-counter[:, None].expand(-1, TASK.act_dim).clone(),
        rewards=counter * 10,
        costs=(counter % 2),
        next_obs=(counter + 1)[:, None].expand(-1, TASK.obs_dim).clone(),
        terminals=ends if terminal else torch.zeros_like(ends),
        timeouts=torch.zeros_like(ends) if terminal else ends,
    )


def same(a: Transitions, b: Transitions) -> bool:
    """Return whether two sets of transitions are equal to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def gap(data: Transitions) -> torch.Tensor:
    """Return how far each stored observation is from the simulator's, which the step before ended in."""
    inside = ~(data.terminals | data.timeouts)[:-1]
    return (data.obs[1:] - data.next_obs[:-1]).abs().amax(1)[inside]
