"""Attacks on observations: one row each, and `perturb` as the only way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.attacks import objectives, pgd
from harden.errors import InputError
from harden.nets import Critics, GaussianPolicy
from harden.ops import ball
from harden.ops.ball import Norm

Objective = Callable[[GaussianPolicy, Critics, Tensor, Tensor], Tensor]


class Attack(NamedTuple):
    """One attack.

    Args:
        name: how commands call it.
        summary: one line for a reader.
        objective: what it ascends; None draws from the ball at random.
    """

    name: str
    summary: str
    objective: Objective | None


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("random", "uniform noise in the ball", None),
        Attack("mc", "maximum cost: ascends Q_c", objectives.max_cost),
        Attack("mr", "maximum reward: ascends Q_r", objectives.max_reward),
    )
}


class Strength(NamedTuple):
    """How hard an attack tries.

    Args:
        steps: gradient steps from each start.
        restarts: random starts a state.
        step_share: length of the first step as a share of epsilon.
        norm: the ball's norm.
    """

    steps: int = 20
    restarts: int = 2
    step_share: float = 0.5
    norm: Norm = "linf"


def perturb(
    attack: Attack,
    policy: GaussianPolicy,
    critics: Critics | None,
    obs: Tensor,
    epsilon: float | Tensor,
    strength: Strength,
    generator: torch.Generator,
) -> Tensor:
    """Return attacked observations, inside the ball whatever the attack did.

    Args:
        attack: a row of ATTACKS.
        policy: the policy under attack; neither it nor the critics get gradients.
        critics: the critics that a gradient attack climbs; None is enough for noise.
        obs: clean observations, (B, obs_dim).
        epsilon: radius, a number or (obs_dim,), in raw observation units.
        strength: steps, restarts and norm.
        generator: the only source of randomness, on the observations' device.

    Returns:
        obs_adv, (B, obs_dim), detached.

    Raises:
        InputError: a gradient attack without critics.
    """
    obs = obs.detach()
    if isinstance(epsilon, float) and epsilon == 0.0:
        return obs
    radius = torch.as_tensor(epsilon, dtype=obs.dtype, device=obs.device)
    if attack.objective is None:
        obs_adv = obs + ball.sample(obs, radius, strength.norm, generator)
    else:
        if critics is None:
            raise InputError(
                f"attack '{attack.name}' climbs critics, and the policy brings none",
                "fit some with: harden fit-critics, or use --attack random",
            )
        objective, victim_critics = attack.objective, critics

        def climb(clean: Tensor, attacked: Tensor) -> Tensor:
            return objective(policy, victim_critics, clean, attacked)

        obs_adv = pgd.ascend(
            climb,
            obs,
            radius,
            steps=strength.steps,
            restarts=strength.restarts,
            step_share=strength.step_share,
            norm=strength.norm,
            generator=generator,
        )
    return obs + ball.project(obs_adv - obs, radius, strength.norm)
