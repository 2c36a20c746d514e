"""Checks of an evaluation by itself: is there a sign that its attacks are weaker than they could be?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Asked, Attack
from harden.evaluation.statistics import paired
from harden.nets import GaussianPolicy
from harden.ops import ball
from harden.ops.ball import Norm

# below, an interval from resampled episodes means nothing
_EPISODES = 5
# differences smaller than this share of the larger mean are not worth a warning
_MATTERS = 0.05
# a first-order gain within the ball below this share of the objective's value is rounding
_FLAT = 1e-5
_FLAT_STATES = 0.1
# points of the ball asked, and the share of half an action's range from which on it counts as moved
_POINTS = 5
_MOVES = 0.01

Entry = dict[str, Any]
Warning = dict[str, Any]


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


def _exceeds(more: Entry, less: Entry, quantity: str) -> bool:
    """Whether one attack's mean is above another's, beyond chance and by enough to matter."""
    difference = paired(more["per_episode"], less["per_episode"], quantity)
    scale = max(abs(more[quantity]["mean"]), abs(less[quantity]["mean"]))
    return difference["ci95"][0] > 0 and difference["mean"] > _MATTERS * scale


def _said(one: Entry, quantity: str) -> str:
    return f"{one['attack']} ({quantity} {one[quantity]['mean']:.1f})"


def _warning(check: str, one: Entry, message: str) -> Warning:
    return {"check": check, "attack": one["attack"], "epsilon": one["epsilon"], "message": message}


def _alike(results: Sequence[Entry], one: Entry, names: Iterable[str]) -> Iterator[Entry]:
    """Yield the entries of some attacks that share norm and radius with one, and effort where it has any."""
    wanted = set(names)
    for other in results:
        same = all(other[key] == one[key] for key in ("norm", "epsilon"))
        effort = all(other[key] == one[key] for key in ("style", "steps", "restarts"))
        if other["attack"] in wanted and same and (effort or not (one["steps"] and other["steps"])):
            yield other


def weaker_than_noise(results: Sequence[Entry]) -> Iterator[Warning]:
    """Warn of an attack that does less of what it is for than random noise does."""
    for one in results:
        attack = ATTACKS.get(one["attack"])
        if attack is None or attack.aim is None:
            continue
        quantity, sign = attack.aim
        for noise in _alike(results, one, ("random", "gaussian")):
            more, less = (noise, one) if sign > 0 else (one, noise)
            if _exceeds(more, less, quantity):
                message = f"{_said(one, quantity)} does less than noise, {_said(noise, quantity)}"
                yield _warning("weaker-than-noise", one, f"{message}: its critics mislead it, or are flat")


def vanishing_gradient(results: Sequence[Entry]) -> Iterator[Warning]:
    """Warn of an attack whose gradient is nothing in many states."""
    for one in results:
        share = one.get("flat_share", 0.0)
        if share > _FLAT_STATES:
            message = f"the gradient that {one['attack']} climbs vanishes in {100 * share:.0f} % of states"
            yield _warning("vanishing-gradient", one, f"{message}: a low cost under it proves nothing there")


def hidden_gradient(results: Sequence[Entry]) -> Iterator[Warning]:
    """Warn where an attack that asks less of the policy's own critics beats the one that climbs them."""
    rivals = {"mc": ("black-box", "mc-independent"), "mr": ("mr-independent",)}
    for one in results:
        for other in _alike(results, one, rivals.get(one["attack"], ())):
            quantity = "cost" if one["attack"] == "mc" else "reward"
            if _exceeds(other, one, quantity):
                message = f"{_said(other, quantity)} beats {_said(one, quantity)}"
                yield _warning("hidden-gradient", other, f"{message}: the policy's own critics hide the way")


def curves(results: Sequence[Entry], along: str) -> Iterator[list[Entry]]:
    """Yield the entries of each attack that differ in one setting only, in its order; one alone is no curve.

    Args:
        along: epsilon, steps, restarts or queries.
    """
    fixed = [k for k in ("attack", "norm", "epsilon", "style", "steps", "restarts", "queries") if k != along]
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for one in results:
        if one["attack"] in ATTACKS and one.get(along) is not None:
            groups.setdefault(tuple(one.get(key) for key in fixed), []).append(one)
    for group in groups.values():
        if len(group) > 1:
            yield sorted(group, key=lambda one: one[along])


def _on_cost(results: Sequence[Entry]) -> list[Entry]:
    return [one for one in results if one["attack"] in ATTACKS and ATTACKS[one["attack"]].aim == ("cost", 1)]


def falling_cost(results: Sequence[Entry]) -> Iterator[Warning]:
    """Warn of an attack on cost that does less with a larger radius, which holds the smaller one."""
    for curve in curves(_on_cost(results), "epsilon"):
        for smaller, larger in pairwise(curve):
            if _exceeds(smaller, larger, "cost"):
                message = (
                    f"{_said(larger, 'cost')} at epsilon {larger['epsilon']:g} costs less than at "
                    f"{smaller['epsilon']:g} ({smaller['cost']['mean']:.1f}): it looks one action ahead, or "
                    "searches badly"
                )
                yield _warning("falling-cost", larger, message)


def no_plateau(results: Sequence[Entry]) -> Iterator[Warning]:
    """Warn of an attack on cost that still gains from its last increase of steps or restarts."""
    for key in ("steps", "restarts", "queries"):
        for curve in curves(_on_cost(results), key):
            if _exceeds(curve[-1], curve[-2], "cost"):
                one, before = curve[-1], curve[-2]
                message = (
                    f"{_said(one, 'cost')} still gains with {one[key]} {key} over {before[key]} "
                    f"({before['cost']['mean']:.1f}): more would find more"
                )
                yield _warning("no-plateau", one, message)


def falls_short(results: Sequence[Entry], about: dict[str, Any]) -> Iterator[Warning]:
    """Warn of black-box below four fifths of mc's cost and of learned below mc's, and say why.

    Nothing is hidden there: it says how far the other search can be believed elsewhere.
    """
    for one in results:
        for other in _alike(results, one, ("black-box", "learned") if one["attack"] == "mc" else ()):
            share = 0.8 if other["attack"] == "black-box" else 1.0
            short = paired(one["per_episode"], other["per_episode"], "cost")
            if other["cost"]["mean"] >= share * one["cost"]["mean"]:
                continue
            why = f"with {other.get('queries')} queries a state it found less; more may find more"
            if other["attack"] == "learned":
                rounds: dict[str, Any] = next(
                    (r for r in about.get("learned", []) if r["epsilon"] == other["epsilon"]), {}
                )
                costs = ", ".join(f"{cost:.0f}" for cost in rounds.get("costs", []))
                why = f"its training reached {costs} from round to round and may not be at its end"
            if short["ci95"][0] <= 0:
                why = f"no more than chance in {len(one['per_episode'])} episodes; {why}"
            message = f"{_said(other, 'cost')} falls short of {_said(one, 'cost')}: {why}"
            yield _warning("falls-short", other, message)


def check(results: Sequence[Entry], about: dict[str, Any] | None = None) -> list[Warning]:
    """Return what speaks against believing an evaluation's attacks.

    Args:
        results: the entries, with their episodes.
        about: what the evaluation says of adversaries that were trained for it.

    Returns:
        {"check", "attack", "epsilon", "message"} each. Differences are paired by episode seed, and count
        where their 95 % interval lies above zero and they are more than 5 % of the larger mean.
    """
    found = list(vanishing_gradient(results))
    episodes = len(results[0]["per_episode"])
    if episodes < _EPISODES:
        message = f"{episodes} episodes are too few to compare attacks by: those checks were left out"
        return [*found, _warning("too-few-episodes", results[0], message)]
    for one_check in (weaker_than_noise, hidden_gradient, falling_cost, no_plateau):
        found += one_check(results)
    return [*found, *falls_short(results, about or {})]
