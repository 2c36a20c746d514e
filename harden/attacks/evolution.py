"""A search without gradients: mutations of the best perturbation so far, kept where they are better."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harden.attacks import ball
from harden.attacks.ball import Norm

_OFFSPRING = 16
# a mutation's length as a share of epsilon, first and last
_FIRST, _LAST = 2.0, 0.1


@torch.no_grad()
def search(
    objective: Callable[[Tensor, Tensor], Tensor],
    obs: Tensor,
    epsilon: Tensor,
    *,
    queries: int,
    norm: Norm,
    generator: torch.Generator,
) -> Tensor:
    """Return for each state the best observation that was tried, the clean one included.

    Each generation mutates a random share of the best one's coordinates; the share falls from all of them
    to one, as the squares do in the search that it is after.

    Args:
        objective, obs, epsilon, norm, generator: as in `pgd.ascend`; only the objective's values are used.
        queries: values asked for a state, the clean one's included.

    Returns:
        obs_adv, (B, obs_dim).

    Source: Andriushchenko et al. 2020 (Square Attack).
    Deviation: observations have no neighbouring pixels: coordinates change, not squares of them, by Gaussian
        steps, and sixteen mutations are asked for at a time.
    """
    states, size = obs.shape
    rows = torch.arange(states, device=obs.device)
    best, best_value = torch.zeros_like(obs), objective(obs, obs)
    generations = -(-(queries - 1) // _OFFSPRING)
    for generation in range(generations):
        count = min(_OFFSPRING, queries - 1 - generation * _OFFSPRING)
        left = 1.0 - generation / generations
        shape = (states, count, size)
        order = torch.rand(shape, generator=generator, dtype=obs.dtype, device=obs.device)
        # at least one coordinate: the one whose number is the lowest
        chosen = (order < left**2) | (order == order.amin(-1, keepdim=True))
        step = torch.randn(shape, generator=generator, dtype=obs.dtype, device=obs.device)
        length = (_LAST + (_FIRST - _LAST) * left) * epsilon
        tried = ball.project(best.unsqueeze(1) + torch.where(chosen, step * length, 0.0), epsilon, norm)
        clean = obs.unsqueeze(1).expand(shape)
        value = objective(clean.flatten(0, 1), (clean + tried).flatten(0, 1)).view(states, count)
        highest, winner = value.max(1)
        best = torch.where((highest > best_value).unsqueeze(1), tried[rows, winner], best)
        best_value = torch.maximum(highest, best_value)
    return obs + best
