"""Attacks on observations: the rows of config/attacks.py, and `perturb` as the only way in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harden.attacks import adam, ball, evolution, pgd, slopes
from harden.attacks.ball import Norm
from harden.attacks.linear import LinearAdversary
from harden.attacks.objectives import OBJECTIVES
from harden.attacks.pgd import Starts
from harden.config.attacks import ATTACKS, Attack
from harden.errors import InputError
from harden.nets import Critics, GaussianPolicy
from harden.seeds import generator

# what an attack may need beside the policy
AttackModel = Critics | LinearAdversary

__all__ = [
    "ATTACKS",
    "OBJECTIVES",
    "Attack",
    "AttackModel",
    "LinearAdversary",
    "PaperStrength",
    "Strength",
    "attack_stream",
    "perturb",
    "require_critics",
    "require_ready",
    "risk_threshold",
]

_NOISES = {noise.__name__: noise for noise in (ball.sample, ball.sample_gaussian)}


class Strength(NamedTuple):
    """How hard an attack tries.

    Args:
        steps: gradient steps from each start.
        restarts: random starts a state.
        step_share: length of the first step as a share of epsilon.
        norm: the ball's norm.
        queries: values that a gradient-free attack asks for a state.
        starts: "ball" or "corners": where gradients climb from.
        settles: a trial's way: starts stop early (`pgd.ascend`), gradients are written out where possible.
            Training takes too few steps for that.
    """

    steps: int = 20
    restarts: int = 2
    step_share: float = 0.5
    norm: Norm = "linf"
    queries: int = 400
    starts: Starts = "ball"
    settles: bool = False

    @property
    def style(self) -> str:
        """What evaluation files call it."""
        return "pgd"


class PaperStrength(NamedTuple):
    """The authors' way to attack, to set numbers beside the paper's; never stronger than PGD where tried.

    Args:
        steps: Adam's iterations at most.
        rate: its learning rate, raw observation units.
        stop_value, stop_move: tolerances of the stop rule; zero never stops.
        norm: the ball's norm.
        queries: as in Strength.
    """

    steps: int = 200
    rate: float = 0.2
    stop_value: float = 1e-4
    stop_move: float = 1e-4
    norm: Norm = "linf"
    queries: int = 400

    @property
    def style(self) -> str:
        """What evaluation files call it."""
        return "paper"

    @property
    def restarts(self) -> int:
        """Starts a state."""
        return 1


def attack_stream(device: torch.device | str, seed: int, name: str, *index: int) -> torch.Generator:
    """Return the random numbers that an attack of this name draws from."""
    return generator(device, seed, f"attack-{name}", *index)


def require_critics(attack: Attack, critics: AttackModel | None) -> None:
    """Refuse an attack that asks critics where there are none, or plays an adversary that is not there.

    Critics that an attack does not ask are no fault, because a policy brings them along; an adversary that it
    does not play is one.

    Raises:
        InputError: what is missing, or that the adversary is not the attack's.
    """
    if attack.plays != isinstance(critics, LinearAdversary):
        lack = "an adversary, and none is given" if attack.plays else "no adversary, and one is given"
        remedy = "harden evaluate finds the one of critic-free; harden.evaluation.adversaries does in Python"
        raise InputError(f"attack '{attack.name}' plays {lack}", remedy)
    if attack.critics is not None and critics is None:
        fit = "fit them first with: harden fit-critics -p PIPELINE --policy FOLDER, or use --attack random"
        remedy = fit if attack.critics == "own" else "harden evaluate fits some"
        raise InputError(
            f"attack '{attack.name}' climbs {attack.critics} critics, and none are given", remedy
        )


def require_ready(attack: Attack, critics: AttackModel | None, threshold: float | None) -> None:
    """Refuse an attack that lacks something, or that would ignore what it is given.

    Raises:
        InputError: as `require_critics`; the threshold that gates the attack is missing, or one is given to
            an attack that acts everywhere.
    """
    require_critics(attack, critics)
    if attack.gated and threshold is None:
        raise InputError(
            f"attack '{attack.name}' needs to know from which Q_c on it acts",
            "give it a threshold, such as harden.attacks.risk_threshold makes of natural states",
        )
    if threshold is not None and not attack.gated:
        acts = f"attack '{attack.name}' acts in every state, and the threshold {threshold:g} is given"
        raise InputError(acts, "leave it out")


@torch.no_grad()
def risk_threshold(policy: GaussianPolicy, critics: Critics, obs: Tensor, share: float) -> float:
    """Return the Q_c above which a share of the given states lies: where a gated attack is to act.

    Args:
        obs: states that the policy visits when it is not attacked, (N, obs_dim).
        share: of them, in [0, 1].
    """
    return float(torch.quantile(critics.q_cost(obs, policy.mean(obs)).double(), 1.0 - share))


def perturb(
    attack: Attack,
    policy: GaussianPolicy,
    critics: AttackModel | None,
    obs: Tensor,
    epsilon: float | Sequence[float] | Tensor,
    strength: Strength | PaperStrength,
    generator: torch.Generator,
    start: Tensor | None = None,
    threshold: float | None = None,
) -> Tensor:
    """Return attacked observations, inside the ball whatever the attack did.

    Args:
        attack: a row of ATTACKS.
        policy: under attack; neither it nor the critics get gradients.
        critics: the critics that the attack asks, or the adversary that it plays.
        obs: clean observations, (B, obs_dim).
        epsilon: radius, one number or one a coordinate, in raw observation units.
        generator: on the observations' device.
        start: (B, obs_dim), the perturbation of the state before, from which the paper's style climbs on.
        threshold: clean Q_c below which a gated attack does nothing (`risk_threshold`); for no other attack.

    Returns:
        obs_adv, (B, obs_dim), detached.

    Raises:
        InputError: what is given is not what the attack needs (`require_ready`).
    """
    require_ready(attack, critics, threshold)
    obs = obs.detach()
    if isinstance(epsilon, float) and epsilon == 0.0:
        return obs
    radius = torch.as_tensor(epsilon, dtype=obs.dtype, device=obs.device)
    if attack.noise is not None:
        obs_adv = obs + _NOISES[attack.noise](obs, radius, strength.norm, generator)
    elif attack.plays:
        assert isinstance(critics, LinearAdversary)
        obs_adv = obs + critics.perturbation(obs, radius, strength.norm)
    elif attack.candidates:
        tried = [
            perturb(ATTACKS[name], policy, critics, obs, epsilon, strength, generator, start)
            for name in attack.candidates
        ]
        obs_adv = _best(attack, policy, critics, obs, tried)
    else:
        obs_adv = _search(attack, policy, critics, obs, radius, strength, generator, start)
    if attack.gated and isinstance(critics, Critics) and threshold is not None:
        with torch.no_grad():
            risky = critics.q_cost(obs, policy.mean(obs)) >= threshold
        obs_adv = torch.where(risky.unsqueeze(1), obs_adv, obs)
    return obs + ball.project(obs_adv - obs, radius, strength.norm)


def _search(
    attack: Attack,
    policy: GaussianPolicy,
    critics: AttackModel | None,
    obs: Tensor,
    radius: Tensor,
    strength: Strength | PaperStrength,
    generator: torch.Generator,
    start: Tensor | None,
) -> Tensor:
    """Return what the search for one objective's maximum found, (B, obs_dim)."""
    assert attack.objective is not None
    objective, norm = OBJECTIVES[attack.objective], strength.norm

    def value(clean: Tensor, attacked: Tensor) -> Tensor:
        return objective(policy, critics, clean, attacked)

    # somebody else's policy may give no gradient: then values have to do
    if not (attack.climbs and policy.differentiable):
        return evolution.search(value, obs, radius, queries=strength.queries, norm=norm, generator=generator)
    options = {key: option for key, option in strength._asdict().items() if key != "queries"}
    trial = isinstance(strength, PaperStrength) or strength.settles
    written = slopes.written_out(objective, policy, critics, obs) if trial else None
    slope = written or slopes.by_autograd(value)
    if isinstance(strength, Strength):
        return pgd.ascend(value, obs, radius, generator=generator, slope=slope, **options)
    if attack.fresh_start:
        start = ball.sample(obs, radius, norm, generator)
    return adam.ascend(slope, obs, radius, torch.zeros_like(obs) if start is None else start, **options)


@torch.no_grad()
def _best(
    attack: Attack, policy: GaussianPolicy, critics: AttackModel | None, obs: Tensor, tried: list[Tensor]
) -> Tensor:
    """Return state by state the candidate with the highest objective, the clean observation among them."""
    assert attack.objective is not None
    objective = OBJECTIVES[attack.objective]
    candidates = torch.stack([obs, *tried])
    values = torch.stack([objective(policy, critics, obs, candidate) for candidate in candidates])
    return candidates[values.argmax(0), torch.arange(len(obs), device=obs.device)]
