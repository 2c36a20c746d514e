"""What the networks share: ReLU layers, and the unit in which they take observations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


def relu_layers(inputs: int, hidden: Sequence[int]) -> list[nn.Module]:
    """Return linear layers of the given widths, each with a ReLU behind it."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([inputs, *hidden]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers


def rescaled(obs: Tensor, scale: float) -> Tensor:
    """Return observations in units of `scale`, (..., obs_dim).

    One number for all coordinates: divided by its own small spread, a coordinate that hardly varies would
    carry an attack of the whole radius into the network many times as large (docs/decisions.md).
    """
    return obs if scale == 1.0 else obs / scale
