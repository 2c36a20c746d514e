"""The critics' update: Eq. 58 to 61, for the benign future or for one under attack."""

from __future__ import annotations

from collections.abc import Sequence
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

# critic steps whose attacks climb together: the policy stands still meanwhile, and more rows cost less each
_AT_ONCE = 8


class Rows(NamedTuple):
    """What one kind of critic learns from (B rows).

    Args:
        obs, actions: (B, obs_dim) and (B, act_dim), where its values are fitted.
        gained: (B,), the discounted rewards or costs of the steps that it looks ahead.
        next_obs: (B, obs_dim), where it bootstraps from.
        discounts: (B,), what the value there counts.
    """

    obs: Tensor
    actions: Tensor
    gained: Tensor
    next_obs: Tensor
    discounts: Tensor


class Batch(NamedTuple):
    """A critic step's rows: those of the reward critics, and those of the cost critics."""

    rewards: Rows
    costs: Rows

    @classmethod
    def of(cls, rows: Backups) -> Batch:
        """Return rows of the replay, each critic looking ahead as far as it is set to."""
        of_reward = Rows(rows.obs, rows.actions, rows.rewards, rows.next_obs, rows.discounts)
        return cls(
            of_reward, Rows(rows.obs, rows.actions, rows.costs, rows.cost_next_obs, rows.cost_discounts)
        )


class PerCritic(NamedTuple):
    """One value for the reward critics, and one for the cost critics: a', or what to regress to."""

    rewards: Tensor
    costs: Tensor


def expects_attack(config: PipelineConfig, epsilon: float) -> bool:
    """Return whether Q_c is the cost under an adversary that stays; SAFER's own has a benign future."""
    variant = config.variant_row
    return variant.imagined or (variant.long_horizon and epsilon > 0)


def draw_batch(
    learner: Learner,
    replay: Backups,
    config: PipelineConfig,
    epsilon: float,
    chains: Backups | None = None,
    ahead: int = 0,
) -> Batch:
    """Draw a critic step's rows uniformly from the replay, attacked where the variant says so.

    Args:
        learner: gives the place of the random streams.
        replay: benign rows.
        config: the pipeline.
        epsilon: radius of a variant that attacks what it replays.
        chains: what was imagined under attack, of a variant that imagines.
        ahead: how many critic steps later the batch is for.

    Source: Algorithm 6, line 5.
    """
    step, size = learner.counters.critic_steps + ahead, config.critics.batch
    rows = _drawn(learner, replay, size, "critic-batch", step)
    rows = rows._replace(obs=attack_replayed(learner, rows.obs, config, epsilon, "critic-adversary", step))
    imagined = None if chains is None else _drawn(learner, chains, size // 2, "chain-batch", step)
    return make_batch(rows, config, epsilon, imagined)


def make_batch(
    rows: Backups, config: PipelineConfig, epsilon: float, imagined: Backups | None = None
) -> Batch:
    """Return what the critics of a variant learn from rows of the replay.

    Args:
        rows: benign ones.
        config: the pipeline.
        epsilon: radius of the attack that Q_c expects, if it does.
        imagined: half as many rows of attacked chains, looked ahead `world.n_step` steps: the cost critics
            learn from these and from half of the others.

    Deviation: where Q_c expects an attack it looks one step ahead in benign rows, whatever
        `critics.n_step_cost` is: the logged steps between were not attacked.
    """
    batch = Batch.of(rows)
    if expects_attack(config, epsilon):
        benign = Rows(rows.obs, rows.actions, rows.step_costs, rows.step_next_obs, rows.step_discounts)
        batch = batch._replace(costs=benign)
    if imagined is not None:
        half, chained = len(imagined.costs), Batch.of(imagined).costs
        pairs = zip(batch.costs, chained, strict=True)
        batch = batch._replace(costs=Rows(*(torch.cat((seen[half:], other)) for seen, other in pairs)))
    return batch


def _drawn(learner: Learner, rows: Backups, count: int, stream: str, step: int) -> Backups:
    index = torch.randint(len(rows.rewards), (count,), generator=generator("cpu", learner.seed, stream, step))
    index = index.to(rows.rewards.device)
    return Backups(*(column.index_select(0, index) for column in rows))


@torch.no_grad()
def next_actions(
    learner: Learner, batches: Sequence[Batch], config: PipelineConfig, epsilon: float
) -> list[PerCritic]:
    """Return a' of each batch: what the policy does where each kind of critic bootstraps from.

    Args:
        learner: gives the policy, the target critics and the place of the random streams.
        batches: of this critic step and of those that follow.
        epsilon: radius of the attack that Q_c expects, if it does.

    Source: Eq. 58, 59; a' is drawn from pi(.|s').
    Deviation: where Q_c expects an attack, its a' is the mean of pi(.|nu(s')): the cost of the policy as it
        will act. Eq. 59 has a benign future, and a draw.
    """
    policy, first = learner.policy, learner.counters.critic_steps
    draws = [generator(learner.device, learner.seed, "td", first + i) for i in range(len(batches))]
    of_reward = [policy.sample(b.rewards.next_obs, draw) for b, draw in zip(batches, draws, strict=True)]
    if not expects_attack(config, epsilon):
        same = config.critics.n_step_cost == config.critics.n_step_reward
        of_cost = [
            action if same else policy.sample(b.costs.next_obs, draw)
            for b, action, draw in zip(batches, of_reward, draws, strict=True)
        ]
        return [PerCritic(*pair) for pair in zip(of_reward, of_cost, strict=True)]
    obs = torch.cat([b.costs.next_obs for b in batches])
    if epsilon > 0:
        draw = generator(learner.device, learner.seed, "td-adversary", first)
        radius = config.task_row.radius(epsilon)
        obs = mc_attack(policy, learner.target_critics, obs, radius, config.adversary, draw)
    attacked = policy.mean(obs).split([len(b.costs.next_obs) for b in batches])
    return [PerCritic(*pair) for pair in zip(of_reward, attacked, strict=True)]


@torch.no_grad()
def td_targets(target: Critics, batch: Batch, actions: PerCritic, config: PipelineConfig) -> PerCritic:
    """Return what each critic regresses to, (B,) each.

    Args:
        target: the target critics.
        batch: a critic step's rows.
        actions: a' of each.

    Source: Eq. 58, 59.
    Deviation: the cost's target is held in [0, C_m / (1 - gamma)], where every discounted cost lies; without
        it the cost critic drifts below zero once violations are rare.
    """
    of_reward, of_cost = batch
    next_reward = target.q_reward(of_reward.next_obs, actions.rewards)
    next_cost = target.q_cost(of_cost.next_obs, actions.costs)
    rewards = bellman.td_target(of_reward.gained, of_reward.discounts, next_reward)
    costs = bellman.td_target(of_cost.gained, of_cost.discounts, next_cost)
    ceiling = bellman.cost_ceiling(config.task_row.max_step_cost, config.critics.gamma_cost)
    return PerCritic(rewards, costs.clamp(0.0, ceiling))


def td_loss(critics: Critics, batch: Batch, targets: PerCritic) -> Tensor:
    """Return the mean squared Bellman error, summed over all critics.

    Args:
        critics: the online critics.
        batch: a critic step's rows.
        targets: what to regress to.

    Source: Eq. 58, 59; the sum of independent losses has each critic's own gradient.
    """
    of_reward, of_cost = batch
    q_reward = critics.ensemble(of_reward.obs, of_reward.actions, critics.reward_members)
    q_cost = critics.ensemble(of_cost.obs, of_cost.actions, critics.cost_members)
    reward_loss = (q_reward - targets.rewards / critics.reward_scale).square().mean(1).sum()
    return reward_loss + (q_cost - targets.costs).square().mean(1).sum()


def polyak_update(target: Critics, online: Critics, polyak: float) -> None:
    """Move the target critics towards the online ones (Eq. 61)."""
    with torch.no_grad():
        now: list[Tensor] = list(online.parameters())
        then: list[Tensor] = list(target.parameters())
        torch._foreach_lerp_(then, now, 1.0 - polyak)


def critic_step(learner: Learner, batch: Batch, actions: PerCritic, config: PipelineConfig) -> Tensor:
    """Do one update of all critics and their targets; return the loss before it, scalar.

    Args:
        batch: the step's rows.
        actions: a' of each.

    Source: Eq. 58-61.
    """
    loss = td_loss(learner.critics, batch, td_targets(learner.target_critics, batch, actions, config))
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
        epsilon: radius that Q_c expects, and in which a variant attacks the replay.
        steps: updates.
        track: where progress is reported.

    Deviation: the attacks that Q_c expects in some steps in a row climb the target critics as they are before
        the first of them.
    """
    losses: list[Tensor] = []
    chains = chain_backups(learner, config) if config.variant_row.imagined else None
    at_once = _AT_ONCE if expects_attack(config, epsilon) else 1
    while len(losses) < steps:
        count = min(at_once, steps - len(losses))
        batches = [draw_batch(learner, replay, config, epsilon, chains, ahead) for ahead in range(count)]
        for batch, actions in zip(batches, next_actions(learner, batches, config, epsilon), strict=True):
            losses.append(critic_step(learner, batch, actions, config))
            if track is not None and len(losses) % 50 == 0:
                track(len(losses), f"loss {float(losses[-1]):.4g}")
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
