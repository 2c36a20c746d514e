"""What a refresh imagines: the policy under attack, in a world model learned from benign data."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.method.adversary import mc_attack
from harden.method.learner import Learner
from harden.models import world as models
from harden.models.chains import imagine
from harden.nets import GaussianPolicy
from harden.seeds import generator
from harden.types import ImaginedRows, Transitions


class WorldLearned(NamedTuple):
    """What a world model learned from new data, for the learning curve.

    Args:
        world_loss: of the last step.
        world_error: of its steps on the newest roll-outs before it learned from them, in units of the data's
            variance.
    """

    world_loss: float
    world_error: float


class Imagined(NamedTuple):
    """What imagined attacks came to, for the learning curve.

    Args:
        imagined_cost: cost an episode of the attacked policy's own chains, as long as the task's horizon.
        chain_length: steps of a chain, mean.
    """

    imagined_cost: float
    chain_length: float


def learn_world(learner: Learner, data: Transitions, config: PipelineConfig) -> WorldLearned | None:
    """Fit the learner's world model to benign transitions, whole episodes, oldest first.

    Offline it was fitted to the logs, and stays as it is (None): what it is shown here was imagined in it.
    """
    section, world = config.world, learner.world
    assert world is not None
    assert learner.world_optimizer is not None
    if config.train.offline:
        return None
    data = Transitions(*(column.to(learner.device) for column in data))
    world.measure(data)
    newest = config.train.episodes * config.task_row.horizon
    error = models.calibrate(world, Transitions(*(column[-newest:] for column in data))).error
    loss = models.fit(
        world,
        learner.world_optimizer,
        data,
        steps=section.steps if learner.chains else section.first_steps,
        batch=section.batch,
        recent=section.recent,
        draw=generator("cpu", learner.seed, "world-batch", learner.counters.critic_steps),
    )
    models.set_reach(world, data, section.reach)
    return WorldLearned(loss, error)


def is_due(learner: Learner, config: PipelineConfig) -> bool:
    """Return whether the last chains are `world.every` rounds old: the policy has moved since."""
    return learner.counters.round - learner.counters.imagined >= config.world.every


def imagine_attacks(
    learner: Learner, firsts: Tensor, recent: Tensor, config: PipelineConfig, epsilon: float
) -> Imagined:
    """Imagine what the policy as it is now does under attack.

    Half of the chains are the attacked policy's own: they begin with an episode and go on, time after time,
    through the states of a policy that has been under attack for a while. The others branch off from recent
    states, most of which exploration led to. Nothing is simulated under attack.

    Args:
        learner: its chains are changed in place.
        firsts: (E, obs_dim), where episodes begin.
        recent: (N, obs_dim), benign states, oldest first.
        config: the pipeline.
        epsilon: radius of the imagined attack; at 0 the chains are benign.
    """
    section, half = config.world, config.world.chains // 2
    assert learner.world is not None
    draw = generator(learner.device, learner.seed, "chains", learner.counters.critic_steps)
    act = attacked_actor(learner, learner.policy, config, epsilon, draw)
    chains = imagine(learner.world, act, _starts(learner, firsts, recent, config, draw), section.length, draw)
    own = chains.chain < half
    learner.chain_ends = chains.last_obs[:half][chains.going[:half]]
    learner.chains = [*learner.chains, ImaginedRows(chains.rows, own)][-section.kept :]
    learner.chains_ahead = None
    learner.counters = learner.counters._replace(imagined=learner.counters.round)
    cost = float(chains.rows.costs[own].mean()) * config.task_row.horizon
    return Imagined(cost, len(chains.rows.costs) / section.chains)


def imagined_cost(
    learner: Learner, policy: GaussianPolicy, firsts: Tensor, config: PipelineConfig, epsilon: float
) -> float:
    """Return a policy's cost an episode under attack, imagined from the beginnings of episodes.

    Args:
        learner: gives the world model and the critics that the attack climbs; it is not changed.
        policy: acts, by its mean.
        firsts: (E, obs_dim), where episodes begin.
        epsilon: radius of the attack.
    """
    assert learner.world is not None
    draw = generator(learner.device, learner.seed, "imagined-cost", learner.counters.round)
    obs = _some(firsts.to(learner.device), config.world.chains // 2, draw)
    act = attacked_actor(learner, policy, config, epsilon, draw)
    chains = imagine(learner.world, act, obs, config.task_row.horizon, draw)
    return float(chains.rows.costs.mean()) * config.task_row.horizon


def first_observations(data: Transitions) -> Tensor:
    """Return the first observation of each episode, (E, obs_dim)."""
    ends = data.terminals | data.timeouts
    return data.obs[torch.cat((torch.ones_like(ends[:1]), ends[:-1]))]


def attacked_actor(
    learner: Learner, policy: GaussianPolicy, config: PipelineConfig, epsilon: float, draw: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Return what acts in imagination: the policy's mean, under the MC attack on the learner's critics."""
    strength = config.adversary.model_copy(update={"steps": config.world.attack_steps})
    radius = config.task_row.radius(epsilon)

    def act(obs: Tensor) -> Tensor:
        if epsilon > 0:
            obs = mc_attack(policy, learner.critics, obs, radius, strength, draw)
        with torch.no_grad():
            return policy.mean(obs)

    return act


def _some(obs: Tensor, count: int, draw: torch.Generator) -> Tensor:
    return obs[torch.randint(len(obs), (count,), generator=draw, device=obs.device)]


def _starts(
    learner: Learner, firsts: Tensor, recent: Tensor, config: PipelineConfig, draw: torch.Generator
) -> Tensor:
    """Return where chains begin, (C, obs_dim): half go on or begin an episode, half are recent states."""
    section = config.world
    recent, firsts = recent[-section.recent :].to(learner.device), firsts.to(learner.device)
    half = section.chains // 2
    begun = _some(firsts, half, draw)
    going_on = _some(learner.chain_ends, half, draw) if len(learner.chain_ends) else begun
    anew = torch.rand(half, generator=draw, device=firsts.device) < section.length / config.task_row.horizon
    own = torch.where(anew.unsqueeze(1), begun, going_on)
    return torch.cat((own, _some(recent, section.chains - half, draw)))


def all_chains(learner: Learner) -> Transitions:
    """Return the chains of the last refreshes as one."""
    return Transitions(
        *(torch.cat(columns) for columns in zip(*(c.rows for c in learner.chains), strict=True))
    )


def own_states(learner: Learner) -> Tensor:
    """Return the states that the attacked policy's own chains passed through, (N, obs_dim)."""
    return torch.cat([chains.rows.obs[chains.own] for chains in learner.chains])
