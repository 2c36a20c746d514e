"""The networks: a Gaussian policy and an ensemble of critics."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harden.ops import gaussian

# states whose particles go through the critics at once: their hidden layers still fit a core's cache
_CHUNK = 64


class GaussianPolicy(nn.Module):
    """A diagonal Gaussian whose mean and spread depend on the observation.

    The mean is squashed into the action space, the spread kept between a floor and a ceiling: a spread that
    shrinks to nothing makes every KL that is measured in its units explode, and beyond the action range all
    particles are clipped to the same few actions, so that nothing would hold the spread back.

    Args:
        obs_dim, act_dim: coordinates.
        hidden: widths of the ReLU layers.
        low, high: the action space's bounds, (act_dim,).
        init_std: spread at the start, as a share of half the action range.
        min_std, max_std: floor and ceiling of the spread, in the same unit.

    Attributes:
        differentiable: gradients flow from actions to observations; somebody else's policy may not let them.
    """

    differentiable = True

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        hidden: Sequence[int] = (256, 256),
        low: Tensor | None = None,
        high: Tensor | None = None,
        init_std: float = 0.5,
        min_std: float = 0.1,
        max_std: float = 1.0,
    ) -> None:
        super().__init__()
        low = -torch.ones(act_dim) if low is None else low.float()
        high = torch.ones(act_dim) if high is None else high.float()
        self.architecture: dict[str, Any] = {
            "kind": "gaussian-mlp",
            "obs_dim": obs_dim,
            "act_dim": act_dim,
            "hidden": list(hidden),
            "low": low.tolist(),
            "high": high.tolist(),
            "init_std": init_std,
            "min_std": min_std,
            "max_std": max_std,
        }
        self.center: Tensor
        self.half_range: Tensor
        self.register_buffer("center", (low + high) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)
        widths = [obs_dim, *hidden]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.mean_head = nn.Linear(widths[-1], act_dim)
        self.std_head = nn.Linear(widths[-1], act_dim)
        self.min_std, self.max_std = min_std, max_std
        with torch.no_grad():
            self.mean_head.weight.mul_(0.1)
            self.mean_head.bias.zero_()
            self.std_head.weight.mul_(0.1)
            share = (init_std - min_std) / (max_std - min_std)
            self.std_head.bias.fill_(math.log(share / (1.0 - share)))

    def capped(self, max_std: float) -> GaussianPolicy:
        """Return the same policy with a lower ceiling of the spread: the floor, and what is well below, stay.

        Args:
            max_std: the new ceiling, above the floor; nothing changes where it is not below the present one.
        """
        if max_std >= self.max_std:
            return copy.deepcopy(self)
        options = {key: value for key, value in self.architecture.items() if key != "kind"}
        low, high = self.center - self.half_range, self.center + self.half_range
        init_std = min(self.architecture["init_std"], (self.min_std + max_std) / 2)
        options |= {"low": low, "high": high, "max_std": max_std, "init_std": init_std}
        policy = GaussianPolicy(**options)
        policy.load_state_dict(self.state_dict())
        with torch.no_grad():
            # a small share of the old range is a larger one of the new
            policy.std_head.bias.add_(math.log((self.max_std - self.min_std) / (max_std - self.min_std)))
        return policy

    def mean(self, obs: Tensor) -> Tensor:
        """Return the mean action, (..., act_dim), in the action space's units."""
        return self.center + self.half_range * torch.tanh(self.mean_head(self.trunk(obs)))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation, both (..., act_dim), in the action space's units."""
        features = self.trunk(obs)
        mean = self.center + self.half_range * torch.tanh(self.mean_head(features))
        share = torch.sigmoid(self.std_head(features))
        return mean, self.half_range * (self.min_std + (self.max_std - self.min_std) * share)

    def sample(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action a state, clipped to the action space, (B, act_dim)."""
        mean, std = self(obs)
        return self.clip(gaussian.sample(mean, std, 1, generator).squeeze(1))

    def clip(self, actions: Tensor) -> Tensor:
        """Return the actions as the environment applies them."""
        low, high = self.bounds
        return torch.maximum(torch.minimum(actions, high), low)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest action, (act_dim,) each."""
        return self.center - self.half_range, self.center + self.half_range


class StateValues(nn.Module):
    """V_r and V_c of an on-policy method.

    Args:
        obs_dim: coordinates.
        hidden: widths of the ReLU layers.
    """

    def __init__(self, obs_dim: int, hidden: Sequence[int] = (256, 256)) -> None:
        super().__init__()
        self.architecture: dict[str, Any] = {"obs_dim": obs_dim, "hidden": list(hidden)}
        self.parts = nn.ModuleList()
        for _ in range(2):
            layers: list[nn.Module] = []
            for fan_in, fan_out in itertools.pairwise([obs_dim, *hidden]):
                layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            self.parts.append(nn.Sequential(*layers, nn.Linear(hidden[-1], 1)))

    def forward(self, obs: Tensor) -> Tensor:
        """Return V_r and V_c, (2, B)."""
        return torch.stack([part(obs).squeeze(-1) for part in self.parts])


class QEnsemble(nn.Module):
    """E independent critics, their parameters in one stack a layer.

    Args:
        obs_dim, act_dim: coordinates.
        size: E.
        hidden: widths of the ReLU layers.
    """

    def __init__(self, obs_dim: int, act_dim: int, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.obs_dim = obs_dim
        widths = [obs_dim + act_dim, *hidden, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in itertools.pairwise(widths):
            bound = 1.0 / math.sqrt(fan_in)
            self.weights.append(nn.Parameter(torch.empty(size, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(size, fan_out).uniform_(-bound, bound)))

    def forward(self, obs: Tensor, actions: Tensor, members: slice = slice(None)) -> Tensor:
        """Return the Q values of some members.

        Args:
            obs: (B, obs_dim), or (S, obs_dim) with actions (S, K, act_dim): then what belongs to the
                observation in the first layer is computed once a state, not once a particle.
            actions: (B, act_dim) or (S, K, act_dim).
            members: which critics.

        Returns:
            (E', B) or (E', S, K).
        """
        # one plain product a member and layer: batched ones are far slower on a CPU at these widths
        stacks = [
            stack[members].unbind() for pair in zip(self.weights, self.biases, strict=True) for stack in pair
        ]
        layers = list(zip(*stacks, strict=True))
        if actions.dim() == 2:
            inputs = torch.cat((obs, actions), 1)
            return torch.stack([self._later(torch.addmm(b, inputs, w), rest) for w, b, *rest in layers])
        size = _CHUNK if obs.device.type == "cpu" else len(obs)
        chunks = zip(obs.split(size), actions.split(size), strict=True)
        return torch.cat([self._of_particles(*chunk, layers) for chunk in chunks], 1)

    def _of_particles(self, obs: Tensor, actions: Tensor, layers: Sequence[Sequence[Tensor]]) -> Tensor:
        """Return the Q values of (S, K, act_dim) actions, (E', S, K)."""
        values = []
        for first, bias, *rest in layers:
            of_obs = torch.addmm(bias, obs, first[: self.obs_dim]).unsqueeze(1)
            h = torch.matmul(actions, first[self.obs_dim :]).add_(of_obs).flatten(0, 1)
            values.append(self._later(h, rest).view(actions.shape[:-1]))
        return torch.stack(values)

    @staticmethod
    def _later(h: Tensor, layers: Sequence[Tensor]) -> Tensor:
        """Go on from the first layer's output, (B, width), to the Q values, (B,)."""
        for weight, bias in zip(layers[::2], layers[1::2], strict=True):
            h = torch.addmm(bias, h.relu_(), weight)
        return h.squeeze(1)


class Critics(nn.Module):
    """The reward critics and the cost critics of one policy.

    Args:
        obs_dim, act_dim: coordinates.
        reward_count, cost_count: critics of each kind.
        hidden: widths of the ReLU layers.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        reward_count: int = 2,
        cost_count: int = 1,
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.architecture = {
            "kind": "q-ensemble",
            "obs_dim": obs_dim,
            "act_dim": act_dim,
            "reward_count": reward_count,
            "cost_count": cost_count,
            "hidden": list(hidden),
        }
        self.reward_members = slice(0, reward_count)
        self.cost_members = slice(reward_count, reward_count + cost_count)
        self.ensemble = QEnsemble(obs_dim, act_dim, reward_count + cost_count, hidden)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return all Q values, reward critics first, (E, B) or (E, S, K)."""
        return self.ensemble(obs, actions)

    def q_both(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q_r and Q_c as `q_reward` and `q_cost` do, in one go."""
        values = self.ensemble(obs, actions)
        return values[self.reward_members].amin(0), values[self.cost_members].mean(0)

    def q_reward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return Q_r, the lowest of the reward critics, (B,) or (S, K)."""
        return self.ensemble(obs, actions, self.reward_members).amin(0)

    def q_cost(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return Q_c, the mean of the cost critics, (B,) or (S, K).

        Their maximum would hand the errors of each on to every earlier state.
        """
        return self.q_cost_each(obs, actions).mean(0)

    def q_cost_each(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return what each cost critic says, (C, B) or (C, S, K)."""
        return self.ensemble(obs, actions, self.cost_members)
