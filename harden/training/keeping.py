"""Which policy of a run is published where a floor of the reward is set: the safest one above the floor."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.envs.rollout import Acted, Simulation, rollout
from harden.method.adversary import mc_attack
from harden.method.imagination import imagined_cost
from harden.method.learner import Learner
from harden.method.schedules import Scheduled, discounted_threshold
from harden.nets import GaussianPolicy
from harden.seeds import episode_seeds, generator
from harden.training.record import Row, RunRecord

_EPISODES = 10
# the least share of the reward that training may lose and say nothing, and for how many refreshes it may
KEPT, _REFRESHES = 0.5, 3


def try_policy(config: PipelineConfig, policy: GaussianPolicy, envs: Simulation) -> Row:
    """Return {"reward", "cost"} of a policy by its mean, without an attack: means over ten episodes.

    Args:
        config: gives the seed of the episodes, which are none that data are collected from.
        policy: acts.
        envs: the simulation.
    """
    device = policy.half_range.device
    return try_actions(config, lambda obs: policy.mean(obs.to(device)), envs)


def try_actions(config: PipelineConfig, action: Callable[[Tensor], Tensor], envs: Simulation) -> Row:
    """Return the same of whatever decides actions (B, act_dim) on observations (B, obs_dim)."""
    low, high = (torch.tensor(bound) for bound in config.task_row.bounds)

    def act(obs: Tensor, slots: Tensor) -> Acted:
        with torch.no_grad():
            chosen = action(obs).cpu()
        return Acted(torch.minimum(torch.maximum(chosen, low), high), obs)

    run = rollout(envs, act, episode_seeds(config.seed, "ending", 0, _EPISODES).tolist())
    return {"reward": float(run.rewards.mean()), "cost": float(run.costs.mean())}


def reward_floor(config: PipelineConfig, record: RunRecord) -> float | None:
    """Return the least natural reward that a run may end with, None where none is set."""
    if config.train.keep is None or record.start is None:
        return None
    # of a reward below zero a share would be more of it
    return record.start["reward"] - (1.0 - config.train.keep) * abs(record.start["reward"])


def collapse(config: PipelineConfig, record: RunRecord) -> str:
    """Return a sentence where the roll-outs have earned far less than before for three refreshes, else "".

    Far less is below `train.keep`, unset half, of the first refresh's reward where a policy was given, which
    acts in it as it came; without one, of the best refresh's.
    """
    history, share = record.history or [], KEPT if config.train.keep is None else config.train.keep
    if not history:
        return ""
    given = record.start is not None
    before = history[0] if given else max(history, key=lambda row: row["reward"])
    floor = share * before["reward"]
    low = list(itertools.takewhile(lambda row: row["reward"] < floor, reversed(history)))
    if before["reward"] <= 0 or len(low) < _REFRESHES:
        return ""
    what = "began with" if given else f"had in refresh {before['refresh']:.0f}"
    return (
        f"for {len(low)} refreshes the roll-outs have earned less than {share:.0%} of the "
        f"{before['reward']:.1f} that training {what}, in the last {history[-1]['reward']:.1f}"
    )


def attacked_cost(
    learner: Learner, firsts: Tensor, states: Tensor, config: PipelineConfig, terms: Scheduled
) -> float:
    """Return the cost an episode that the averaged policy is expected to have under attack.

    Nothing is simulated under attack: a variant that imagines asks its world model, another one its Q_c at
    the attacked mean action, over recent states.

    Args:
        firsts: (E, obs_dim), where episodes begin.
        states: (N, obs_dim), recent observations.
        terms: the schedules' place.
    """
    if config.variant_row.imagined:
        return imagined_cost(learner, learner.average, firsts, config, terms.epsilon)
    draw = generator(learner.device, learner.seed, "keeping", learner.counters.round)
    index = torch.randint(len(states), (1000,), generator=draw, device=states.device)
    obs, radius = states[index], config.task_row.radius(terms.epsilon)
    obs_adv = mc_attack(learner.average, learner.critics, obs, radius, config.adversary, draw)
    with torch.no_grad():
        q_cost = float(learner.critics.q_cost(obs, learner.average.mean(obs_adv)).clamp_min(0.0).mean())
    # what of an episode's cost one step's Q_c is, the other way round (B.1)
    return q_cost / discounted_threshold(1.0, config.task_row.horizon, config.critics.gamma_cost)


def consider(
    learner: Learner,
    candidate: Row,
    safest: Row | None,
    floor: float,
) -> Row | None:
    """Keep the averaged policy if it is the safest so far of those that earn enough.

    Args:
        learner: its `safest` is replaced where the candidate is safer.
        candidate: refresh, reward, cost and attacked_cost of the averaged policy as it is now.
        safest: the same of the policy kept so far.
        floor: the least natural reward an episode.

    Returns:
        The figures of the policy that is kept, None while none earns enough.
    """
    if candidate["reward"] < floor or (safest is not None and _rank(safest) <= _rank(candidate)):
        return safest
    learner.safest = copy.deepcopy(learner.average)
    return candidate


def _rank(figures: Row) -> tuple[float, float, float]:
    """Return what is lower for a safer policy, and among equally safe ones for a better one."""
    return figures["attacked_cost"], figures["cost"], -figures["reward"]
