"""Random streams named by what they are for: a draw depends on its name and place, never on history.

A run that stops and goes on, or that is done by hand stage after stage, so draws the same numbers,
and there is no generator state to store beyond the counters.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, stream: str, *counters: int) -> int:
    """Return a 63-bit seed for one place of one stream of a run.

    Args:
        seed: the run's seed.
        stream: what the numbers are for, such as "particles".
        counters: where in the stream, such as the round.
    """
    text = repr((seed, stream, *counters)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def generator(device: torch.device | str, seed: int, stream: str, *counters: int) -> torch.Generator:
    """Return a torch generator for one place of one stream of a run."""
    return torch.Generator(device=device).manual_seed(derive(seed, stream, *counters))


def episode_seeds(seed: int, stream: str, first: int, count: int) -> np.ndarray:
    """Return the simulator's seeds of `count` episodes, the first of which has index `first`.

    Returns:
        int64 (count,), each below 2**32, which NumPy's legacy generator accepts.
    """
    return np.array([derive(seed, stream, i) % 2**32 for i in range(first, first + count)], dtype=np.int64)
