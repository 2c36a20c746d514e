"""Whether a search found what is there: beside blind guesses, on the same states and by its own objective."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.attacks import Asked, Attack, PaperStrength, Strength, ball, perturb
from harden.nets import GaussianPolicy

_GUESSES = 256
# guesses at once, so that 500 states take no more memory than an attack
_TOGETHER = 32


def search_gain(
    attack: Attack,
    policy: GaussianPolicy,
    critics: Asked | None,
    obs: Tensor,
    epsilon: float | Sequence[float],
    strength: Strength | PaperStrength,
    generator: torch.Generator,
) -> dict[str, float]:
    """Return how far an attack raises its objective, and how far the best of 256 random corners does.

    Episodes that cost nothing under any attack tell none of them from another; this does on every policy.

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
            tried = clean + ball.sample_far(clean, radius, strength.norm, generator)
            value = objective(policy, critics, clean, tried).view(_TOGETHER, -1).amax(0)
            best = torch.maximum(best, value - before)
    return {"found": float(found.mean()), "guessed": float(best.mean())}
