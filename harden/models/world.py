"""The world model: an ensemble that predicts a step's next observation, reward, cost and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from harden.config.rule import cost_of, parse_rule
from harden.types import Transitions

# a step further than this many of the data's own deviations is a slip of the network
_LONGEST_STEP = 10.0
_TINY = 1e-6
# the share of steps that earn less than the least that is counted with: single ones are chance
_LEAST = 0.01


class Outcome(NamedTuple):
    """What each member of the ensemble expects of a step (M members, B rows).

    Args:
        next_obs: (M, B, obs_dim), raw observation units.
        rewards: (M, B).
        costs: (M, B), the expected cost, in [0, C_m].
        ends: (M, B), the probability that the dynamics end the episode.
        disagreement: (B,), deviation of the members' steps in units of the data's, mean over coordinates.
    """

    next_obs: Tensor
    rewards: Tensor
    costs: Tensor
    ends: Tensor
    disagreement: Tensor


class _Member(nn.Module):
    """One network for the step, and one that reads what the step came to; all in units of the data."""

    def __init__(self, obs_dim: int, act_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.step = _silu(obs_dim + act_dim, hidden, obs_dim)
        self.reading = _silu(2 * obs_dim + act_dim, hidden, 3)


def _silu(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    widths = [inputs, *hidden]
    layers: list[nn.Module] = []
    for index, width in enumerate(hidden):
        layers += [nn.Linear(widths[index], width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


class WorldModel(nn.Module):
    """Predicts s' from (s, a), then the reward, the cost and the end from (s, a, s').

    Args:
        obs_dim, act_dim: coordinates.
        max_step_cost: C_m, the highest cost of a step.
        size: members of the ensemble.
        hidden: widths of the SiLU layers of each network.
        rule: what a step costs, where that is known (harden/config/rule.py); "" to learn it.

    Attributes:
        reach: how far the members disagree on steps that the data show.
        least_reward: what the worst-paid hundredth of the data's steps earns at most.

    Source: Chua et al. 2018 (an ensemble whose members' disagreement says what the data do not show).
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        max_step_cost: float = 1.0,
        size: int = 3,
        hidden: Sequence[int] = (128, 128),
        rule: str = "",
    ) -> None:
        super().__init__()
        self.rule = parse_rule(rule, {"obs": obs_dim, "action": act_dim}) if rule else None
        self.architecture: dict[str, Any] = {
            "kind": "world-model",
            "obs_dim": obs_dim,
            "act_dim": act_dim,
            "max_step_cost": max_step_cost,
            "size": size,
            "hidden": list(hidden),
            "rule": rule,
        }
        self.max_step_cost = max_step_cost
        self.members = nn.ModuleList(_Member(obs_dim, act_dim, hidden) for _ in range(size))
        for name, width in (("input", obs_dim + act_dim), ("step", obs_dim), ("reward", 1)):
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))
        self.reach: Tensor
        self.register_buffer("reach", torch.tensor(torch.finfo(torch.float32).max))
        self.least_reward: Tensor
        self.register_buffer("least_reward", torch.zeros(()))

    def measure(self, rows: Transitions) -> None:
        """Take the units of inputs, steps and rewards from the data."""
        for name, column in (
            ("input", torch.cat((rows.obs, rows.actions), 1)),
            ("step", rows.next_obs - rows.obs),
            ("reward", rows.rewards.unsqueeze(1)),
        ):
            std, mean = torch.std_mean(column, 0)
            self.get_buffer(f"{name}_mean").copy_(mean)
            # a coordinate that never moves is predicted not to
            self.get_buffer(f"{name}_std").copy_(std.clamp_min(_TINY))
        place = max(1, int(_LEAST * len(rows.rewards)))
        self.least_reward.copy_(rows.rewards.kthvalue(place).values)

    def _scaled(self, name: str, values: Tensor) -> Tensor:
        return (values - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std")

    @torch.no_grad()
    def forward(self, obs: Tensor, actions: Tensor) -> Outcome:
        """Return what each member expects of a step, for obs (B, obs_dim) and actions (B, act_dim)."""
        inputs = self._scaled("input", torch.cat((obs, actions), 1))
        steps, readings = [], []
        for member in self.members:
            assert isinstance(member, _Member)
            step = member.step(inputs).clamp(-_LONGEST_STEP, _LONGEST_STEP)
            steps.append(step)
            readings.append(member.reading(torch.cat((inputs, step), 1)))
        step, reading = torch.stack(steps), torch.stack(readings)
        step_std, step_mean = self.get_buffer("step_std"), self.get_buffer("step_mean")
        next_obs = obs + step * step_std + step_mean
        costs = self.max_step_cost * torch.sigmoid(reading[..., 1])
        if self.rule is not None:
            costs = cost_of(self.rule, next_obs, actions.expand(len(step), -1, -1), self.max_step_cost)
        return Outcome(
            next_obs,
            reading[..., 0] * self.get_buffer("reward_std") + self.get_buffer("reward_mean"),
            costs,
            torch.sigmoid(reading[..., 2]),
            step.std(0, correction=0).mean(-1),
        )

    def loss(self, rows: Sequence[Transitions]) -> Tensor:
        """Return the sum of the members' losses, each on rows of its own.

        A step and its reward are regressed; the cost, as a share of C_m, and the end are log losses.
        """
        total = torch.zeros((), device=self.reach.device)
        for member, own in zip(self.members, rows, strict=True):
            assert isinstance(member, _Member)
            inputs = self._scaled("input", torch.cat((own.obs, own.actions), 1))
            step = self._scaled("step", own.next_obs - own.obs).clamp(-_LONGEST_STEP, _LONGEST_STEP)
            reading = member.reading(torch.cat((inputs, step), 1))
            reward = self._scaled("reward", own.rewards.unsqueeze(1)).squeeze(1)
            cost = (own.costs / self.max_step_cost).clamp(0.0, 1.0)
            total = (
                total
                + mse_loss(member.step(inputs), step)
                + mse_loss(reading[:, 0], reward)
                + binary_cross_entropy_with_logits(reading[:, 1], cost)
                + binary_cross_entropy_with_logits(reading[:, 2], own.terminals.float())
            )
        return total


def rows_of(data: Transitions, index: Tensor) -> Transitions:
    """Return some rows."""
    return Transitions(*(column[index] for column in data))


def fit(
    world: WorldModel,
    optimizer: torch.optim.Optimizer,
    data: Transitions,
    *,
    steps: int,
    batch: int,
    recent: int,
    draw: torch.Generator,
) -> float:
    """Fit the model, whose units are measured already; return the last step's loss.

    Each member draws rows of its own, half of them among the latest.

    Args:
        world, optimizer: changed in place.
        data: real transitions, oldest first.
        steps, batch: gradient steps, and rows of each member in one.
        recent: how many of the latest rows make one half.
        draw: the only source of randomness, on the CPU.
    """
    count, loss = len(data.rewards), torch.zeros(())
    latest = max(0, count - recent)
    for _ in range(steps):
        drawn = []
        for _ in world.members:
            of_all = torch.randint(count, (batch - batch // 2,), generator=draw)
            of_latest = torch.randint(latest, count, (batch // 2,), generator=draw)
            drawn.append(rows_of(data, torch.cat((of_all, of_latest)).to(data.obs.device)))
        optimizer.zero_grad(set_to_none=True)
        loss = world.loss(drawn)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def set_reach(world: WorldModel, data: Transitions, quantile: float, most: int = 20_000) -> None:
    """Let the members disagree as much as on a share `quantile` of the latest real transitions."""
    disagreement = world(data.obs[-most:], data.actions[-most:]).disagreement
    world.reach.copy_(torch.quantile(disagreement, quantile))


class Calibration(NamedTuple):
    """How a model does on transitions that it has not learned from.

    Args:
        error: mean squared error of the step, in units of the data's own variance.
        cost: the expected cost of a step.
        cost_seen: the cost that there was.
    """

    error: float
    cost: float
    cost_seen: float


def calibrate(world: WorldModel, data: Transitions) -> Calibration:
    """Compare the ensemble's mean with held-out transitions."""
    outcome = world(data.obs, data.actions)
    miss = (outcome.next_obs.mean(0) - data.next_obs) / world.get_buffer("step_std")
    return Calibration(
        float(miss.square().mean()), float(outcome.costs.mean()), float(data.costs.float().mean())
    )
