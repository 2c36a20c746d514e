"""The critics: an ensemble of Q, and the state values of on-policy methods."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harden.nets.policy import relu_layers, rescaled

# states whose particles go through the critics at once: their hidden layers still fit a core's cache
_CHUNK = 64


class StateValues(nn.Module):
    """V_r and V_c of an on-policy method; arguments as a policy's."""

    def __init__(self, obs_dim: int, hidden: Sequence[int] = (256, 256), obs_scale: float = 1.0) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"obs_dim": obs_dim, "hidden": list(hidden), "obs_scale": obs_scale}
        self.architecture = sizes
        self.obs_scale = obs_scale
        self.parts = nn.ModuleList(
            nn.Sequential(*relu_layers(obs_dim, hidden), nn.Linear(hidden[-1], 1)) for _ in range(2)
        )

    def forward(self, obs: Tensor) -> Tensor:
        """Return V_r and V_c, (2, B)."""
        inputs = rescaled(obs, self.obs_scale)
        return torch.stack([part(inputs).squeeze(-1) for part in self.parts])


class QEnsemble(nn.Module):
    """E = `size` independent critics, their parameters in one stack a layer; the rest as a policy's."""

    def __init__(
        self, obs_dim: int, act_dim: int, size: int, hidden: Sequence[int], obs_scale: float = 1.0
    ) -> None:
        super().__init__()
        self.obs_dim, self.obs_scale = obs_dim, obs_scale
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
        obs = rescaled(obs, self.obs_scale)
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
        reward_count, cost_count: critics of each kind.
        reward_scale: the reward that the reward critics' networks take as 1; the others are as a policy's.
    """

    def __init__(
        self,
        obs_dim: int,
        act_dim: int,
        reward_count: int = 2,
        cost_count: int = 1,
        hidden: Sequence[int] = (256, 256),
        obs_scale: float = 1.0,
        reward_scale: float = 1.0,
    ) -> None:
        super().__init__()
        sizes = {"obs_dim": obs_dim, "act_dim": act_dim}
        sizes |= {"reward_count": reward_count, "cost_count": cost_count}
        layers = {"hidden": list(hidden), "obs_scale": obs_scale}
        self.architecture: dict[str, Any] = {"kind": "q-ensemble"} | sizes | layers
        self.set_reward_scale(reward_scale)
        self.reward_members = slice(0, reward_count)
        self.cost_members = slice(reward_count, reward_count + cost_count)
        self.ensemble = QEnsemble(obs_dim, act_dim, reward_count + cost_count, hidden, obs_scale)

    def alike(self, other: Critics) -> bool:
        """Return whether these critics can go on from the others: the same networks, whatever their units."""
        own, given = dict(self.architecture), dict(other.architecture)
        own.pop("reward_scale", None)
        given.pop("reward_scale", None)
        return own == given

    def set_reward_scale(self, scale: float) -> None:
        """Say what the reward critics' networks take as 1, and leave the networks as they are."""
        self.reward_scale = scale
        # critics of raw rewards, as all were once, keep the description and so the digest that they had
        self.architecture.pop("reward_scale", None)
        if scale != 1.0:
            self.architecture["reward_scale"] = scale

    @torch.no_grad()
    def expect_no_reward(self) -> None:
        """Let each Q_r be zero, which is the same in every unit."""
        for last in (self.ensemble.weights[-1], self.ensemble.biases[-1]):
            last[self.reward_members] = 0.0

    @torch.no_grad()
    def rescale_rewards(self, scale: float) -> None:
        """Take rewards in units of `scale` from now on; each Q_r stays what it is.

        Source: van Hasselt et al. 2016 (Pop-Art, "preserving outputs").
        """
        for last in (self.ensemble.weights[-1], self.ensemble.biases[-1]):
            last[self.reward_members] *= self.reward_scale / scale
        self.set_reward_scale(scale)

    def forward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return what all networks give, reward critics first and in units of `reward_scale`, (E, B)."""
        return self.ensemble(obs, actions)

    def q_both(self, obs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return Q_r and Q_c as `q_reward` and `q_cost` do, in one go."""
        values = self.ensemble(obs, actions)
        return self.reward_scale * values[self.reward_members].amin(0), values[self.cost_members].mean(0)

    def q_reward(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return Q_r, the lowest of the reward critics, (B,) or (S, K).

        Deviation: Eq. 58 and the E-step have one; the lowest of two does not pass on what one overestimates
            (Fujimoto et al. 2018).
        """
        return self.reward_scale * self.ensemble(obs, actions, self.reward_members).amin(0)

    def q_cost(self, obs: Tensor, actions: Tensor) -> Tensor:
        """Return Q_c, the mean of the cost critics, (B,) or (S, K).

        Their maximum would hand the errors of each on to every earlier state.
        """
        return self.ensemble(obs, actions, self.cost_members).mean(0)
