"""collect: roll-outs to a data set; benign ones, but for a variant that asks for attacked ones."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.algorithms.adversary import mc_attack
from harden.algorithms.schedules import scheduled
from harden.attacks import ATTACKS, Strength, perturb
from harden.checkpoint import load_policy, module_digest
from harden.config import PipelineConfig
from harden.data import DatasetWriter, ShardInfo
from harden.envs.make import require_environment
from harden.envs.rollout import Acted, Progress, Rollout, rollout
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.learner import Learner
from harden.nets import Critics, GaussianPolicy
from harden.progress import Reporter
from harden.sections import Collect
from harden.seeds import episode_seeds, generator
from harden.stages.permissions import require_permission
from harden.stages.workspace import Workspace, open_learner
from harden.tasks import Task
from harden.variants import MC_BEHAVIOUR


class Collected(NamedTuple):
    """What a collection brought.

    Args:
        shard: as the store acknowledged it.
        seconds: wall time.
    """

    shard: ShardInfo
    seconds: float


class Exploration:
    """How a policy that samples leaves its mean: with some spread at least, in noise that lasts, AR(1).

    What a roll-out never does, a critic knows nothing of, least of all the critic under the adversary: an
    attack pushes the action to one side and keeps it there, further than a sharp policy ever samples. And
    steps that undo each other explore little where the dynamics are slow. Some slots do not leave the mean:
    deployed, the policy acts by it, and passes through other states than its wide roll-outs do.

    Args:
        slots: simulations side by side.
        size: coordinates of an action.
        config: `correlation` of the noise with the next step's, `min_std`, a share of half the action range,
            `mean_share`, the slots that act by the mean.
        draw: the only source of randomness.

    Deviation: the paper draws every action anew from the policy. Source: Eberhard et al. 2023 (pink noise),
        Lillicrap et al. 2016; a new episode in a slot goes on from the old one's last value, which changes
        no distribution. Each action alone is a Gaussian draw, of the policy itself where `min_std` is 0.
    """

    def __init__(self, slots: int, size: int, config: Collect, draw: torch.Generator) -> None:
        self.correlation, self.min_std, self.draw = config.correlation, config.min_std, draw
        self.now = torch.randn(slots, size, generator=draw) if self.correlation > 0 else None
        self.wander = (torch.arange(slots) >= round(config.mean_share * slots)).float()

    def noise(self, slots: Tensor, size: int) -> Tensor:
        """Return the next standard normal values of some slots, (B, size)."""
        fresh = torch.randn(len(slots), size, generator=self.draw)
        if self.now is None:
            return fresh
        self.now[slots] = self.correlation * self.now[slots] + math.sqrt(1 - self.correlation**2) * fresh
        return self.now[slots]

    def __call__(self, policy: GaussianPolicy, obs: Tensor, slots: Tensor) -> Tensor:
        """Return the actions of some slots, clipped to the action space, (B, act_dim)."""
        mean, std = policy(obs)
        std = torch.maximum(std, self.min_std * policy.half_range)
        return policy.clip(mean + self.wander[slots, None] * std * self.noise(slots, mean.shape[1]))


def make_actor(
    behaviour: str,
    policy: GaussianPolicy | None,
    task: Task,
    draw: torch.Generator,
    epsilon: float,
    explore: Exploration,
    attack: Callable[[Tensor], Tensor] | None = None,
) -> Callable[[Tensor, Tensor], Acted]:
    """Return the function that acts for a behaviour.

    Args:
        behaviour: random, policy-mean, policy-sample, policy-noise or mc.
        policy: acts; not needed for random.
        task: gives the action space's size.
        draw: the only source of randomness.
        epsilon: radius of the observation noise of policy-noise, which stores what the policy was given.
        explore: how a policy that samples draws.
        attack: gives nu(s) for s under mc, which stores what the policy was given, as policy-noise does.
    """

    @torch.no_grad()
    def act(obs: Tensor, slots: Tensor) -> Acted:
        if behaviour == "random":
            low, high = (torch.tensor(bound) for bound in task.bounds)
            return Acted(low + (high - low) * torch.rand((len(obs), task.act_dim), generator=draw), obs)
        assert policy is not None
        if behaviour == "policy-mean":
            return Acted(policy.mean(obs), obs)
        if behaviour == "policy-noise":
            obs = perturb(ATTACKS["random"], policy, None, obs, task.radius(epsilon), Strength(), draw)
        if attack is not None:
            obs = attack(obs)
        return Acted(explore(policy, obs, slots), obs)

    return act


def _follow(
    report: Reporter, steps: int
) -> Callable[[Callable[[float, str], None]], Callable[[Progress], None]]:
    began = time.monotonic()

    def wrap(track: Callable[[float, str], None]) -> Callable[[Progress], None]:
        def on_step(now: Progress) -> None:
            speed = now.steps / max(time.monotonic() - began, 1e-9)
            track(now.steps, f"{speed:,.0f} steps/s, {now}")

        return on_step

    return wrap


def collect_episodes(
    envs: VectorEnv,
    learner: Learner,
    config: PipelineConfig,
    first: int,
    episodes: int,
    behaviour: str,
    epsilon: float,
    report: Reporter,
) -> Rollout:
    """Simulate episodes `first` to `first + episodes` of a data set.

    Equal configuration, learner and place give equal data, whatever the number of workers.

    Args:
        learner: gives the policy that acts, and the critics that an adversary climbs.
        epsilon: the adversary's radius under behaviour mc; noise has the full one.
    """
    task = config.task_row
    # simulation is on the CPU: so is its policy, and a copy there draws the same numbers
    acting = copy.deepcopy(learner.policy).cpu()
    draw = generator("cpu", config.seed, "behaviour", first)
    # what is learned on-policy is learned from the policy's own draws
    exploring = Collect() if config.variant_row.on_policy else config.collect
    explore = Exploration(envs.num_envs, task.act_dim, exploring, draw)
    attack = None
    if behaviour == MC_BEHAVIOUR:
        critics = copy.deepcopy(learner.critics).cpu()

        def attack(obs: Tensor) -> Tensor:
            return mc_attack(acting, critics, obs, task.radius(epsilon), config.adversary, draw)

    act = make_actor(behaviour, acting, task, draw, config.train_epsilon, explore, attack)
    seeds = episode_seeds(config.seed, "collect", first, episodes)
    with report.track("collect", episodes * task.horizon, "steps") as track:
        return rollout(envs, act, seeds.tolist(), _follow(report, episodes * task.horizon)(track))


class Opened(NamedTuple):
    """What a collection begins with, once all of it was found in order.

    Args:
        learner: acts, and is attacked.
        begun: whether there is a state that it comes from.
    """

    learner: Learner
    begun: bool


def open_inputs(
    config: PipelineConfig,
    place: Workspace,
    behaviour: str,
    policy_dir: Path | None,
    allowed: bool,
    refresh: int | None = None,
) -> Opened:
    """Open and check what `collect` reads, but for the data set; arguments and errors are its own."""
    require_permission(behaviour, allowed)
    require_environment(config.task_row)
    learner, about = open_learner(config, place, torch.device("cpu"), policy_dir, refresh=refresh)
    if behaviour == MC_BEHAVIOUR and policy_dir is not None and about is None:
        learner.critics = _victim_critics(policy_dir)
    return Opened(learner, about is not None)


def collect(
    config: PipelineConfig,
    place: Workspace,
    *,
    episodes: int | None = None,
    behaviour: str | None = None,
    out: Path | None = None,
    policy_dir: Path | None = None,
    allow_attacked_collection: bool = False,
    refresh: int | None = None,
    report: Reporter,
) -> Collected:
    """Collect episodes and append them to the data set as one shard.

    Without a policy of its own yet, a pipeline acts with its untrained one.

    Args:
        episodes, behaviour: the pipeline's where not given.
        out: the data set's folder, the workspace's where not given.
        policy_dir: the policy that acts, the workspace's where not given.
        allow_attacked_collection: let behaviour mc attack the policy while it acts.
        refresh: the refresh of `train` whose place in the schedules is meant; without one, their end.

    Raises:
        InputError: the data set is of another task or kind, or an attack was not allowed; StorageError: it
            can't be written.
    """
    began = time.monotonic()
    behaviour = behaviour or config.behaviour
    episodes = episodes or config.collect.episodes
    allowed = allow_attacked_collection
    learner, begun = open_inputs(config, place, behaviour, policy_dir, allowed, refresh)
    epsilon = config.train_epsilon
    if behaviour == config.variant_row.behaviour and policy_dir is None:
        epsilon = scheduled(config, refresh).epsilon
    policy = None if behaviour == "random" else learner.policy
    if policy is not None and not begun and policy_dir is None and not place.policy.is_dir():
        report.say(f"no policy in {place.policy} yet: acting with an untrained one (seed {config.seed})")
    with (
        DatasetWriter(out or place.data, config.task_row) as writer,
        VectorEnv(config.task_row, min(config.collect.envs, episodes), config.collect.workers) as envs,
    ):
        writer.require_same_kind(behaviour)
        first = writer.info.episodes
        data = collect_episodes(envs, learner, config, first, episodes, behaviour, epsilon, report)
        shard = writer.append(
            data.transitions, seed=config.seed, policy_digest=module_digest(policy), behaviour=behaviour
        )
    return Collected(shard, time.monotonic() - began)


def _victim_critics(policy_dir: Path) -> Critics:
    critics = load_policy(policy_dir).critics
    if critics is None:
        raise InputError(
            f"the policy in {policy_dir} brings no critics, and behaviour {MC_BEHAVIOUR} climbs them",
            "fit some with: harden fit-critics",
        )
    return critics
