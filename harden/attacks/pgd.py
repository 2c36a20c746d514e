"""Projected gradient ascent inside the ball, each state on its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from harden.attacks import ball
from harden.attacks.ball import Norm

Starts = Literal["ball", "corners"]


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
) -> Tensor:
    """Return for each state the best observation visited, the clean one included.

    Args:
        objective: (obs, obs_adv) to one value a row, to be maximised.
        obs: clean observations, (B, obs_dim).
        epsilon: radius, scalar or (obs_dim,), in raw observation units.
        steps: gradient steps from each start.
        restarts: random starts a state.
        step_share: length of the first step as a share of epsilon; it falls linearly to a tenth of itself.
        starts: where from: anywhere in the ball, or its corners (for l2 its surface).

    Returns:
        obs_adv, (B, obs_dim).

    Source: Algorithm 3.
    Deviation: it steps along the plain gradient from one start, carried over, and stops early; here the sign
        counts, from fresh random starts, and the best point is kept by state (compared in docs/attacks.md).
    """
    clean = obs.repeat(restarts, 1)
    delta = (ball.sample if starts == "ball" else ball.sample_far)(clean, epsilon, norm, generator)
    with torch.no_grad():
        best_value = objective(obs, obs).repeat(restarts)
    best = torch.zeros_like(delta)
    for step in range(steps + 1):
        last = step == steps
        delta = delta.detach().requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            value = objective(clean, clean + delta)
            # the sum keeps states apart, and only the perturbation gets a gradient
            total = value.sum()
        improved = value.detach() > best_value
        best_value = torch.where(improved, value.detach(), best_value)
        best = torch.where(improved.unsqueeze(1), delta.detach(), best)
        if last:
            break
        (gradient,) = torch.autograd.grad(total, delta)
        length = step_share * (1.0 - 0.9 * step / max(steps - 1, 1)) * epsilon
        delta = ball.project(delta.detach() + ball.ascend(gradient, length, norm), epsilon, norm)
    if restarts == 1:
        return obs + best
    winner = best_value.view(restarts, -1).argmax(0)
    rows = torch.arange(len(obs), device=obs.device)
    return obs + best.view(restarts, len(obs), -1)[winner, rows]
