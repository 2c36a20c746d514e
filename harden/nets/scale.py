"""The unit in which networks see observations."""

from __future__ import annotations

from torch import Tensor


def rescaled(obs: Tensor, scale: float) -> Tensor:
    """Return observations in units of `scale`, (..., obs_dim).

    One number for all coordinates: divided by its own small spread, a coordinate that hardly varies would
    carry an attack of the whole radius into the network many times as large (docs/decisions.md).
    """
    return obs if scale == 1.0 else obs / scale
