"""What a policy earns and costs by fitted Q evaluation of logs: a second opinion beside a world model's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig, make_config
from harden.evaluation.entries import summarise
from harden.method.critic_step import Batch, PerCritic, Rows, critic_step
from harden.method.imagination import first_observations
from harden.method.learner import Learner
from harden.nets import Critics, GaussianPolicy
from harden.progress import Reporter
from harden.seeds import derive, generator
from harden.types import Transitions

# fits, each to other episodes: what they differ by is what the logs leave open
_MEMBERS = 3
# target critics that lag more have not carried a value back over an episode when the steps are over
_POLYAK = 0.8
# observations that a policy is asked for at once
_CHUNK = 4096


def second_opinion(
    config: PipelineConfig, policy: GaussianPolicy, rows: Transitions, report: Reporter
) -> dict[str, Any]:
    """Return what an episode of a policy earns and costs, without an attack, by critics fitted to logs.

    Q(s, k, a) is what the next k steps come to: the step's own reward or cost, and Q(s', k - 1, pi(s')) where
    the step neither ends the episode nor k; k is drawn anew for each row. Nothing is discounted, and no
    critic looks past the time limit. At k = H in the logged first states that is the return of an episode.

    Args:
        config: gives the task, the critics' sizes, `evaluate.independent_steps` and the seed.
        policy: acts as `evaluate.action` says.
        rows: whole episodes.

    Returns:
        {"reward", "cost": {"mean", "ci95"}, "members", "steps"}: the interval holds that of each member over
        the first states. Each member has learned from episodes that were drawn with replacement.

    Source: Le et al. 2019 (Algorithm 3); Hao et al. 2021 (the bootstrap over episodes).
    Deviation: the steps left are an input, in the place of a discount; there are target critics, in the place
        of one regression after the other.
    """
    task, steps = config.task_row, config.evaluate.independent_steps
    # of the discount only the ceiling of a cost is taken: C_m for each step of an episode
    gamma = task.horizon / (task.horizon + 1)
    discounts = {"gamma_reward": gamma, "gamma_cost": gamma, "polyak": _POLYAK}
    tree = config.model_dump() | {"variant": "cvpo", "preset": "none"}
    fit = make_config(tree | {"critics": tree["critics"] | discounts})
    # a policy that was tried is where its trial was; all else is on the CPU
    place = policy.half_range.device
    draw = generator(place, config.seed, "fitted-q-actions")

    @torch.no_grad()
    def acted(obs: Tensor) -> Tensor:
        mean = config.evaluate.action == "mean"
        parts = (part.to(place) for part in obs.split(_CHUNK))
        return torch.cat(
            [policy.clip(policy.mean(o) if mean else policy.sample(o, draw)) for o in parts]
        ).cpu()

    def timed(obs: Tensor, left: Tensor) -> Tensor:
        # networks see observations in units of `obs_scale`
        share = config.networks.obs_scale * left / task.horizon
        return torch.cat((obs, share.unsqueeze(1)), 1)

    firsts = first_observations(rows)
    first_actions, next_actions = acted(firsts), acted(rows.next_obs)
    found: dict[str, list[dict[str, Any]]] = {"reward": [], "cost": []}
    with report.track("fitted Q", _MEMBERS * steps, "steps") as track:
        for member in range(_MEMBERS):
            learner, pool = _learner(fit, rows, member), _resampled(rows, fit.seed, member)
            picks = generator("cpu", fit.seed, "fitted-q-rows", member)
            for step in range(steps):
                for group in learner.critic_optimizer.param_groups:
                    group["lr"] = fit.critics.learning_rate * min(1.0, 2.0 - 2.0 * step / steps)
                index = pool[torch.randint(len(pool), (fit.critics.batch,), generator=picks)]
                left = torch.randint(1, task.horizon + 1, (len(index),), generator=picks)
                obs, next_obs = timed(rows.obs[index], left), timed(rows.next_obs[index], left - 1)
                goes_on = (left > 1) & ~rows.terminals[index]
                of_reward = Rows(obs, rows.actions[index], rows.rewards[index], next_obs, goes_on.float())
                batch = Batch(of_reward, of_reward._replace(gained=rows.costs[index]))
                critic_step(learner, batch, PerCritic(next_actions[index], next_actions[index]), fit)
                if step % 50 == 49:
                    track(member * steps + step + 1)
            whole = timed(firsts, torch.full((len(firsts),), task.horizon))
            reward, cost = learner.target_critics.q_both(whole, first_actions)
            # no episode costs less than nothing
            for name, q in (("reward", reward), ("cost", cost.clamp_min(0.0))):
                found[name].append(summarise(q.detach().double().numpy()))
    return {name: _together(each) for name, each in found.items()} | {"members": _MEMBERS, "steps": steps}


def _learner(config: PipelineConfig, rows: Transitions, member: int) -> Learner:
    """Return critics of one more coordinate than observations have, and what fits them."""
    task, networks = config.task_row, config.networks
    sizes = task.obs_dim + 1, task.act_dim, 1, 1, networks.critic_hidden, networks.obs_scale
    # what an episode earns is of the order of 1 for the network
    scale = task.horizon * float(rows.rewards.double().square().mean().sqrt()) or 1.0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "fitted-q-weights", member))
        critics = Critics(*sizes, reward_scale=scale)
        # who acts is known: its actions are drawn beforehand
        nobody = GaussianPolicy(task.obs_dim, task.act_dim, (1,))
    critics.expect_no_reward()
    return Learner(nobody, critics, config, torch.device("cpu"))


def _resampled(rows: Transitions, seed: int, member: int) -> Tensor:
    """Return the rows of as many episodes as there are, drawn with replacement: their numbers, (N',)."""
    ends = (rows.terminals | rows.timeouts).nonzero().squeeze(1) + 1
    lengths = ends.diff(prepend=ends.new_zeros(1))
    draw = generator("cpu", seed, "fitted-q-episodes", member)
    picked = torch.randint(len(ends), (len(ends),), generator=draw)
    episodes = torch.arange(int(ends[-1])).split(lengths.tolist())
    return torch.cat([episodes[i] for i in picked.tolist()])


def _together(members: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over the members, and an interval that holds each of theirs."""
    lows, highs = zip(*(member["ci95"] for member in members), strict=True)
    mean = sum(member["mean"] for member in members) / len(members)
    return {"mean": mean, "ci95": [min(lows), max(highs)]}
