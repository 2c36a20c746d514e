"""Roll-outs of a frozen policy, clean and under attack, all episodes in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.attacks import (
    ATTACKS,
    Asked,
    Attack,
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
from harden.evaluation.entries import NATURAL, WORST, Trial, entry, settings, worst_entry
from harden.evaluation.gradients import flat_share
from harden.evaluation.reference import reference
from harden.evaluation.search_gain import search_gain
from harden.evaluation.trajectories import Moves, moves
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

    def asked(self, attack: Attack, epsilon: float) -> Asked | None:
        """Return what an attack asks at a radius."""
        if attack.plays:
            return self.adversaries.get(epsilon)
        if attack.critics == "learned":
            return self.learned.get(epsilon)
        return self.independent if attack.critics == "independent" else self.critics

    def to(self, device: torch.device) -> Victim:
        """Return the same on a device."""
        own, independent = (
            None if part is None else part.to(device) for part in (self.critics, self.independent)
        )
        learned = {radius: part.to(device) for radius, part in self.learned.items()}
        adversaries = {radius: part.to(device) for radius, part in self.adversaries.items()}
        return Victim(self.policy.to(device), own, independent, learned, adversaries)


class Tried(NamedTuple):
    """What an evaluation found.

    Args:
        entries: one an attack and setting, natural first, in the form of the evaluation file.
        natural_obs: the states visited without an attack, (N, obs_dim).
        moves: what each entry's roll-out did, by its place in `entries`; `worst` has none of its own.
        reference: what doing nothing earns, as `reference` returns it.
    """

    entries: list[dict[str, Any]]
    natural_obs: Tensor
    moves: dict[int, Moves]
    reference: dict[str, Any]


class Curve(NamedTuple):
    """Some attacks under a further setting: a point of a curve.

    Args:
        attacks: names; those of them that are run at all.
        trial: the setting.
    """

    attacks: tuple[str, ...]
    trial: Trial


def plan(
    attacks: Sequence[str], trials: Sequence[Trial], curves: Sequence[Curve] = ()
) -> list[tuple[str, Trial]]:
    """Return what has to be rolled out: each attack under each trial that makes a difference to it."""
    wanted: dict[tuple[Any, ...], tuple[str, Trial]] = {}
    asked = [(name, trial) for trial in trials for name in attacks if name != WORST]
    asked += [(name, curve.trial) for curve in curves for name in curve.attacks if name in attacks]
    for name, trial in asked:
        wanted.setdefault(tuple(settings(name, trial).items()), (name, trial))
    return list(wanted.values())


def actor(
    name: str, victim: Victim, trial: Trial, task: Task, device: torch.device, threshold: float | None
) -> Callable[[Tensor, Tensor], Acted]:
    """Return what acts in a trial: the policy, on what the attack of that name makes of each observation."""
    attack, policy = ATTACKS.get(name) if trial.epsilon > 0 else None, victim.policy
    draw = attack_stream(device, trial.seed, name)
    sampling = generator(device, trial.seed, "evaluated-sample")
    # one episode a slot: the perturbation of its step before
    carried = torch.zeros(trial.episodes, policy.architecture["obs_dim"], device=device)

    def act(obs: Tensor, slots: Tensor) -> Acted:
        clean = given = obs.to(device)
        if attack is not None:
            start, critics = carried[slots], victim.asked(attack, trial.epsilon)
            options = task.radius(trial.epsilon), trial.strength, draw, start, threshold
            given = perturb(attack, policy, critics, clean, *options)
            carried[slots] = given - clean
        with torch.no_grad():
            mean = trial.action == "mean"
            actions = policy.clip(policy.mean(given)) if mean else policy.sample(given, sampling)
        return Acted(actions.cpu(), given.cpu())

    return act


class _Threats:
    """What of the attacks is judged from the states that natural episodes visit."""

    def __init__(self, victim: Victim, task: Task, device: torch.device, natural: Rollout) -> None:
        self.victim, self.task, self.device = victim, task, device
        self.obs = natural.transitions.obs.to(device)

    def threshold(self, name: str, trial: Trial) -> float | None:
        """Return the Q_c from which on a gated attack acts, None for others."""
        if not ATTACKS[name].gated or self.victim.critics is None:
            return None
        return risk_threshold(self.victim.policy, self.victim.critics, self.obs, trial.amad_share)

    def found(self, name: str, trial: Trial) -> dict[str, Any]:
        """Return what an attack's entry says beside its settings."""
        attack, more = ATTACKS[name], dict[str, Any]()
        if attack.gated:
            more["threshold"] = self.threshold(name, trial)
        if attack.objective is None or attack.candidates or attack.gated or trial.epsilon <= 0:
            return more
        every = -(-len(self.obs) // _SAMPLED_STATES)
        policy, critics = self.victim.policy, self.victim.asked(attack, trial.epsilon)
        asked = attack, policy, critics, self.obs[::every], self.task.radius(trial.epsilon)
        if attack.climbs and trial.gradients:
            draw = generator(self.device, trial.seed, "flat-share")
            more["flat_share"] = flat_share(*asked, trial.strength.norm, draw)
            # the paper's style lives on the perturbation of the step before: states apart don't judge it
            if isinstance(trial.strength, PaperStrength):
                return more
        draw = generator(self.device, trial.seed, "search-gain")
        more["gain"] = search_gain(*asked, trial.strength, draw)
        return more


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
    for name, trial in plan(attacks, trials, curves):
        if name in ATTACKS and trial.epsilon > 0:
            require_critics(ATTACKS[name], victim.asked(ATTACKS[name], trial.epsilon))
    victim, first = victim.to(device), trials[0]
    seeds = episode_seeds(first.seed, "evaluate", 0, first.episodes).tolist()
    made: dict[tuple[Any, ...], _Made] = {}
    _, *later = plan(attacks, trials, curves)
    with VectorEnv(task, first.episodes, workers) as envs:

        def run(done: int, name: str, trial: Trial, threshold: float | None = None) -> Rollout:
            def follow(now: Progress) -> None:
                if on_step is not None:
                    on_step(done, name, now)

            return rollout(envs, actor(name, victim, trial, task, device, threshold), seeds, follow)

        clean = run(0, NATURAL, first)
        natural, threats = entry(settings(NATURAL, first), task, clean), _Threats(victim, task, device, clean)
        made[tuple(settings(NATURAL, first).items())] = _Made(natural, moves(clean))
        for done, (name, trial) in enumerate(later, start=1):
            about = settings(name, trial)
            attacked = run(done, name, trial, threats.threshold(name, trial))
            found = entry(about | threats.found(name, trial), task, attacked, natural)
            made[tuple(about.items())] = _Made(found, moves(attacked))
        # last: what acts wildly leaves a trace of a millionth in the episodes after it
        idle = reference(envs, task, victim.policy, first.action, clean, first.seed)
    entries = _ordered({key: one.entry for key, one in made.items()}, attacks, trials, task)
    acted = {id(one.entry): one.moves for one in made.values()}
    places = {place: acted[id(one)] for place, one in enumerate(entries) if id(one) in acted}
    return Tried(entries, threats.obs.cpu(), places, idle)


class _Made(NamedTuple):
    entry: dict[str, Any]
    moves: Moves


def _ordered(
    made: dict[tuple[Any, ...], dict[str, Any]], attacks: Sequence[str], trials: Sequence[Trial], task: Task
) -> list[dict[str, Any]]:
    """Return the entries in their order: the worst of each trial after its own, points of curves last."""
    entries: list[dict[str, Any]] = []
    for trial in trials:
        mine = [made[tuple(settings(name, trial).items())] for name in attacks if name != WORST]
        entries += [one for one in mine if not any(one is other for other in entries)]
        if WORST in attacks:
            entries.append(worst_entry(trial, task, mine))
    return entries + [one for one in made.values() if not any(one is other for other in entries)]
