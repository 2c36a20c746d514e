"""The attacks: one row each, and what they ascend: one function each, one value a state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from harden.attacks import ball
from harden.attacks.ball import Norm
from harden.nets import Critics, GaussianPolicy, gaussian

# the critics are None for an objective that asks none
Objective = Callable[[GaussianPolicy, Any, Tensor, Tensor], Tensor]
Noise = Callable[[Tensor, Tensor, Norm, torch.Generator], Tensor]


def max_cost(policy: GaussianPolicy, critics: Critics, obs: Tensor, obs_adv: Tensor) -> Tensor:
    """Return Q_c(s, pi(nu(s))): the critic sees the clean observation, the policy the attacked one.

    Args:
        obs, obs_adv: (B, obs_dim).

    Returns:
        (B,), to be maximised.

    Source: Eq. 68 and Algorithm 3, with Q = Q_c.
    Deviation: they print a minus sign, which descends.
    """
    return critics.q_cost(obs, policy.mean(obs_adv))


def max_reward(policy: GaussianPolicy, critics: Critics, obs: Tensor, obs_adv: Tensor) -> Tensor:
    """Return Q_r(s, pi(nu(s))), to be maximised: a tempting policy is an unsafe one.

    Args, Returns: as in `max_cost`.

    Source: Eq. 68 and Algorithm 3, with Q = Q_r.
    Deviation: they print a minus sign, which descends.
    """
    return critics.q_reward(obs, policy.mean(obs_adv))


def min_reward(policy: GaussianPolicy, critics: Critics, obs: Tensor, obs_adv: Tensor) -> Tensor:
    """Return -Q_r(s, pi(nu(s))), to be maximised: the attack that robust RL without costs is measured by.

    Args, Returns: as in `max_cost`.
    """
    return -critics.q_reward(obs, policy.mean(obs_adv))


def action_difference(
    policy: GaussianPolicy, critics: Critics | None, obs: Tensor, obs_adv: Tensor
) -> Tensor:
    """Return KL(pi(.|s) || pi(.|nu(s))), to be maximised; it asks no critic, and is flat where nu(s) = s.

    Args, Returns: as in `max_cost`.

    Source: Zhang et al. 2020 (SA-MDP), section 4 (MAD).
    """
    return gaussian.kl(*policy(obs), *policy(obs_adv))


class Attack(NamedTuple):
    """One attack: noise, the ascent of an objective, or the best of other attacks.

    Args:
        name: how commands call it.
        summary: one line for a reader.
        objective: what it maximises, state by state.
        noise: what draws its perturbations where it has no objective.
        critics: whose critics it needs: the policy's own, independently trained ones, those of an adversary
            that learned to plan, or none.
        style: its own way to search, as evaluation files call it; unset, it climbs in the style asked.
        fresh_start: no gradient at the clean observation, so that every style draws a start.
        gated: it leaves a state alone whose clean Q_c is below a threshold.
        plays: it plays an adversary that was found beforehand.
        candidates: names of the attacks of which it takes the best by its objective.
        aim: what it should raise or lower in an episode, with the sign; checks compare it with noise by this.
    """

    name: str
    summary: str
    objective: Objective | None = None
    noise: Noise | None = None
    critics: Literal["own", "independent", "learned"] | None = None
    style: str | None = None
    fresh_start: bool = False
    gated: bool = False
    plays: bool = False
    candidates: tuple[str, ...] = ()
    aim: tuple[Literal["cost", "reward"], int] | None = None

    @property
    def climbs(self) -> bool:
        """Whether it follows a gradient, or takes the best of some that do."""
        return self.style is None


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        Attack("random", "uniform noise in the ball", noise=ball.sample, style="uniform"),
        Attack(
            "gaussian",
            "Gaussian noise of deviation epsilon, projected onto the ball",
            noise=ball.sample_gaussian,
            style="gaussian",
        ),
        Attack("mc", "maximum cost: ascends Q_c", max_cost, critics="own", aim=("cost", 1)),
        Attack("mr", "maximum reward: ascends Q_r", max_reward, critics="own", aim=("reward", 1)),
        Attack(
            "mad",
            "maximal action difference: ascends KL(pi(.|s) || pi(.|nu(s)))",
            action_difference,
            fresh_start=True,
        ),
        Attack(
            "amad",
            "adaptive mad: only in the states with the highest Q_c",
            action_difference,
            critics="own",
            fresh_start=True,
            gated=True,
        ),
        Attack(
            "min-reward",
            "minimum reward: descends Q_r",
            min_reward,
            critics="own",
            aim=("reward", -1),
        ),
        Attack(
            "black-box",
            "maximum cost without gradients: a search that asks for values of Q_c",
            max_cost,
            critics="own",
            style="evolution",
            aim=("cost", 1),
        ),
        Attack(
            "critic-free",
            "maximum cost without critics: a linear adversary, chosen by the simulator's cost of whole "
            "episodes",
            plays=True,
            style="episodes",
            aim=("cost", 1),
        ),
        Attack(
            "learned",
            "an adversary trained to maximise cost that plans: mc on Q_c of the future under its own attack",
            max_cost,
            critics="learned",
            aim=("cost", 1),
        ),
        Attack(
            "mc-independent",
            "mc on critics trained independently of the policy's own",
            max_cost,
            critics="independent",
            aim=("cost", 1),
        ),
        Attack(
            "mr-independent",
            "mr on critics trained independently of the policy's own",
            max_reward,
            critics="independent",
            aim=("reward", 1),
        ),
        Attack(
            "combined",
            "state by state the one with the highest Q_c of: both noises, mc, mr, mad, min-reward, black-box",
            max_cost,
            critics="own",
            candidates=("random", "gaussian", "mc", "mr", "mad", "min-reward", "black-box"),
            aim=("cost", 1),
        ),
    )
}
