"""How well an attack searched, judged state by state: its gradient, and its gain beside random guesses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.attacks import Attack, AttackModel, PaperStrength, Strength, ball, perturb
from harden.attacks.ball import Norm
from harden.nets import GaussianPolicy

# a first-order gain within the ball below this share of the objective's value is rounding
_FLAT = 1e-5
# perturbations at which a gradient is taken; an action that moves by this share of half its range has moved
_POINTS, _MOVES = 5, 0.01
# random guesses in all, and at once, so that 500 states take no more memory than an attack
_GUESSES, _TOGETHER = 256, 32


def flat_share(
    attack: Attack,
    policy: GaussianPolicy,
    critics: AttackModel | None,
    obs: Tensor,
    epsilon: float | Sequence[float],
    norm: Norm,
    generator: torch.Generator,
) -> float:
    """Return the share of states in which an attack's gradient vanishes although the action can be moved.

    Args:
        attack: with an objective.
        policy, critics: as in `perturb`.
        obs: states, (N, obs_dim).
        epsilon: radius, raw observation units, one number or one a coordinate.
        norm: the ball's.
        generator: draws the perturbations at which each state's gradient is taken.
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
        vanished = flat.view(_POINTS, -1).all(0) & movable.view(_POINTS, -1).any(0)
    return int(vanished.sum()) / len(obs)


def search_gain(
    attack: Attack,
    policy: GaussianPolicy,
    critics: AttackModel | None,
    obs: Tensor,
    epsilon: float | Sequence[float],
    strength: Strength | PaperStrength,
    generator: torch.Generator,
) -> dict[str, float]:
    """Return how far an attack raises its objective, and how far the best of 256 random corners does.

    Args:
        attack: with an objective.
        policy, critics, epsilon, strength: as in `perturb`.
        obs: states, (N, obs_dim).
        generator: of the attack and the guesses.

    Returns:
        {"found", "guessed"}: means over the states, above the clean observation's value.
    """
    objective = attack.objective
    assert objective is not None
    radius = torch.as_tensor(epsilon, dtype=obs.dtype, device=obs.device)
    attacked = perturb(attack, policy, critics, obs, epsilon, strength, generator)
    with torch.no_grad():
        before = objective(policy, critics, obs, obs)
        found = objective(policy, critics, obs, attacked) - before
        best = torch.zeros_like(before)
        clean = obs.repeat(_TOGETHER, 1)
        for _ in range(_GUESSES // _TOGETHER):
            guesses = clean + ball.sample_far(clean, radius, strength.norm, generator)
            value = objective(policy, critics, clean, guesses).view(_TOGETHER, -1).amax(0)
            best = torch.maximum(best, value - before)
    return {"found": float(found.mean()), "guessed": float(best.mean())}
