"""The adversary that asks nothing but the simulator: an evolution strategy over whole episodes' cost."""

from __future__ import annotations

import torch
from torch import Tensor

from harden.attacks.ball import Norm
from harden.attacks.linear import LinearAdversary
from harden.config.tasks import Task
from harden.envs.rollout import Acted, rollout
from harden.envs.vector import VectorEnv
from harden.nets import GaussianPolicy
from harden.progress import Reporter
from harden.seeds import episode_seeds, generator

_CANDIDATES = 16
_EPISODES = 2
_SIGMA, _RATE = 0.5, 1.0


def _visited(
    envs: VectorEnv, policy: GaussianPolicy, seed: int, device: torch.device
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
    envs: VectorEnv,
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
        mine = LinearAdversary(adversaries.weights[slots.to(device)], adversaries.centre, adversaries.spread)
        delta = mine.perturbation(obs, radius.to(obs), norm)
        return Acted(policy.clip(policy.mean(obs + delta)).cpu(), obs.cpu())

    return torch.from_numpy(rollout(envs, act, starts).costs).view(_CANDIDATES, _EPISODES).mean(1)


@torch.no_grad()
def search_adversary(
    policy: GaussianPolicy,
    task: Task,
    *,
    epsilon: float,
    norm: Norm,
    budget: int,
    seed: int,
    workers: int | None,
    device: torch.device,
    report: Reporter,
) -> tuple[LinearAdversary, list[float]]:
    """Return the linear adversary that cost most, found by values of whole episodes alone.

    Args:
        policy: the victim, by its mean.
        task: simulation.
        epsilon, norm: of the ball, raw observation units.
        budget: attacked episodes in all; sixteen adversaries try two each in a generation.
        seed: of the episodes and the candidates; not those of the evaluation.

    Returns:
        The adversary, and the mean cost of each generation.

    Source: Salimans et al. 2017 (evolution strategies: antithetic pairs, ranks), on the linear policies of
        Mania et al. 2018.
    """
    mean = torch.zeros(task.obs_dim, task.obs_dim + 1, device=device)
    radius = torch.tensor(task.radius(epsilon))
    generations = max(1, budget // (_CANDIDATES * _EPISODES))
    history, best_cost, best = list[float](), -1.0, mean
    with (
        VectorEnv(task, _CANDIDATES * _EPISODES, workers) as envs,
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
