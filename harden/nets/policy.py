"""The policy: a diagonal Gaussian, its mean and spread by one MLP; and what critics share with it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harden.nets import gaussian


def relu_layers(inputs: int, hidden: Sequence[int]) -> list[nn.Module]:
    """Return linear layers of the given widths, each with a ReLU behind it."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise([inputs, *hidden]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return layers


def rescaled(obs: Tensor, scale: float) -> Tensor:
    """Return observations in units of `scale`, (..., obs_dim).

    One number for all coordinates: divided by its own small spread, a coordinate that hardly varies would
    carry an attack of the whole radius into the network many times as large (docs/decisions.md).
    """
    return obs if scale == 1.0 else obs / scale


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
        obs_scale: what the layers take as 1 of an observation, in its raw units.

    Attributes:
        differentiable: gradients flow from actions to observations; somebody else's policy may not let them.

    Deviation: the paper's on-policy baselines have a spread of their own that no observation changes (B.3),
        and neither bound is in it; here all methods share this policy.
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
        obs_scale: float = 1.0,
    ) -> None:
        super().__init__()
        low = -torch.ones(act_dim) if low is None else low.float()
        high = torch.ones(act_dim) if high is None else high.float()
        sizes = {"obs_dim": obs_dim, "act_dim": act_dim, "hidden": list(hidden)}
        bounds = {"low": low.tolist(), "high": high.tolist()}
        spread = {"init_std": init_std, "min_std": min_std, "max_std": max_std}
        self.architecture: dict[str, Any] = {"kind": "gaussian-mlp"} | sizes | bounds | spread
        self.architecture["obs_scale"] = obs_scale
        self.set_bounds(low, high)
        features = [obs_dim, *hidden][-1]
        self.trunk = nn.Sequential(*relu_layers(obs_dim, hidden))
        self.mean_head = nn.Linear(features, act_dim)
        self.std_head = nn.Linear(features, act_dim)
        self.min_std, self.max_std, self.obs_scale = min_std, max_std, obs_scale
        with torch.no_grad():
            self.mean_head.weight.mul_(0.1)
            self.mean_head.bias.zero_()
            self.std_head.weight.mul_(0.1)
            share = (init_std - min_std) / (max_std - min_std)
            self.std_head.bias.fill_(math.log(share / (1.0 - share)))

    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Set the lowest and the highest action, (act_dim,) each."""
        self.center: Tensor
        self.half_range: Tensor
        self.register_buffer("center", (low + high) / 2, persistent=False)
        self.register_buffer("half_range", (high - low) / 2, persistent=False)

    def capped(self, max_std: float) -> GaussianPolicy:
        """Return the same policy with a spread of at most `max_std`, which is above the floor."""
        if max_std >= self.max_std:
            return copy.deepcopy(self)
        options = {key: value for key, value in self.architecture.items() if key != "kind"}
        options |= dict(zip(("low", "high"), self.bounds, strict=True))
        options |= {"max_std": max_std, "init_std": min(options["init_std"], (self.min_std + max_std) / 2)}
        policy = GaussianPolicy(**options)
        policy.load_state_dict(self.state_dict())
        with torch.no_grad():
            # a small share of the old range is a larger one of the new
            policy.std_head.bias.add_(math.log((self.max_std - self.min_std) / (max_std - self.min_std)))
        return policy

    def unscaled(self) -> GaussianPolicy:
        """Return the same policy whose first layer takes observations as they are."""
        policy = copy.deepcopy(self)
        with torch.no_grad():
            policy.get_parameter("trunk.0.weight").div_(self.obs_scale)
        policy.obs_scale = policy.architecture["obs_scale"] = 1.0
        return policy

    def mean(self, obs: Tensor) -> Tensor:
        """Return the mean action, (..., act_dim), in the action space's units."""
        return self.center + self.half_range * torch.tanh(self.mean_head(self._features(obs)))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the standard deviation, both (..., act_dim), in the action space's units."""
        features = self._features(obs)
        mean = self.center + self.half_range * torch.tanh(self.mean_head(features))
        share = torch.sigmoid(self.std_head(features))
        return mean, self.half_range * (self.min_std + (self.max_std - self.min_std) * share)

    def _features(self, obs: Tensor) -> Tensor:
        return self.trunk(rescaled(obs, self.obs_scale))

    def sample(self, obs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one action a state, clipped to the action space, (B, act_dim)."""
        mean, std = self(obs)
        return self.clip(gaussian.sample(mean, std, 1, generator).squeeze(1))

    def clip(self, actions: Tensor) -> Tensor:
        """Return the actions as the environment applies them."""
        low, high = self.bounds
        return torch.maximum(torch.minimum(actions, high), low)

    def log_prob(self, mean: Tensor, std: Tensor, actions: Tensor) -> Tensor:
        """Return the log likelihood of actions as applied, clipped, (...), nats; all (..., act_dim)."""
        return gaussian.censored_log_prob(actions, mean, std, *self.bounds)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """The lowest and the highest action, (act_dim,) each."""
        return self.center - self.half_range, self.center + self.half_range
