"""Episodes of a policy as data: how it explores, how it acts, and the roll-outs."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, perturb
from harden.config.pipeline import PipelineConfig
from harden.config.sections import PLAIN_ROLL_OUTS, Collect
from harden.config.tasks import Task
from harden.config.variants import MC_BEHAVIOUR
from harden.envs.rollout import Acted, Progress, Rollout, Simulation, rollout
from harden.method.adversary import mc_attack
from harden.nets import Critics, GaussianPolicy
from harden.progress import Reporter
from harden.seeds import episode_seeds, generator


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
    envs: Simulation,
    policy: GaussianPolicy,
    critics: Critics | None,
    config: PipelineConfig,
    first: int,
    episodes: int,
    behaviour: str,
    epsilon: float,
    report: Reporter,
) -> Rollout:
    """Simulate episodes `first` to `first + episodes` of a data set.

    Equal configuration, policy and place give equal data, whatever the number of workers.

    Args:
        policy: acts; critics: what an adversary climbs under behaviour mc.
        epsilon: the adversary's radius under behaviour mc; noise has the full one.
    """
    task = config.task_row
    # simulation is on the CPU: so is its policy, and a copy there draws the same numbers
    acting = copy.deepcopy(policy).cpu()
    draw = generator("cpu", config.seed, "behaviour", first)
    # what is learned on-policy is learned from the policy's own draws
    exploring = Collect.model_validate(PLAIN_ROLL_OUTS) if config.variant_row.on_policy else config.collect
    explore = Exploration(envs.num_envs, task.act_dim, exploring, draw)
    attack = None
    if behaviour == MC_BEHAVIOUR:
        assert critics is not None
        climbed = copy.deepcopy(critics).cpu()

        def attack(obs: Tensor) -> Tensor:
            return mc_attack(acting, climbed, obs, task.radius(epsilon), config.adversary, draw)

    act = make_actor(behaviour, acting, task, draw, config.train_epsilon, explore, attack)
    seeds = episode_seeds(config.seed, "collect", first, episodes)
    with report.track("collect", episodes * task.horizon, "steps") as track:
        return rollout(envs, act, seeds.tolist(), _follow(report, episodes * task.horizon)(track))
