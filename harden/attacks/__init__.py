"""Attacks on observations: one row each, and `perturb` as the only way in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.attacks import adam, objectives, pgd
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

    @property
    def style(self) -> str:
        """Return what evaluation files call it."""
        return "pgd"


class PaperStrength(NamedTuple):
    """The authors' way to attack, to set numbers beside the paper's; never stronger than PGD where tried.

    Args:
        steps: Adam's iterations at most.
        rate: its learning rate, raw observation units.
        stop_value, stop_move: tolerances of the stop rule; zero never stops.
        norm: the ball's norm.
    """

    steps: int = 200
    rate: float = 0.2
    stop_value: float = 1e-4
    stop_move: float = 1e-4
    norm: Norm = "linf"

    @property
    def style(self) -> str:
        """Return what evaluation files call it."""
        return "paper"

    @property
    def restarts(self) -> int:
        """Return how many starts a state gets."""
        return 1


def perturb(
    attack: Attack,
    policy: GaussianPolicy,
    critics: Critics | None,
    obs: Tensor,
    epsilon: float | Tensor,
    strength: Strength | PaperStrength,
    generator: torch.Generator,
    start: Tensor | None = None,
) -> Tensor:
    """Return attacked observations, inside the ball whatever the attack did.

    Args:
        attack: a row of ATTACKS.
        policy: the policy under attack; neither it nor the critics get gradients.
        critics: the critics that a gradient attack climbs; None is enough for noise.
        obs: clean observations, (B, obs_dim).
        epsilon: radius, a number or (obs_dim,), in raw observation units.
        strength: how a gradient attack climbs, and the norm.
        generator: the only source of randomness, on the observations' device.
        start: (B, obs_dim), the perturbation that the paper's style begins from, none where not given.

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
                "fit them first with: harden fit-critics --policy FOLDER, or use --attack random",
            )
        objective, victim_critics = attack.objective, critics

        def climb(clean: Tensor, attacked: Tensor) -> Tensor:
            return objective(policy, victim_critics, clean, attacked)

        if isinstance(strength, PaperStrength):
            start = torch.zeros_like(obs) if start is None else start
            obs_adv = adam.ascend(climb, obs, radius, start, **strength._asdict())
        else:
            obs_adv = pgd.ascend(climb, obs, radius, generator=generator, **strength._asdict())
    return obs + ball.project(obs_adv - obs, radius, strength.norm)
