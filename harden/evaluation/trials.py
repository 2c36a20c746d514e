"""Roll-outs of a frozen policy, clean and under attack, all episodes in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.attacks import (
    ATTACKS,
    Attack,
    AttackModel,
    LinearAdversary,
    PaperStrength,
    attack_stream,
    perturb,
    require_critics,
    risk_threshold,
)
from harden.config.tasks import Task
from harden.envs.rollout import Acted, Progress, Rollout, rollout
from harden.envs.vector import VectorEnv
from harden.evaluation.effort import flat_share, search_gain
from harden.evaluation.entries import NATURAL, WORST, Trial, entry, settings, worst_entry
from harden.evaluation.reference import reference
from harden.nets import Critics, GaussianPolicy
from harden.seeds import episode_seeds, generator

# enough to tell a share of flat states; all of them would take longer than the attack
_SAMPLED_STATES = 500


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


class Curve(NamedTuple):
    """Some attacks under a further setting: a point of a curve.

    Args:
        attacks: names; those of them that are run at all.
        trial: the setting.
    """

    attacks: tuple[str, ...]
    trial: Trial


Key = tuple[Any, ...]


def _key(name: str, trial: Trial) -> Key:
    return tuple(settings(name, trial).items())


def plan(
    attacks: Sequence[str], trials: Sequence[Trial], curves: Sequence[Curve] = ()
) -> dict[Key, tuple[str, Trial]]:
    """Return what has to be rolled out: each attack under each trial that makes a difference to it."""
    wanted = [(name, trial) for trial in trials for name in attacks if name != WORST]
    wanted += [(name, curve.trial) for curve in curves for name in curve.attacks if name in attacks]
    runs: dict[Key, tuple[str, Trial]] = {}
    for name, trial in wanted:
        runs.setdefault(_key(name, trial), (name, trial))
    return runs


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


def _threshold(name: str, victim: Victim, trial: Trial, obs: Tensor) -> float | None:
    """Return the Q_c from which on a gated attack acts, None for others."""
    if not ATTACKS[name].gated or victim.critics is None:
        return None
    return risk_threshold(victim.policy, victim.critics, obs, trial.amad_share)


def _searched(name: str, victim: Victim, trial: Trial, task: Task, obs: Tensor) -> dict[str, Any]:
    """Return how well an attack searched in the states that natural episodes visit."""
    attack, found = ATTACKS[name], dict[str, Any]()
    if attack.objective is None or attack.candidates or attack.gated or trial.epsilon <= 0:
        return found
    sample = obs[:: -(-len(obs) // _SAMPLED_STATES)]
    critics, radius = victim.critics_for(attack, trial.epsilon), task.radius(trial.epsilon)
    if attack.climbs and trial.gradients:
        draw = generator(obs.device, trial.seed, "flat-share")
        norm = trial.strength.norm
        found["flat_share"] = flat_share(attack, victim.policy, critics, sample, radius, norm, draw)
        # the paper's style starts from the perturbation of the step before: states apart don't judge it
        if isinstance(trial.strength, PaperStrength):
            return found
    draw = generator(obs.device, trial.seed, "search-gain")
    found["gain"] = search_gain(attack, victim.policy, critics, sample, radius, trial.strength, draw)
    return found


def evaluate_policy(
    victim: Victim,
    task: Task,
    attacks: Sequence[str],
    trials: Sequence[Trial],
    *,
    curves: Sequence[Curve] = (),
    workers: int | None = None,
    device: torch.device | None = None,
    on_step: Callable[[int, str, Progress], None] | None = None,
) -> Tried:
    """Try a policy under each attack and setting on the same episodes.

    Args:
        victim: the policy, and the critics that attacks ask.
        task: simulation and cost limit.
        attacks: names; natural is tried first whether it is among them or not.
        trials: settings, with equal episodes and seed.
        curves: further settings for some of the attacks.
        workers: simulation processes, one a core where not given.
        on_step: progress, with how many roll-outs are done and the attack's name.

    Raises:
        InputError: an attack and not the critics that it asks.
    """
    device = device or torch.device("cpu")
    attacks = [NATURAL, *(name for name in attacks if name != NATURAL)]
    runs = plan(attacks, trials, curves)
    for name, trial in runs.values():
        if name in ATTACKS and trial.epsilon > 0:
            require_critics(ATTACKS[name], victim.critics_for(ATTACKS[name], trial.epsilon))
    victim, first = victim.to(device), trials[0]
    seeds = episode_seeds(first.seed, "evaluate", 0, first.episodes).tolist()
    made, done = dict[Key, dict[str, Any]](), dict[Key, Rollout]()
    with VectorEnv(task, first.episodes, workers) as envs:
        for key, (name, trial) in runs.items():

            def progress(now: Progress, name: str = name) -> None:
                if on_step is not None:
                    on_step(len(done), name, now)

            found, threshold, natural = settings(name, trial), None, None
            if done:
                natural = next(iter(made.values()))
                obs = next(iter(done.values())).transitions.obs.to(device)
                threshold = _threshold(name, victim, trial, obs)
                found |= {"threshold": threshold} if ATTACKS[name].gated else {}
                found |= _searched(name, victim, trial, task, obs)
            act = actor(name, victim, trial, task, device, threshold)
            done[key] = rollout(envs, act, seeds, progress)
            made[key] = entry(found, task, done[key], natural)
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
    by_place = {place: done[key] for place, key in enumerate(order) if key in done}
    return Tried([made[key] for key in order], by_place, idle)
