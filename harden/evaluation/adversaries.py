"""Adversaries made in whole attacked episodes of one policy: one plans, one asks the simulator alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harden.attacks import ATTACKS, Strength, perturb
from harden.attacks.ball import Norm
from harden.attacks.linear import LinearAdversary
from harden.config.pipeline import PipelineConfig
from harden.envs.rollout import Acted, Simulate, Simulation, rollout
from harden.method.bellman import Backups, backups
from harden.method.critic_step import Batch, PerCritic, polyak_update, td_loss, td_targets
from harden.nets import Critics, GaussianPolicy
from harden.progress import Reporter
from harden.seeds import derive, episode_seeds, generator
from harden.types import Transitions

# a share of the steps of exploring episodes sees a random perturbation instead of the learned one
_EXPLORES = 0.3
# exploring episodes are attacked in a wider ball: a policy that holds in its own shows no cost there, and the
# value of the victim's actions may be learned from whatever caused them
_BEYOND = 2.0
# how hard the adversary tries in its own future, in its roll-outs
_INSIDE, _ACTING = Strength(1, 1, 2.0, queries=17), Strength(10, 2, queries=65)


class Planned(NamedTuple):
    """What an adversary learned.

    Args:
        critics: those of its best round; Q_r is the policy's unattacked one.
        costs: mean cost of the episodes that it attacked without exploring, by round; noise is the first.
        best: the round kept.
        seen: mean cost of all episodes that it learned from.
    """

    critics: Critics
    costs: list[float]
    best: int
    seen: float


class _Adversary:
    def __init__(
        self, policy: GaussianPolicy, config: PipelineConfig, epsilon: float, norm: Norm, device: torch.device
    ) -> None:
        task, nets = config.task_row, config.networks
        self.policy, self.config, self.device = policy, config, device
        self.radius = task.radius(epsilon)
        self.inside, self.acting = _INSIDE._replace(norm=norm), _ACTING._replace(norm=norm)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "planner-weights"))
            critics = Critics(task.obs_dim, task.act_dim, 1, 2, nets.critic_hidden, nets.obs_scale)
        self.critics = critics.to(device)
        self.target = copy.deepcopy(self.critics).requires_grad_(False)
        rate = config.critics.learning_rate
        self.optimizer = torch.optim.Adam(self.critics.parameters(), lr=rate, fused=True)
        self.steps = 0

    def collect(self, envs: Simulation, number: int, episodes: int) -> tuple[Transitions, float]:
        """Attack episodes, every second one with exploration; returns clean states, the others' cost."""
        draw = generator(self.device, self.config.seed, "planner-acts", number)
        noise, own = ATTACKS["random"], self.radius
        wide = [_BEYOND * r for r in own] if isinstance(own, tuple) else _BEYOND * own

        def attacked(obs: Tensor, radius: float | Sequence[float], share: float) -> Tensor:
            # a share of the states sees noise
            given = perturb(noise, self.policy, None, obs, radius, self.acting, draw)
            if not number:
                return given
            planned = perturb(ATTACKS["learned"], self.policy, self.critics, obs, radius, self.acting, draw)
            chance = torch.rand((len(obs), 1), generator=draw, device=self.device)
            return torch.where(chance < share, given, planned)

        def act(obs: Tensor, slots: Tensor) -> Acted:
            obs, odd = obs.to(self.device), (slots.to(self.device) % 2 == 1).unsqueeze(1)
            given = torch.where(odd, attacked(obs, wide, _EXPLORES), attacked(obs, own, 0.0))
            with torch.no_grad():
                actions = self.policy.clip(self.policy.mean(given))
                if not number:
                    # before anything is known the actions say more than the perturbations
                    actions = torch.where(odd, self.policy.sample(given, draw), actions)
            # the critic is asked at the clean observation
            return Acted(actions.cpu(), obs.cpu())

        seeds = episode_seeds(self.config.seed, "planner", number * episodes, episodes)
        run = rollout(envs, act, seeds.tolist())
        greedy = run.costs[::2]
        return run.transitions, float(sum(greedy) / len(greedy))

    def learn(self, replay: Backups) -> None:
        """Do one TD step on a batch.

        Deviation: SAFER's adversary expects a benign future (Eq. 59); this one's Q_c is the cost when it
        goes on attacking, as the adversary's own value in VALT-SAC is for reward.
        """
        draw = generator(self.device, self.config.seed, "planner-td", self.steps)
        size = (self.config.critics.batch,)
        index = torch.randint(len(replay.rewards), size, generator=draw, device=self.device)
        rows = Backups(*(column[index] for column in replay))
        attacked = perturb(
            ATTACKS["learned"], self.policy, self.target, rows.next_obs, self.radius, self.inside, draw
        )
        with torch.no_grad():
            actions = PerCritic(self.policy.mean(rows.next_obs), self.policy.mean(attacked))
        batch = Batch.of(rows)
        loss = td_loss(self.critics, batch, td_targets(self.target, batch, actions, self.config))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        polyak_update(self.target, self.critics, self.config.critics.polyak)
        self.steps += 1


def plan_adversary(
    policy: GaussianPolicy,
    config: PipelineConfig,
    simulate: Simulate,
    epsilon: float,
    norm: Norm,
    device: torch.device,
    report: Reporter,
) -> Planned:
    """Train an adversary of a frozen policy: its action is the perturbation, its reward the cost.

    Its value of (s, a) is learned over the victim's actions, of which the perturbation chooses one:
    Q-learning in which the maximum over actions is the one over the ball, climbed as every attack climbs.
    Each round attacks new episodes with what was learned so far.

    Args:
        policy: the victim, by its mean.
        config: task, seed, the critics' settings and the sizes (`evaluate.learned_*`).
        simulate: opens the task's environments.
        epsilon, norm: of the ball, raw observation units.

    Source: Zhang et al. 2021 (ATLA: the adversary as an agent), with cost as its reward.
    """
    episodes, rounds = config.evaluate.learned_episodes, config.evaluate.learned_rounds
    adversary = _Adversary(policy, config, epsilon, norm, device)
    kept, costs, data, best = copy.deepcopy(adversary.critics), list[float](), list[Transitions](), 0
    with (
        simulate(episodes) as envs,
        report.track("learned adversary", rounds, "rounds") as track,
    ):
        for number in range(rounds + 1):
            transitions, cost = adversary.collect(envs, number, episodes)
            costs.append(cost)
            if number and (best == 0 or cost >= costs[best]):
                best, kept = number, copy.deepcopy(adversary.critics)
            if number == rounds:
                break
            data.append(transitions)
            whole = Transitions(*(torch.cat(columns) for columns in zip(*data, strict=True)))
            plain = backups(whole, (config.critics.gamma_reward, 1), (config.critics.gamma_cost, 1))
            replay = Backups(*(column.to(device) for column in plain))
            for _ in range(config.evaluate.learned_steps):
                adversary.learn(replay)
            track(number + 1, f"cost {cost:.1f}")
    # the last round's episodes are judged by, not learned from
    seen = float(sum(part.costs.sum() for part in data) / (episodes * max(rounds, 1)))
    return Planned(kept.eval().requires_grad_(False), costs, best, seen)


_CANDIDATES = 16
_EPISODES = 2
_SIGMA, _RATE = 0.5, 1.0


def _visited(
    envs: Simulation, policy: GaussianPolicy, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return mean and spread of the states that the policy visits unattacked: the adversary's scale."""

    def act(obs: Tensor, slots: Tensor) -> Acted:
        return Acted(policy.clip(policy.mean(obs.to(device))).cpu(), obs)

    run = rollout(envs, act, episode_seeds(seed, "episode-search-natural", 0, 8).tolist())
    obs = run.transitions.obs.to(device)
    return obs.mean(0), obs.std(0)


def _climb(costs: Tensor, noise: Tensor) -> Tensor:
    """Return the step towards what cost most, by ranks: one lucky episode moves nothing far."""
    ranks = costs.argsort().argsort().float() / (_CANDIDATES - 1) - 0.5
    return torch.einsum("c,cij->ij", ranks, noise) / (_CANDIDATES * ranks.std())


def _play(
    envs: Simulation,
    policy: GaussianPolicy,
    adversaries: LinearAdversary,
    radius: Tensor,
    norm: Norm,
    starts: list[int],
) -> Tensor:
    """Return each candidate's mean cost; slot j plays candidate j // _EPISODES, all from the same starts."""
    device = adversaries.weights.device

    def act(obs: Tensor, slots: Tensor) -> Acted:
        obs = obs.to(device)
        own = LinearAdversary(adversaries.weights[slots.to(device)], adversaries.centre, adversaries.spread)
        delta = own.perturbation(obs, radius.to(obs), norm)
        return Acted(policy.clip(policy.mean(obs + delta)).cpu(), obs.cpu())

    return torch.from_numpy(rollout(envs, act, starts).costs).view(_CANDIDATES, _EPISODES).mean(1)


@torch.no_grad()
def search_adversary(
    policy: GaussianPolicy,
    config: PipelineConfig,
    simulate: Simulate,
    epsilon: float,
    norm: Norm,
    device: torch.device,
    report: Reporter,
) -> tuple[LinearAdversary, list[float]]:
    """Return the linear adversary that cost most, found by values of whole episodes alone.

    Sixteen adversaries try two episodes each in a generation; none of them are the evaluation's.

    Args:
        policy: the victim, by its mean.
        config: task, seed, and how many attacked episodes in all (`evaluate.simulator_episodes`).
        simulate: opens the task's environments.
        epsilon, norm: of the ball, raw observation units.

    Returns:
        The adversary, and the mean cost of each generation.

    Source: Salimans et al. 2017 (evolution strategies: antithetic pairs, ranks), on the linear policies of
        Mania et al. 2018.
    """
    task, seed = config.task_row, derive(config.seed, "critic-free") % 2**32
    mean = torch.zeros(task.obs_dim, task.obs_dim + 1, device=device)
    radius = torch.tensor(task.radius(epsilon))
    generations = max(1, config.evaluate.simulator_episodes // (_CANDIDATES * _EPISODES))
    history, best_cost, best = list[float](), -1.0, mean
    with (
        simulate(_CANDIDATES * _EPISODES) as envs,
        report.track("critic-free adversary", generations, "generations") as track,
    ):
        centre, spread = _visited(envs, policy, seed, device)
        for generation in range(generations):
            draw = generator(device, seed, "episode-search", generation)
            half = torch.randn(_CANDIDATES // 2, *mean.shape, generator=draw, device=device)
            noise = torch.cat((half, -half))
            weights = mean + _SIGMA * noise
            starts = episode_seeds(seed, "episode-search", generation * _EPISODES, _EPISODES).tolist()
            adversaries = LinearAdversary(weights.repeat_interleave(_EPISODES, 0), centre, spread)
            costs = _play(envs, policy, adversaries, radius, norm, starts * _CANDIDATES)
            history.append(float(costs.mean()))
            if float(costs.max()) > best_cost:
                best_cost, best = float(costs.max()), weights[int(costs.argmax())]
            mean = mean + _RATE * _SIGMA * _climb(costs.to(device), noise)
            track(generation + 1, f"cost {history[-1]:.1f}")
    # the last mean has averaged over many starts, the best candidate over two
    return LinearAdversary(mean if history[-1] >= 0.5 * best_cost else best, centre, spread), history
