"""Diagonal Gaussians: cross entropy, the KL whole and in parts, and what clipping makes of a density."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cross_entropy(q_mean: Tensor, q_var: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return -E_q[log N(a; mean, std^2)], (...,), nats, which depends on q by its first two moments only.

    Args:
        q_mean, q_var, mean, std: (..., act_dim), by coordinate.
    """
    square = q_var + (q_mean - mean) ** 2
    return (0.5 * square / (std * std) + std.log() + 0.5 * math.log(2 * math.pi)).sum(-1)


def kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """Return KL(N(mean, std) || N(other_mean, other_std)), (...,), nats, of arguments (..., act_dim)."""
    variance = std * std
    crossed = cross_entropy(mean, variance, other_mean, other_std)
    return crossed - cross_entropy(mean, variance, mean, std)


def split_kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> tuple[Tensor, Tensor]:
    """Return KL(N(mean, std) || N(other_mean, std)) and KL(N(mean, std) || N(mean, other_std)).

    The first only moves the mean and the second only the spread, so each gets a bound of its own.

    Args:
        mean, std: (..., act_dim), the distribution that expectations are taken under; the others alike.

    Returns:
        Two tensors (...,), in nats.

    Source: Abdolmaleki et al. 2018a, section 4.2.
    """
    move = (other_mean - mean) / std
    ratio = std / other_std
    of_mean = 0.5 * (move * move).sum(-1)
    of_std = (0.5 * (ratio * ratio - 1.0) - ratio.log()).sum(-1)
    return of_mean, of_std


def sample(mean: Tensor, std: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw `count` = K actions a state, (S, K, act_dim), from mean and std, (S, act_dim)."""
    shape = (mean.shape[0], count, mean.shape[1])
    noise = torch.randn(shape, generator=generator, dtype=mean.dtype, device=mean.device)
    return mean.unsqueeze(1) + std.unsqueeze(1) * noise


def censored_log_prob(actions: Tensor, mean: Tensor, std: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the log-likelihood, (...,), nats, of draws from N(mean, std^2) that were clipped to [low, high].

    Inside the bounds it is the density, on a bound the probability of lying beyond it.

    Args:
        actions, mean, std: (..., act_dim); low, high: (act_dim,).

    Source: Tobin 1958; for policies Fujita and Maeda 2018.
    """
    z = (actions - mean) / std
    density = -0.5 * z * z - std.log() - 0.5 * math.log(2 * math.pi)
    below, above = torch.special.log_ndtr((low - mean) / std), torch.special.log_ndtr((mean - high) / std)
    inside = torch.where(actions >= high, above, density)
    return torch.where(actions <= low, below, inside).sum(-1)
