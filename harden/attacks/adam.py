"""The authors' attack: Adam's ascent from one start that is carried along the episode."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.attacks import ball
from harden.attacks.ball import Norm
from harden.attacks.slopes import Slope

_DECAY, _DECAY_SQUARE, _TINY = 0.9, 0.999, 1e-8


def ascend(
    slope: Slope,
    obs: Tensor,
    epsilon: Tensor,
    start: Tensor,
    *,
    steps: int,
    rate: float,
    stop_value: float,
    stop_move: float,
    norm: Norm,
) -> Tensor:
    """Return for each state the last observation reached, as the authors' attacker does.

    Args:
        slope, obs, epsilon, norm: as in `pgd.ascend`.
        start: perturbation to begin from, (B, obs_dim): the one that the state before got.
        steps: iterations at most.
        rate: Adam's learning rate, in raw observation units.
        stop_value, stop_move: a state stops where its value and its perturbation (l2) changed by less than
            these; zero never stops.

    Returns:
        obs_adv, (B, obs_dim).

    Source: Algorithm 3, with the settings of B.3 (rate 0.2, 200 steps).
    Deviation: each state stops on its own, where the authors attack one at a time; the sign ascends.
    """
    delta = ball.project(start, epsilon, norm)
    first, second = torch.zeros_like(delta), torch.zeros_like(delta)
    going = torch.ones_like(delta[:, :1], dtype=torch.bool)
    before = torch.full_like(delta[:, 0], float("inf"))
    moved = torch.full_like(before, float("inf"))
    for step in range(1, steps + 1):
        value, gradient = slope(obs, obs + delta)
        # the value reached by a move is known when the next gradient is: the test comes one step later
        settled = ((value - before).abs() < stop_value) & (moved < stop_move)
        going = going & ~settled.unsqueeze(1)
        if not going.any():
            break
        first = _DECAY * first + (1 - _DECAY) * gradient
        second = _DECAY_SQUARE * second + (1 - _DECAY_SQUARE) * gradient.square()
        scale = (second / (1 - _DECAY_SQUARE**step)).sqrt() + _TINY
        stepped = delta + rate * first / (1 - _DECAY**step) / scale
        moving = torch.where(going, ball.project(stepped, epsilon, norm), delta)
        moved, before = (moving - delta).norm(dim=1), value
        delta = moving
    return obs + delta
