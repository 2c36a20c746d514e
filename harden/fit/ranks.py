"""Several devices, one process each: which rows are this one's, and what all of them agree on.

Every process does the whole of a job but for a gradient step's rows, which they split; so critics, dual and
targets are equal everywhere, and so are the multipliers, which step by averages over all rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from harden.errors import DivergedError, InputError

Columns = TypeVar("Columns", bound=NamedTuple)


def count() -> int:
    """Return how many processes fit together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is; the first one alone writes files."""
    return dist.get_rank() if count() > 1 else 0


def is_helper(devices: int) -> bool:
    """Return whether this process was begun by another one to help it fit; it begins and stores no run."""
    return devices > 1 and int(os.environ.get("LOCAL_RANK", "0")) > 0


def require_share(rows: int, devices: int, key: str) -> None:
    """Refuse rows that can't be split into equal parts: their averages would weigh them unequally.

    Raises:
        InputError: they can't.
    """
    if rows % devices:
        raise InputError(
            f"{key} = {rows} rows can't be split over {devices} devices", f"set it to a multiple of {devices}"
        )


def own_rows(columns: Columns) -> Columns:
    """Return this process's rows of equally long columns."""
    if count() == 1:
        return columns
    return type(columns)(*(column[rank() :: count()] for column in columns))


def average(value: Tensor) -> Tensor:
    """Return the mean over the processes, detached; alone, the value as it is."""
    if count() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count()


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        dist.barrier()


def require_agreement(values: Iterable[Tensor]) -> None:
    """Stop where processes that should be equal are not, before anything of that is stored.

    Raises:
        DivergedError: they differ.
    """
    if count() == 1:
        return
    mine = torch.cat([value.detach().double().flatten() for value in values])
    low, high = mine.clone(), mine.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    if not torch.equal(low, high):
        raise DivergedError(
            f"the devices disagree by {float((high - low).max()):.3g} on multipliers, dual or weights",
            "the last good state is kept: go on from it with --resume, on one device",
        )
