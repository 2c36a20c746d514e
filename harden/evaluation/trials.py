"""Roll-outs of a frozen policy, clean and under attack, all in lockstep; how well its attacks searched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.attacks import (
    OBJECTIVES,
    AttackModel,
    LinearAdversary,
    PaperStrength,
    attack_stream,
    ball,
    perturb,
    require_critics,
    risk_threshold,
)
from harden.attacks.ball import Norm
from harden.config.attacks import ATTACKS, NATURAL, WORST, Attack
from harden.config.tasks import Task
from harden.envs.rollout import Acted, Progress, Rollout, Simulate, rollout
from harden.evaluation.entries import Trial, entry, settings, worst_entry
from harden.evaluation.reference import reference
from harden.nets import Critics, GaussianPolicy
from harden.progress import QUIET, Reporter
from harden.seeds import episode_seeds, generator

# a first-order gain within the ball below this share of the objective's value is rounding
_FLAT = 1e-5
# perturbations at which a gradient is taken; an action that moves by this share of half its range has moved
_POINTS, _MOVES = 5, 0.01
# random guesses in all, and at once, so that 500 states take no more memory than an attack
_GUESSES, _TOGETHER = 256, 32
# enough to tell a share of flat states; all of them would take longer than the attack
_SAMPLED_STATES = 500
_CPU = torch.device("cpu")


class Victim(NamedTuple):
    """What is attacked, and what attacks ask.

    Args:
        policy: frozen.
        critics: its own, or None.
        independent: critics trained independently of those, or None.
        learned: critics of an adversary that plans, by radius.
        adversaries: linear adversaries, by radius.
    """

    policy: GaussianPolicy
    critics: Critics | None
    independent: Critics | None = None
    learned: Mapping[float, Critics] = MappingProxyType({})
    adversaries: Mapping[float, LinearAdversary] = MappingProxyType({})

    def critics_for(self, attack: Attack, epsilon: float) -> AttackModel | None:
        """Return what an attack asks at a radius."""
        if attack.plays:
            return self.adversaries.get(epsilon)
        if attack.critics == "learned":
            return self.learned.get(epsilon)
        return self.independent if attack.critics == "independent" else self.critics

    def to(self, device: torch.device) -> Victim:
        """Return the same on a device."""
        return Victim(
            self.policy.to(device),
            None if self.critics is None else self.critics.to(device),
            None if self.independent is None else self.independent.to(device),
            {radius: part.to(device) for radius, part in self.learned.items()},
            {radius: part.to(device) for radius, part in self.adversaries.items()},
        )


class Tried(NamedTuple):
    """What an evaluation's episodes gave.

    Args:
        entries: for each attack and setting, natural first, in the form of the evaluation file.
        runs: the roll-out of each entry, by its place in `entries`; `worst` has none of its own.
        reference: what doing nothing earns, as `reference` returns it.
    """

    entries: list[dict[str, Any]]
    runs: dict[int, Rollout]
    reference: dict[str, Any]

    @property
    def natural_obs(self) -> Tensor:
        """The states visited without an attack, (N, obs_dim)."""
        return self.runs[0].transitions.obs


Key = tuple[Any, ...]


def _key(name: str, trial: Trial) -> Key:
    return tuple(settings(name, trial).items())


def threshold_of(name: str, victim: Victim, trial: Trial, obs: Tensor) -> float | None:
    """Return the Q_c below which a gated attack leaves a state alone, None for one that is not gated.

    Args:
        obs: states of the natural episodes, (N, obs_dim).
    """
    if not ATTACKS[name].gated or victim.critics is None:
        return None
    return risk_threshold(victim.policy, victim.critics, obs, trial.amad_share)


def actor(
    name: str, victim: Victim, trial: Trial, task: Task, device: torch.device, threshold: float | None
) -> Callable[[Tensor, Tensor], Acted]:
    """Return what acts in a trial: the policy, on what the attack of that name makes of each observation."""
    attack, policy = ATTACKS.get(name) if trial.epsilon > 0 else None, victim.policy
    draw = attack_stream(device, trial.seed, name)
    sampling = generator(device, trial.seed, "evaluated-sample")
    # the perturbation of the step before, one row an episode
    carried = torch.zeros(trial.episodes, policy.architecture["obs_dim"], device=device)

    def act(obs: Tensor, slots: Tensor) -> Acted:
        clean = given = obs.to(device)
        if attack is not None:
            start, critics = carried[slots], victim.critics_for(attack, trial.epsilon)
            options = task.radius(trial.epsilon), trial.strength, draw, start, threshold
            given = perturb(attack, policy, critics, clean, *options)
            carried[slots] = given - clean
        with torch.no_grad():
            mean = trial.action == "mean"
            actions = policy.clip(policy.mean(given)) if mean else policy.sample(given, sampling)
        return Acted(actions.cpu(), given.cpu())

    return act


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
        policy, critics, epsilon, generator: as in `perturb`; gradients are taken at drawn perturbations.
        obs: states, (N, obs_dim).
    """
    assert attack.objective is not None
    radius = torch.as_tensor(epsilon, dtype=obs.dtype, device=obs.device)
    clean = obs.repeat(_POINTS, 1)
    delta = ball.sample(clean, radius, norm, generator).requires_grad_()
    value = OBJECTIVES[attack.objective](policy, critics, clean, clean + delta)
    (gradient,) = torch.autograd.grad(value.sum(), delta)
    with torch.no_grad():
        gain = (gradient * radius).norm(p=1 if norm == "linf" else 2, dim=1)
        flat = gain <= _FLAT * value.abs()
        move = (policy.mean(clean + delta) - policy.mean(clean)).abs() / policy.half_range
        movable = move.amax(1) > _MOVES
        vanished = flat.view(_POINTS, -1).all(0) & movable.view(_POINTS, -1).any(0)
    return int(vanished.sum()) / len(obs)


def _searched(name: str, victim: Victim, trial: Trial, task: Task, obs: Tensor) -> dict[str, Any]:
    """Return how well an attack searched in the states that natural episodes visit.

    Returns:
        {"flat_share", "gain"} as far as they can be said; the latter {"found", "guessed"}: how far the attack
        raises its objective, and how far the best of 256 random corners does, means over the states.
    """
    attack, policy = ATTACKS[name], victim.policy
    if attack.objective is None or attack.candidates or attack.gated or trial.epsilon <= 0:
        return {}
    facts, objective = dict[str, Any](), OBJECTIVES[attack.objective]
    sample = obs[:: -(-len(obs) // _SAMPLED_STATES)]
    critics, epsilon = victim.critics_for(attack, trial.epsilon), task.radius(trial.epsilon)
    if attack.climbs and trial.gradients:
        draw = generator(obs.device, trial.seed, "flat-share")
        facts["flat_share"] = flat_share(attack, policy, critics, sample, epsilon, trial.strength.norm, draw)
        # the paper's style starts from the perturbation of the step before: states apart don't judge it
        if isinstance(trial.strength, PaperStrength):
            return facts
    draw = generator(obs.device, trial.seed, "search-gain")
    attacked = perturb(attack, policy, critics, sample, epsilon, trial.strength, draw)
    radius = torch.as_tensor(epsilon, dtype=obs.dtype, device=obs.device)
    with torch.no_grad():
        before = objective(policy, critics, sample, sample)
        gained = objective(policy, critics, sample, attacked) - before
        best = torch.zeros_like(before)
        clean = sample.repeat(_TOGETHER, 1)
        for _ in range(_GUESSES // _TOGETHER):
            guesses = clean + ball.sample_far(clean, radius, trial.strength.norm, draw)
            value = objective(policy, critics, clean, guesses).view(_TOGETHER, -1).amax(0)
            best = torch.maximum(best, value - before)
    return facts | {"gain": {"found": float(gained.mean()), "guessed": float(best.mean())}}


def _effort(name: str, trial: Trial) -> float:
    """Return what an attack asks in each state: gradients, or values."""
    made = settings(name, trial)
    return float(made["steps"] * made["restarts"] + made.get("queries", 0))


class _Clock:
    """The time that is left of several runs: a run takes as long as one without effort, and more by its own.

    Args:
        efforts: of each run, in order.
    """

    def __init__(self, efforts: Sequence[float]) -> None:
        self.efforts, self.took, self.began = efforts, list[float](), time.monotonic()

    def finished(self) -> None:
        """Take the time of a run that has come to its end."""
        now = time.monotonic()
        self.took.append(now - self.began)
        self.began = now

    def left(self, share: float) -> float:
        """Return the seconds left, nan where nothing of a kind that is to come has been timed.

        Args:
            share: of the run that is under way.
        """
        took = [*self.took, (time.monotonic() - self.began) / share if share else math.nan]
        plain, hardest = min(self.efforts), max(self.efforts[: len(took)])
        base = took[self.efforts.index(plain)] if plain in self.efforts[: len(took)] else math.nan
        each = 0.0
        if hardest > plain:
            each = max(took[self.efforts.index(hardest)] - base, 0.0) / (hardest - plain)
        elif max(self.efforts) > plain:
            return math.nan
        expected = [base + each * (effort - plain) for effort in self.efforts[len(took) :]]
        return took[-1] * (1.0 - share) + sum(expected)


def evaluate_policy(
    victim: Victim,
    task: Task,
    attacks: Sequence[str],
    trials: Sequence[Trial],
    *,
    points: Sequence[tuple[str, Trial]] = (),
    simulate: Simulate,
    device: torch.device = _CPU,
    report: Reporter = QUIET,
) -> Tried:
    """Try a policy under each attack and setting on the same episodes.

    Args:
        victim: the policy, and the critics that attacks ask.
        task: simulation and cost limit.
        attacks: names; natural is tried first whether it is among them or not.
        trials: settings, with equal episodes and seed.
        points: further settings for single attacks, where these are run at all.
        simulate: opens the task's environments.

    Raises:
        InputError: an attack and not the critics that it asks.
    """
    attacks = [NATURAL, *(name for name in attacks if name != NATURAL)]
    wanted = [(name, trial) for trial in trials for name in attacks if name != WORST]
    wanted += [(name, trial) for name, trial in points if name in attacks]
    # of settings that make no difference to an attack the first counts
    runs: dict[Key, tuple[str, Trial]] = {}
    for name, trial in wanted:
        runs.setdefault(_key(name, trial), (name, trial))
    for name, trial in runs.values():
        if name in ATTACKS and trial.epsilon > 0:
            require_critics(ATTACKS[name], victim.critics_for(ATTACKS[name], trial.epsilon))
    victim, first = victim.to(device), trials[0]
    seeds = episode_seeds(first.seed, "evaluate", 0, first.episodes).tolist()
    made, done = dict[Key, dict[str, Any]](), dict[Key, Rollout]()
    steps_a_run = first.episodes * task.horizon
    with (
        simulate(first.episodes) as envs,
        report.track("evaluate", steps_a_run * len(runs), "steps") as track,
    ):
        clock = _Clock([_effort(*run) for run in runs.values()])
        for key, (name, trial) in runs.items():

            def progress(now: Progress, name: str = name) -> None:
                left = clock.left(now.steps / steps_a_run)
                track(len(done) * steps_a_run + now.steps, f"{name}: {now}", left)

            facts, threshold, natural = settings(name, trial), None, None
            if done:
                natural = next(iter(made.values()))
                obs = next(iter(done.values())).transitions.obs.to(device)
                threshold = threshold_of(name, victim, trial, obs)
                if threshold is not None:
                    facts["threshold"] = threshold
                facts |= _searched(name, victim, trial, task, obs)
            act = actor(name, victim, trial, task, device, threshold)
            done[key] = rollout(envs, act, seeds, progress)
            clock.finished()
            made[key] = entry(facts, task, done[key], natural)
        clean = next(iter(done.values()))
        idle = reference(envs, task, victim.policy, first.action, clean, first.seed)
    order = list[Key]()
    for trial in trials:
        own = [_key(name, trial) for name in attacks if name != WORST]
        order += own
        if WORST in attacks:
            made[WORST, trial] = worst_entry(trial, task, [made[key] for key in own])
            order.append((WORST, trial))
    # the points of curves last
    order = list(dict.fromkeys([*order, *made]))
    by_index = {index: done[key] for index, key in enumerate(order) if key in done}
    return Tried([made[key] for key in order], by_index, idle)
