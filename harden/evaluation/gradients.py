"""Whether an attack's gradient leads anywhere: of all signs of a weak attack the one that needs no other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.attacks import Asked, Attack, ball
from harden.attacks.ball import Norm
from harden.nets import GaussianPolicy

# a first-order gain within the ball below this share of the objective's value is rounding
_FLAT = 1e-5
# points of the ball asked, and the share of half an action's range from which on it counts as moved
_POINTS = 5
_MOVES = 0.01


def flat_share(
    attack: Attack,
    policy: GaussianPolicy,
    critics: Asked | None,
    obs: Tensor,
    epsilon: float | Sequence[float],
    norm: Norm,
    generator: torch.Generator,
) -> float:
    """Return the share of states in which an attack's gradient promises it nothing, although actions move.

    Where no perturbation moves the action there is nothing to be found, and nothing is wrong.

    Args:
        attack: with an objective.
        policy, critics: as in `perturb`.
        obs: states, (N, obs_dim).
        epsilon: radius, raw observation units, one number or one a coordinate.
        norm: the ball's.
        generator: draws the points of the ball at which each state's gradient is taken.
    """
    assert attack.objective is not None
    radius = torch.as_tensor(epsilon, dtype=obs.dtype, device=obs.device)
    clean = obs.repeat(_POINTS, 1)
    delta = ball.sample(clean, radius, norm, generator).requires_grad_()
    value = attack.objective(policy, critics, clean, clean + delta)
    (gradient,) = torch.autograd.grad(value.sum(), delta)
    with torch.no_grad():
        gain = (gradient * radius).norm(p=1 if norm == "linf" else 2, dim=1)
        flat = gain <= _FLAT * value.abs()
        move = (policy.mean(clean + delta) - policy.mean(clean)).abs() / policy.half_range
        movable = move.amax(1) > _MOVES
        nothing = flat.view(_POINTS, -1).all(0) & movable.view(_POINTS, -1).any(0)
    return int(nothing.sum()) / len(obs)
