"""How the rows of somebody else's arrays follow each other, read a part at a time."""

from __future__ import annotations

from collections.abc import Sequence

import h5py
import numpy as np

from harden.data.ends import Steps
from harden.data.episodes import SHARD_ROWS

_BLOCK = 10_000
# rows of zeros or NaN, and of any other numbers, that are more than a robot at rest would leave
_LEAST_EMPTY, _LEAST_ALIKE = 2, 10


def alike_at_end(items: Sequence[h5py.Dataset]) -> int:
    """Return how many rows at the end are all alike in every array; 0 where so few are that they may be data.

    Args:
        items: arrays of numbers of the same length.
    """
    count = len(items[0])
    last = [np.asarray(item[-1]).reshape(1, -1) for item in items]
    start = stop = count
    while start > 0:
        start = max(stop - _BLOCK, 0)
        same = np.ones(stop - start, dtype=bool)
        for item, row in zip(items, last, strict=True):
            values = item[start:stop].reshape(stop - start, -1)
            same &= ((values == row) | ((values != values) & (row != row))).all(1)
        if not same.all():
            stop = start + int(np.flatnonzero(~same)[-1]) + 1
            break
        stop = start
    alike = count - stop
    empty = all((~row.astype(bool) | (row != row)).all() for row in last)
    return alike if alike >= (_LEAST_EMPTY if empty else _LEAST_ALIKE) else 0


def look_at_steps(obs: h5py.Dataset, next_obs: h5py.Dataset | None, count: int) -> Steps:
    """Return how the first `count` rows follow each other.

    Args:
        obs: the observations, (rows, coordinates).
        next_obs: those after the action, None where the file has none.
        count: rows to look at.
    """
    follows, distance = np.ones(count - 1, dtype=bool), np.zeros(count - 1, dtype=np.float32)
    lags, scale = np.zeros(2), None
    for start in range(0, count - 1, SHARD_ROWS):
        stop = min(start + SHARD_ROWS, count - 1)
        with np.errstate(over="ignore", invalid="ignore"):
            # the rows of this part, the following one, and the one after it where there is one
            here = obs[start : min(stop + 2, count)].astype(np.float32)
            if next_obs is None:
                scale = here.std(0) + 1e-12 if scale is None else scale
                step = (here[1 : stop - start + 1] - here[: stop - start]) / scale
                distance[start:stop] = np.linalg.norm(step, axis=1)
                continue
            after = next_obs[start:stop].astype(np.float32)
        # what is not finite is refused later, by its name
        unknown = ~(np.isfinite(after) & np.isfinite(here[1 : len(after) + 1]))
        follows[start:stop] = (unknown | (after == here[1 : len(after) + 1])).all(1)
        lags += (
            (after == here[: len(after)]).all(1).sum(),
            (after[: len(here) - 2] == here[2:]).all(1).sum(),
        )
    if next_obs is None:
        return Steps(None, distance)
    return Steps(follows, None, (lags[0] / max(count - 1, 1), lags[1] / max(count - 1, 1)))
