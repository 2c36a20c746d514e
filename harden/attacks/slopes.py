"""An objective's values and gradients: by autograd, or, for networks of ours, written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.attacks.objectives import Objective, max_cost, max_reward, min_reward
from harden.nets import Critics, GaussianPolicy

# from (obs, obs_adv), (B, obs_dim) each, to values, (B,), and their gradients by obs_adv, (B, obs_dim)
Slope = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_SIGNS: dict[Objective, float] = {max_cost: 1.0, max_reward: 1.0, min_reward: -1.0}


def by_autograd(objective: Callable[[Tensor, Tensor], Tensor]) -> Slope:
    """Return the slope of any objective; nothing but the perturbed observation gets a gradient."""

    def slope(obs: Tensor, obs_adv: Tensor) -> tuple[Tensor, Tensor]:
        obs_adv = obs_adv.detach().requires_grad_()
        # also inside a caller's no_grad; the sum keeps states apart
        with torch.enable_grad():
            value = objective(obs, obs_adv)
            (gradient,) = torch.autograd.grad(value.sum(), obs_adv)
        return value.detach(), gradient

    return slope


class _Layers:
    """A ReLU network in NumPy, whose products take half the time of torch's at the sizes of an attack.

    Args:
        layers: weights (in, out) and biases, (out,), of each layer.
    """

    def __init__(self, layers: Iterable[tuple[Tensor, Tensor]]) -> None:
        arrays = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers]
        self.layers = [(np.ascontiguousarray(w), np.ascontiguousarray(w.T), bias) for w, bias in arrays]

    def __call__(self, inputs: np.ndarray) -> list[np.ndarray]:
        """Return what each layer gives, (B, width) each, the output last."""
        given = []
        for place, (weight, _, bias) in enumerate(self.layers):
            hidden = inputs @ weight
            hidden += bias
            if place + 1 < len(self.layers):
                np.maximum(hidden, 0.0, out=hidden)
            given.append(hidden)
            inputs = hidden
        return given

    def back(self, gradient: np.ndarray, given: list[np.ndarray]) -> np.ndarray:
        """Return the gradient by the inputs, (B, in), of the one by the output."""
        for place in reversed(range(len(self.layers))):
            gradient = gradient @ self.layers[place][1]
            if place:
                gradient *= given[place - 1] > 0.0
        return gradient


def written_out(objective: Objective, policy: GaussianPolicy, critics: Any, obs: Tensor) -> Slope | None:
    """Return the slope of Q(s, pi(nu(s))) without autograd, None of another objective, or of other networks.

    Args:
        objective: of a row of ATTACKS.
        policy: its mean acts; neither it nor the critics may change as long as the slope is used.
        critics: a Critics for an objective that asks them.
        obs: as it will be called with: float32 on the CPU.
    """
    layers = [*policy.trunk.children()] if type(policy) is GaussianPolicy else [None]
    own = isinstance(critics, Critics) and all(isinstance(layer, nn.Linear | nn.ReLU) for layer in layers)
    if objective not in _SIGNS or not own or obs.device.type != "cpu" or obs.dtype != torch.float32:
        return None
    ensemble, on_cost = critics.ensemble, objective is max_cost
    members = critics.cost_members if on_cost else critics.reward_members
    units = _SIGNS[objective] * (1.0 if on_cost else critics.reward_scale)
    linear = [layer for layer in (*layers, policy.mean_head) if isinstance(layer, nn.Linear)]
    acts = _Layers((layer.weight.T, layer.bias) for layer in linear)
    stacks = list(zip(ensemble.weights, ensemble.biases, strict=True))
    values = [_Layers((w[m], b[m]) for w, b in stacks) for m in range(members.start, members.stop)]
    center, half = policy.center.numpy(), policy.half_range.numpy()

    def slope(obs: Tensor, obs_adv: Tensor) -> tuple[Tensor, Tensor]:
        given = acts(obs_adv.numpy() / policy.obs_scale)
        squashed = np.tanh(given[-1])
        inputs = np.concatenate((obs.numpy() / ensemble.obs_scale, center + half * squashed), 1)
        runs = [member(inputs) for member in values]
        each = np.stack([run[-1][:, 0] for run in runs])
        # of Q_c the mean counts, of Q_r the lowest
        parts = np.full_like(each, 1.0 / len(each)) if on_cost else (each == each.min(0)).astype(each.dtype)
        value = units * (each.mean(0) if on_cost else each.min(0))
        by_inputs = [
            member.back(units * part[:, None], run)
            for member, part, run in zip(values, parts, runs, strict=True)
        ]
        by_action = np.sum(by_inputs, 0)[:, ensemble.obs_dim :]
        gradient = acts.back(by_action * half * (1.0 - squashed * squashed), given) / policy.obs_scale
        return torch.from_numpy(value), torch.from_numpy(gradient)

    return slope
