"""Guarantees: how far an action can move inside a ball, and the paper's bounds on the cost under attack."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.ops.ball import Norm


def interval(
    layers: Sequence[tuple[Tensor, Tensor]], obs: Tensor, epsilon: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Return bounds on a ReLU network's output over a ball of inputs, by interval propagation.

    Args:
        layers: weight (out, in) and bias (out,) each, with ReLU between them.
        obs: centres of the balls, (N, obs_dim).
        epsilon: radius, scalar or (obs_dim,), in raw observation units.
        norm: of the ball; the first layer's range over an l2 ball is exact, what follows is a box.

    Returns:
        Lowest and highest output, (N, out).

    Source: Gowal et al. 2018 (interval bound propagation).
    """
    (weight, bias), *later = layers
    centre = torch.addmm(bias, obs, weight.T)
    reach = (weight * epsilon).norm(p=1 if norm == "linf" else 2, dim=1).expand_as(centre)
    for weight, bias in later:
        low, high = (centre - reach).relu(), (centre + reach).relu()
        centre = torch.addmm(bias, (low + high) / 2, weight.T)
        reach = torch.matmul((high - low) / 2, weight.abs().T)
    return centre - reach, centre + reach


def total_variation(kl: Tensor) -> Tensor:
    """Return an upper bound on the total variation distance of two distributions with this KL.

    Source: Pinsker, and Bretagnolle and Huber 1979, whichever is lower.
    """
    return torch.minimum((kl / 2).sqrt(), (1 - (-kl).exp()).clamp_min(0).sqrt())


def vanilla_bound(
    kappa: float,
    max_step_cost: float,
    gamma: float,
    *,
    distance: float,
    kl: float,
    lipschitz: float,
    epsilon: float,
    unsafe: float = 1.0,
) -> float:
    """Return the right-hand side of Theorem 1: the discounted cost under any attack after a vanilla M-step.

    Args:
        kappa: discounted threshold that the policy before the step meets.
        max_step_cost: C_m.
        distance: d, the largest total variation distance of the step.
        kl: xi, the step's KL bound.
        lipschitz: L, of the total variation distance in the observation.
        epsilon: radius, in the norm of L.
        unsafe: max_s p_s, 1 where it is not known.

    Source: Eq. 9.
    """
    moved = lipschitz * epsilon
    first = (distance + moved) / (1 - gamma)
    second = ((2 * kl) ** 0.5 * gamma * distance + 4 * gamma * moved**2) / (1 - gamma) ** 2
    return kappa + 2 * max_step_cost * (first + second) * (unsafe + gamma / (1 - gamma))


def robust_bound(
    kappa: float, max_step_cost: float, gamma: float, *, distance: float, kl: float, unsafe: float = 1.0
) -> float:
    """Return the right-hand side of Theorem 2: the discounted cost under any attack after a robust M-step.

    Args:
        distance: d, the largest total variation distance of the attacked policy to the benign one before.
        kl: xi-tilde, the KL bound between those two.
        kappa, max_step_cost, gamma, unsafe: as in `vanilla_bound`.

    Source: Eq. 10.
    Deviation: the appendix (Eq. 29) has gamma inside the root; the proof gives Eq. 10.
    """
    within = distance / (1 - gamma) + (2 * kl) ** 0.5 * gamma * distance / (1 - gamma) ** 2
    return kappa + 2 * max_step_cost * within * (unsafe + gamma / (1 - gamma))
