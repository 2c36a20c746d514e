"""A damped Newton method for a convex function of two variables in a box, in plain floats on the host."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

_TINY = sys.float_info.min**0.5

Pair = tuple[float, float]


class Point(NamedTuple):
    """A function of x and y at one point, with its derivatives."""

    value: float
    by_x: float
    by_y: float
    by_xx: float
    by_xy: float
    by_yy: float


class Minimum(NamedTuple):
    """Where the function is lowest.

    Args:
        x, y: both variables.
        at: the function there.
        converged: whether each derivative is within its slack, or pushes against a bound.
    """

    x: float
    y: float
    at: Point
    converged: bool


def _clamp(value: float, low: float, high: float) -> float:
    return low if value < low else min(value, high)


def minimise(
    evaluate: Callable[[float, float], Point],
    start: Pair,
    *,
    low: Pair,
    high: Pair,
    ratio: float,
    slack: Pair,
    max_iterations: int,
) -> Minimum:
    """Minimise a convex function over a box.

    Args:
        evaluate: the function with its derivatives.
        start: where to begin, moved into the box.
        low, high: the box; x is positive in it.
        ratio: x changes by this factor at most in one step.
        slack: size of each derivative that counts as none; one that pushes against a bound does too.
        max_iterations: steps at most.
    """
    x, y = _clamp(start[0], low[0], high[0]), _clamp(start[1], low[1], high[1])
    at, damping, steps = evaluate(x, y), 1e-3, 0
    while True:
        x_held = (x <= low[0] and at.by_x > 0.0) or (x >= high[0] and at.by_x < 0.0)
        y_held = (y <= low[1] and at.by_y > 0.0) or (y >= high[1] and at.by_y < 0.0)
        converged = (x_held or abs(at.by_x) <= slack[0]) and (y_held or abs(at.by_y) <= slack[1])
        if converged or steps == max_iterations:
            return Minimum(x, y, at, converged)
        move_x, move_y = _newton_step(at, x_held, y_held, damping)
        new_x = _clamp(_clamp(x + move_x, x / ratio, x * ratio), low[0], high[0])
        new_y = _clamp(y + move_y, low[1], high[1])
        there = evaluate(new_x, new_y)
        # the last digits of a value are rounding
        better = there.value <= at.value + 1e-14 * abs(at.value)
        if better:
            x, y, at = new_x, new_y, there
        damping = _clamp(damping * (0.1 if better else 10.0), 1e-15, 1e15)
        steps += 1


def _newton_step(at: Point, x_held: bool, y_held: bool, damping: float) -> Pair:
    """Return the damped Newton step of what no bound holds (Levenberg and Marquardt), by Cramer's rule."""
    by_x, by_y = 0.0 if x_held else at.by_x, 0.0 if y_held else at.by_y
    # rounding can leave a curvature of nothing below zero
    by_xx = 1.0 if x_held else max(at.by_xx, 0.0) * (1.0 + damping) + _TINY
    by_yy = 1.0 if y_held else max(at.by_yy, 0.0) * (1.0 + damping) + _TINY
    by_xy = 0.0 if x_held or y_held else at.by_xy
    determinant = max(by_xx * by_yy - by_xy * by_xy, _TINY * _TINY)
    return (by_xy * by_y - by_yy * by_x) / determinant, (by_xy * by_x - by_xx * by_y) / determinant
