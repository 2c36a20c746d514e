"""A damped Newton method for a convex function of two variables in a box, on the host or on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

# a float on the host, a 0-d float64 tensor on a GPU
Scalar: TypeAlias = Any
Pair: TypeAlias = Sequence[Scalar]

_TINY = torch.finfo(torch.float64).tiny ** 0.5


class Point(NamedTuple):
    """A function of x and y at one point, with its derivatives."""

    value: Scalar
    by_x: Scalar
    by_y: Scalar
    by_xx: Scalar
    by_xy: Scalar
    by_yy: Scalar


class Minimum(NamedTuple):
    """Where the function is lowest.

    Args:
        x: float64 (2,), both variables.
        gradient: float64 (2,), there.
        converged: bool.
    """

    x: Tensor
    gradient: Tensor
    converged: Tensor


class Arithmetic(NamedTuple):
    """What the search computes with: floats on the host, 0-d tensors on a GPU.

    On the host a float's operation takes a hundredth of a tensor's, on a GPU nothing may wait for the host:
    the search is written once, over what both can do.

    Args:
        read: a tensor's numbers as scalars.
        write: scalars as one float64 tensor.
        pick: pick(condition, a, b) is a where the condition holds, else b.
        asks: whether a condition may be looked at.
    """

    read: Callable[[Tensor], Sequence[Scalar]]
    write: Callable[[Sequence[Scalar]], Tensor]
    pick: Callable[[Scalar, Scalar, Scalar], Scalar]
    asks: bool

    def clamp(self, value: Scalar, low: Scalar, high: Scalar) -> Scalar:
        """Return the value, held between two others."""
        return self.pick(value < low, low, self.pick(value > high, high, value))


HOST = Arithmetic(
    read=Tensor.tolist,
    write=lambda scalars: torch.tensor(scalars, dtype=torch.float64),
    pick=lambda condition, a, b: a if condition else b,
    asks=True,
)
DEVICE = Arithmetic(
    read=Tensor.unbind,
    write=lambda scalars: torch.stack([scalar.double() for scalar in scalars]),
    pick=torch.where,
    asks=False,
)


def arithmetic_on(device: torch.device) -> Arithmetic:
    """Return what suits the device that the function is evaluated on."""
    return HOST if device.type == "cpu" else DEVICE


def minimise(
    look: Callable[[Scalar, Scalar], Point],
    start: Pair,
    *,
    low: Pair,
    high: Pair,
    ratio: float,
    slack: tuple[float, float],
    max_iterations: int,
    how: Arithmetic,
) -> Minimum:
    """Minimise a convex function over a box.

    There is no decision on the host on a GPU: a point that has converged stays as it is, so that the early
    exit taken on the host, where asking costs nothing, changes no bit.

    Args:
        look: the function with its derivatives, in the scalars of `how`.
        start: where to begin, moved into the box.
        low, high: the box; x is positive in it.
        ratio: x changes by this factor at most in one step.
        slack: size of each derivative that counts as none; one that pushes against a bound does too.
        max_iterations: steps at most.
        how: the arithmetic.
    """

    def within(x: Scalar, y: Scalar) -> Pair:
        return how.clamp(x, low[0], high[0]), how.clamp(y, low[1], high[1])

    x, y = within(*start)
    at, damping, done = look(x, y), x * 0.0 + 1e-3, x < low[0]
    for _ in range(max_iterations):
        x_held = ((x <= low[0]) & (at.by_x > 0.0)) | ((x >= high[0]) & (at.by_x < 0.0))
        y_held = ((y <= low[1]) & (at.by_y > 0.0)) | ((y >= high[1]) & (at.by_y < 0.0))
        x_done, y_done = x_held | (abs(at.by_x) <= slack[0]), y_held | (abs(at.by_y) <= slack[1])
        done = done | (x_done & y_done)
        if how.asks and done:
            break
        move_x, move_y = _move(at, x_held, y_held, damping, how)
        new_x, new_y = within(how.clamp(x + move_x, x / ratio, x * ratio), y + move_y)
        there = look(new_x, new_y)
        better = (there.value <= at.value + 1e-14 * abs(at.value)) & (done ^ True)
        x, y = how.pick(better, new_x, x), how.pick(better, new_y, y)
        at = Point(*(how.pick(better, new, old) for new, old in zip(there, at, strict=True)))
        damping = how.clamp(how.pick(better, damping * 0.1, damping * 10.0), 1e-15, 1e15)
    return Minimum(how.write((x, y)), how.write((at.by_x, at.by_y)), how.write((done,))[0] > 0.0)


def _move(at: Point, x_held: Scalar, y_held: Scalar, damping: Scalar, how: Arithmetic) -> Pair:
    """Return the damped Newton step of what no bound holds (Levenberg and Marquardt), by Cramer's rule."""
    pick = how.pick
    by_x, by_y = pick(x_held, 0.0, at.by_x), pick(y_held, 0.0, at.by_y)
    # rounding can leave a curvature of nothing below zero
    by_xx = pick(x_held, 1.0, pick(at.by_xx < 0.0, 0.0, at.by_xx) * (1.0 + damping) + _TINY)
    by_yy = pick(y_held, 1.0, pick(at.by_yy < 0.0, 0.0, at.by_yy) * (1.0 + damping) + _TINY)
    by_xy = pick(x_held | y_held, 0.0, at.by_xy)
    determinant = by_xx * by_yy - by_xy * by_xy
    determinant = pick(determinant < _TINY * _TINY, _TINY * _TINY, determinant)
    return (by_xy * by_y - by_yy * by_x) / determinant, (by_xy * by_x - by_xx * by_y) / determinant
