"""A part of a data set drawn at random, for what is larger than memory."""

from __future__ import annotations

import torch

from harden.data.dataset import Dataset
from harden.types import Transitions

# rows read in one piece: several episodes' worth, or a disk would spend its time seeking (docs/decisions.md)
BLOCK_ROWS = 1000


def draw_rows(dataset: Dataset, rows: int, draw: torch.Generator) -> Transitions:
    """Read stretches of a data set at random places, in their order; all of it where it is no larger.

    Args:
        dataset: may be far larger than memory.
        rows: how many, to the next whole stretch.
        draw: the only source of randomness.

    Returns:
        Transitions whose stretches end as by a time limit: what follows in the file is not there.

    Raises:
        DamagedFileError: a shard is damaged.
    """
    if len(dataset) <= rows:
        return dataset.read(0, len(dataset))
    blocks = -(-len(dataset) // BLOCK_ROWS)
    chosen = torch.randperm(blocks, generator=draw)[: -(-rows // BLOCK_ROWS)].sort().values.tolist()
    parts = []
    for block in chosen:
        part = dataset.read(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, len(dataset)))
        part.timeouts[-1] = ~part.terminals[-1]
        parts.append(part)
    return Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
