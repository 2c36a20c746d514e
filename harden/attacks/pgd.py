"""Projected gradient ascent inside the ball, each state on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from harden.attacks import ball
from harden.attacks.ball import Norm
from harden.attacks.slopes import Slope, by_autograd

Starts = Literal["ball", "corners"]

# what a step is shortened by where its gradient turns; a start that moves by less of the radius stands
_TURN, _STANDS = 0.6, 0.01


def ascend(
    objective: Callable[[Tensor, Tensor], Tensor],
    obs: Tensor,
    epsilon: Tensor,
    *,
    steps: int,
    restarts: int,
    step_share: float,
    norm: Norm,
    generator: torch.Generator,
    starts: Starts = "ball",
    settles: bool = False,
    slope: Slope | None = None,
) -> Tensor:
    """Return for each state the best observation visited, the clean one included.

    Args:
        objective: (obs, obs_adv) to one value a row, to be maximised.
        obs: clean observations, (B, obs_dim).
        epsilon: radius, scalar or (obs_dim,), in raw observation units.
        steps: gradient steps from each start, at most.
        restarts: random starts a state.
        step_share: length of the first step as a share of epsilon; it falls linearly to a tenth of itself.
        starts: where from: anywhere in the ball, or its corners (for l2 its surface).
        settles: for linf, a coordinate's step is shortened instead where its gradient turns, and a start that
            hardly moves any more stops.
        slope: the objective's values and gradients, by autograd where not given.

    Returns:
        obs_adv, (B, obs_dim).

    Source: Algorithm 3; Riedmiller and Braun 1993 (Rprop) where it settles.
    Deviation: it steps along the plain gradient from one start, carried over, and stops early; here the sign
        counts, from fresh random starts, and the best point is kept by state (compared in docs/attacks.md).
    """
    slope, settles = slope or by_autograd(objective), settles and norm == "linf"
    clean = obs.repeat(restarts, 1)
    delta = (ball.sample if starts == "ball" else ball.sample_far)(clean, epsilon, norm, generator)
    with torch.no_grad():
        best_value = objective(obs, obs).repeat(restarts)
    best = torch.zeros_like(delta)
    # the starts that still move, their step lengths, and the gradients at the step before
    moving = torch.arange(len(delta), device=obs.device)
    length, before = step_share * epsilon.expand_as(delta), torch.zeros_like(delta)
    for step in range(steps + 1):
        if step == steps:
            with torch.no_grad():
                value = objective(clean, clean + delta)
        else:
            value, gradient = slope(clean, clean + delta)
        better = value > best_value[moving]
        improved = moving[better]
        best_value[improved], best[improved] = value[better], delta[better]
        if step == steps:
            break
        if settles:
            length = torch.where(gradient * before < 0.0, _TURN * length, length)
        else:
            length = step_share * (1.0 - 0.9 * step / max(steps - 1, 1)) * epsilon
        moved = ball.project(delta + ball.ascend(gradient, length, norm), epsilon, norm)
        if settles:
            goes = ((moved - delta).abs() > _STANDS * epsilon).any(1)
            if not goes.any():
                break
            moving, clean, moved = moving[goes], clean[goes], moved[goes]
            length, before = length[goes], gradient[goes]
        delta = moved
    winner = best_value.view(restarts, -1).argmax(0)
    rows = torch.arange(len(obs), device=obs.device)
    return obs + best.view(restarts, len(obs), -1)[winner, rows]
