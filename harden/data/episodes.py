"""Whole episodes in flat arrays: their lengths, totals and choice."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harden.types import Transitions


def lengths(data: Transitions) -> Tensor:
    """Return the rows of each whole episode, int64 (episodes,)."""
    stops = torch.nonzero(data.terminals | data.timeouts)[:, 0] + 1
    return torch.diff(stops, prepend=torch.zeros(1, dtype=torch.int64))


def totals(data: Transitions) -> tuple[Tensor, Tensor]:
    """Return the reward and the cost of each whole episode, float64 (episodes,)."""
    rows = lengths(data)
    episode = torch.repeat_interleave(torch.arange(len(rows)), rows)
    reward, cost = torch.zeros(2, len(rows), dtype=torch.float64)
    reward.index_add_(0, episode, data.rewards.double())
    cost.index_add_(0, episode, data.costs.double())
    return reward, cost


def episodes(data: Transitions) -> Iterator[Transitions]:
    """Yield one whole episode after another."""
    for part in zip(*(column.split(lengths(data).tolist()) for column in data), strict=True):
        yield Transitions(*part)


def select(data: Transitions, keep: Tensor) -> Transitions:
    """Return those of the whole episodes that `keep`, bool (episodes,), marks."""
    rows = torch.repeat_interleave(keep, lengths(data))
    return Transitions(*(column[rows] for column in data))
