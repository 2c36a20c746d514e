"""The critics' update: Eq. 58 to 61, for the benign future or for one under attack."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.method import bellman
from harden.method.adversary import attack_replayed, mc_attack
from harden.method.bellman import Backups
from harden.method.imagination import all_chains
from harden.method.learner import Learner
from harden.nets import Critics
from harden.progress import Track
from harden.seeds import generator
from harden.types import Transitions


def draw_batch(learner: Learner, replay: Backups, config: PipelineConfig, epsilon: float) -> Backups:
    """Draw this critic step's minibatch uniformly from the replay, attacked where the variant says so.

    Source: Algorithm 6, line 5.
    """
    step = learner.counters.critic_steps
    place = generator("cpu", learner.seed, "critic-batch", step)
    rows = torch.randint(len(replay.rewards), (config.critics.batch,), generator=place)
    rows = rows.to(replay.rewards.device)
    batch = Backups(*(column.index_select(0, rows) for column in replay))
    return batch._replace(obs=attack_replayed(learner, batch.obs, config, epsilon, "critic-adversary", step))


class TdTargets(NamedTuple):
    """What the reward critics and the cost critics regress to, (B,) each."""

    rewards: Tensor
    costs: Tensor


def td_targets(learner: Learner, batch: Backups, config: PipelineConfig, epsilon: float) -> TdTargets:
    """Return what each critic regresses to.

    Args:
        learner: gives the policy, the target critics and the place of the random stream.
        batch: rows of the replay.
        epsilon: radius that a long-horizon cost critic expects its adversary to have.

    Source: Eq. 58, 59.
    Deviation: the cost's target is held in [0, C_m / (1 - gamma)], where every discounted cost lies; without
        it the cost critic drifts below zero once violations are rare. In a long-horizon variant its a' is
        the mean of pi(.|nu(s')), or a sample (`adversary.long_horizon`): Q_c is the cost under an adversary
        that stays, by the mean that of the policy as it will act. It looks one step ahead whatever
        `critics.n_step_cost` is: the logged steps between were not attacked.
    """
    policy, target = learner.policy, learner.target_critics
    draw = generator(learner.device, learner.seed, "td", learner.counters.critic_steps)
    with torch.no_grad():
        actions = policy.sample(batch.next_obs, draw)
    if config.variant_row.long_horizon and epsilon > 0:
        next_reward = target.q_reward(batch.next_obs, actions)
        next_cost = _attacked_cost(learner, batch.step_next_obs, config, epsilon, draw)
        costs = bellman.td_target(batch.step_costs, batch.step_discounts, next_cost)
    else:
        if config.critics.n_step_cost == config.critics.n_step_reward:
            next_reward, next_cost = target.q_both(batch.next_obs, actions)
        else:
            with torch.no_grad():
                cost_actions = policy.sample(batch.cost_next_obs, draw)
            next_reward = target.q_reward(batch.next_obs, actions)
            next_cost = target.q_cost(batch.cost_next_obs, cost_actions)
        costs = bellman.td_target(batch.costs, batch.cost_discounts, next_cost)
    rewards = bellman.td_target(batch.rewards, batch.discounts, next_reward)
    ceiling = bellman.cost_ceiling(config.task_row.max_step_cost, config.critics.gamma_cost)
    return TdTargets(rewards, costs.clamp(0.0, ceiling))


def _attacked_cost(
    learner: Learner, obs: Tensor, config: PipelineConfig, epsilon: float, draw: torch.Generator
) -> Tensor:
    """Return Q_c(s', a') with a' from pi(.|nu(s')), (B,).

    Deviation: Eq. 59 has a benign future.
    """
    policy, target = learner.policy, learner.target_critics
    obs_adv = obs
    if epsilon > 0:
        obs_adv = mc_attack(policy, target, obs, config.task_row.radius(epsilon), config.adversary, draw)
    with torch.no_grad():
        by_mean = config.adversary.long_horizon == "mean"
        actions = policy.mean(obs_adv) if by_mean else policy.sample(obs_adv, draw)
        return target.q_cost(obs, actions)


def td_loss(critics: Critics, batch: Backups, targets: TdTargets) -> Tensor:
    """Return the mean squared Bellman error, summed over all critics.

    Args:
        critics: the online critics.
        batch: rows of the replay.
        targets: what to regress to.

    Source: Eq. 58, 59; the sum of independent losses has each critic's own gradient.
    """
    values = critics(batch.obs, batch.actions)
    rewards = targets.rewards / critics.reward_scale
    of_reward = (values[critics.reward_members] - rewards).square().mean(1).sum()
    of_cost = (values[critics.cost_members] - targets.costs).square().mean(1).sum()
    return of_reward + of_cost


def polyak_update(target: Critics, online: Critics, polyak: float) -> None:
    """Move the target critics towards the online ones (Eq. 61)."""
    with torch.no_grad():
        now: list[Tensor] = list(online.parameters())
        then: list[Tensor] = list(target.parameters())
        torch._foreach_lerp_(then, now, 1.0 - polyak)


def imagined_loss(
    learner: Learner, batch: Backups, chains: Backups, config: PipelineConfig, epsilon: float
) -> Tensor:
    """Return the Bellman error of a variant that imagines, summed over all critics.

    The reward critics learn from the benign batch; the cost critics from half of it, a step ahead, and from
    as many rows of attacked chains, `world.n_step` steps ahead. Both bootstrap from the policy's mean under
    the attack that goes on.

    Args:
        batch: benign rows of the replay.
        chains: imagined ones, looked ahead.
        epsilon: radius of the attack.

    Source: Eq. 58, 59; the cost's future is under attack, where Eq. 59 has a benign one.
    """
    policy, critics, target = learner.policy, learner.critics, learner.target_critics
    step, half = learner.counters.critic_steps, len(batch.rewards) // 2
    place = generator("cpu", learner.seed, "chain-batch", step)
    rows = torch.randint(len(chains.costs), (half,), generator=place).to(chains.costs.device)
    seen = Backups(*(column[half:] for column in batch))
    imagined = Backups(*(column.index_select(0, rows) for column in chains))
    draw = generator(learner.device, learner.seed, "td", step)
    with torch.no_grad():
        next_reward = target.q_reward(batch.next_obs, policy.sample(batch.next_obs, draw))
    next_obs = torch.cat((seen.step_next_obs, imagined.cost_next_obs))
    next_cost = _attacked_cost(learner, next_obs, config, epsilon, draw)
    discounts = torch.cat((seen.step_discounts, imagined.cost_discounts))
    costs = bellman.td_target(torch.cat((seen.step_costs, imagined.costs)), discounts, next_cost)
    ceiling = bellman.cost_ceiling(config.task_row.max_step_cost, config.critics.gamma_cost)
    q_reward = critics.ensemble(batch.obs, batch.actions, critics.reward_members)
    obs, actions = torch.cat((seen.obs, imagined.obs)), torch.cat((seen.actions, imagined.actions))
    q_cost = critics.ensemble(obs, actions, critics.cost_members)
    rewards = bellman.td_target(batch.rewards, batch.discounts, next_reward)
    of_reward = (q_reward - rewards / critics.reward_scale).square().mean(1).sum()
    return of_reward + (q_cost - costs.clamp(0.0, ceiling)).square().mean(1).sum()


def critic_step(
    learner: Learner, replay: Backups, config: PipelineConfig, epsilon: float, chains: Backups | None = None
) -> Tensor:
    """Do one update of all critics and their targets; return the loss before it, scalar.

    Args:
        chains: imagined ones, of a variant that imagines.

    Source: Eq. 58-61.
    """
    batch = draw_batch(learner, replay, config, epsilon)
    if chains is None:
        loss = td_loss(learner.critics, batch, td_targets(learner, batch, config, epsilon))
    else:
        loss = imagined_loss(learner, batch, chains, config, epsilon)
    learner.critic_optimizer.zero_grad(set_to_none=True)
    loss.backward()
    learner.critic_optimizer.step()
    polyak_update(learner.target_critics, learner.critics, config.critics.polyak)
    learner.advance(critic_steps=1)
    return loss.detach()


def fit_critics(
    learner: Learner,
    replay: Backups,
    config: PipelineConfig,
    epsilon: float,
    steps: int,
    track: Track | None = None,
) -> Tensor:
    """Do some updates of the critics; return the loss of each, (steps,).

    Args:
        learner: its critics and their targets are changed in place.
        replay: what is learned from.
        config: the pipeline.
        epsilon: radius that a long-horizon cost critic expects, and in which a variant attacks the replay.
        steps: updates.
        track: where progress is reported.
    """
    losses = []
    chains = chain_backups(learner, config) if config.variant_row.imagined else None
    for step in range(1, steps + 1):
        losses.append(critic_step(learner, replay, config, epsilon, chains))
        if track is not None and step % 50 == 0:
            track(step, f"loss {float(losses[-1]):.4g}")
    return torch.stack(losses) if losses else torch.zeros(0)


def measure(learner: Learner, data: Transitions, config: PipelineConfig) -> None:
    """Take the units of new data: what a step earns, and, the first time, what an episode costs.

    The reward critics take the root mean square of the rewards as 1; each Q_r stays what it is.
    """
    if learner.first_cost is None:
        # of as many steps as an episode may have: imagined ones are shorter
        episodes = max(1.0, len(data.costs) / config.task_row.horizon)
        learner.first_cost = float(data.costs.double().sum()) / episodes
    if config.critics.scale_rewards:
        scale = float(data.rewards.double().square().mean().sqrt()) or 1.0
        learner.critics.rescale_rewards(scale)
        learner.target_critics.rescale_rewards(scale)


def chain_backups(learner: Learner, config: PipelineConfig) -> Backups:
    """Return the chains of the last refreshes, looked ahead."""
    critics = config.critics
    of_reward, of_cost = (critics.gamma_reward, 1), (critics.gamma_cost, config.world.n_step)
    # the same until attacks are imagined anew, and asked for in every round
    if learner.chains_ahead is None:
        learner.chains_ahead = bellman.backups(all_chains(learner), of_reward, of_cost)
    return learner.chains_ahead


def make_replay(data: Transitions, config: PipelineConfig, device: torch.device) -> Backups:
    """Return what the critics learn from, looked ahead, on the learner's device."""
    if config.variant_row.on_policy:
        data = bellman.as_observed(data)
    critics = config.critics
    of_reward = (critics.gamma_reward, critics.n_step_reward)
    replay = bellman.backups(data, of_reward, (critics.gamma_cost, critics.n_step_cost))
    return Backups(*(column.to(device) for column in replay))
