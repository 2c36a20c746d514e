"""Whole episodes in flat arrays: where they end, and how their transitions are made of what a file has."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harden.types import Transitions

# rows of a shard that harden makes of other data: some tens of megabytes in memory, beside whose reading the
# look through a file, a millisecond, is short (docs/decisions.md)
SHARD_ROWS = 250_000


def lengths(data: Transitions) -> Tensor:
    """Return the rows of each whole episode, int64 (episodes,)."""
    stops = torch.nonzero(data.terminals | data.timeouts)[:, 0] + 1
    return torch.diff(stops, prepend=torch.zeros(1, dtype=torch.int64))


def totals(data: Transitions) -> tuple[Tensor, Tensor]:
    """Return the reward and the cost of each whole episode, float64 (episodes,)."""
    rows = lengths(data)
    episode = torch.repeat_interleave(torch.arange(len(rows)), rows)
    reward, cost = torch.zeros(2, len(rows), dtype=torch.float64)
    whole = slice(0, len(episode))
    reward.index_add_(0, episode, data.rewards[whole].double())
    cost.index_add_(0, episode, data.costs[whole].double())
    return reward, cost


def digests(data: Transitions) -> list[bytes]:
    """Return a digest of each whole episode: of the bits of all its columns."""
    stops = torch.cumsum(lengths(data), 0).tolist()
    columns = [np.ascontiguousarray(column.numpy()) for column in data]
    found = []
    for start, stop in itertools.pairwise([0, *stops]):
        digest = hashlib.blake2b(digest_size=16)
        for column in columns:
            digest.update(column[start:stop].data)
        found.append(digest.digest())
    return found


def select(data: Transitions, keep: Tensor) -> Transitions:
    """Return the episodes that are wanted.

    Args:
        data: whole episodes.
        keep: bool (episodes,).
    """
    rows = torch.repeat_interleave(keep, lengths(data))
    return Transitions(*(column[rows] for column in data))


def batches(stops: np.ndarray, rows: int = SHARD_ROWS) -> Iterator[tuple[int, int]]:
    """Cut a file at episodes' ends, into parts of at most `rows` rows or of one episode.

    Args:
        stops: int64 (episodes,), the row after each episode's last, increasing.
    """
    start = 0
    while start < stops[-1]:
        first = np.searchsorted(stops, start, side="right")
        fits = np.searchsorted(stops, start + rows, side="right") - 1
        stop = int(stops[max(first, fits)])
        yield start, stop
        start = stop


def derive_next(data: Transitions) -> Transitions:
    """Fill in the next observations of a file that has none, from the rows that follow in the same episode.

    The last row of an episode has none that follows. Where the time limit ended it, that row can't be kept,
    and the one before it becomes the last: what that led to is known, and the bootstrap goes on from there.
    Where the dynamics ended it, the row is kept with its own observation there: nothing bootstraps from it.

    Args:
        data: whole episodes, whose `next_obs` is not looked at.
    """
    ends = data.terminals | data.timeouts
    next_obs = torch.where(ends[:, None], data.obs, data.obs.roll(-1, 0))
    inner = ~ends
    timeouts = data.timeouts.roll(-1, 0) & inner
    timeouts[-1] = False
    keep = ~data.timeouts
    data = data._replace(next_obs=next_obs, timeouts=timeouts)
    return Transitions(*(column[keep] for column in data))
