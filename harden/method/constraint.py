"""Constraints as values: a multiplier, its bound, and one projected gradient step."""

from __future__ import annotations

from torch import Tensor


def step_multiplier(beta: Tensor, value: Tensor, bound: Tensor, rate: float, ceiling: float) -> Tensor:
    """Move a multiplier against its constraint's slack and keep it within [0, ceiling].

    Args:
        beta: the multiplier, any shape.
        value: the constrained quantity now, same shape; its gradient is not used.
        bound: what the quantity may be at most, same shape.
        rate: the step size.
        ceiling: the highest multiplier allowed.

    Returns:
        The new multiplier.

    Source: Eq. 64 and 65.
    """
    return (beta - rate * (bound - value.detach())).clamp(0.0, ceiling)
