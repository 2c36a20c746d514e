"""The perturbation set: balls of l-infinity and l2 around an observation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]


def project(delta: Tensor, epsilon: Tensor, norm: Norm) -> Tensor:
    """Return the nearest perturbation inside the ball.

    Args:
        delta: (..., obs_dim).
        epsilon: radius, broadcastable to delta: a scalar, or one a coordinate, in raw observation units.
        norm: "linf" clips each coordinate; "l2" bounds ||delta / epsilon||_2 by one.
    """
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, epsilon), -epsilon)
    unit = torch.where(epsilon > 0, delta / epsilon.clamp_min(torch.finfo(delta.dtype).tiny), 0.0)
    length = unit.norm(dim=-1, keepdim=True).clamp_min(1.0)
    return unit / length * epsilon


def sample(like: Tensor, epsilon: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw perturbations uniformly from the ball.

    Args:
        like: gives shape, type and device, (..., obs_dim).
        epsilon, norm: as in `project`.
        generator: the only source of randomness.
    """
    if norm == "linf":
        unit = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return (2.0 * unit - 1.0) * epsilon
    direction = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    radius = torch.rand((*like.shape[:-1], 1), generator=generator, dtype=like.dtype, device=like.device)
    return direction * radius ** (1.0 / like.shape[-1]) * epsilon


def sample_far(like: Tensor, epsilon: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw perturbations as far out as there are: corners for "linf", points of the surface for "l2".

    Args:
        like, epsilon, norm, generator: as in `sample`.
    """
    if norm == "linf":
        unit = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return torch.where(unit < 0.5, -epsilon, epsilon).to(like)
    direction = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    return direction / direction.norm(dim=-1, keepdim=True) * epsilon


def sample_gaussian(like: Tensor, epsilon: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw Gaussian perturbations and project them onto the ball.

    Their deviation is epsilon by coordinate for "linf", a third of them end on the ball's faces; for "l2" it
    is less by the root of the number of coordinates, so that a typical length is epsilon.

    Args:
        like, epsilon, norm, generator: as in `sample`.
    """
    unit = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    if norm == "l2":
        unit = unit / like.shape[-1] ** 0.5
    return project(unit * epsilon, epsilon, norm)


def ascend(gradient: Tensor, step: Tensor, norm: Norm) -> Tensor:
    """Return the steepest move of length `step` for this norm: the sign, or the unit gradient.

    Args:
        gradient: (..., obs_dim).
        step: length in the same units as epsilon, broadcastable.
        norm: as in `project`.
    """
    if norm == "linf":
        return step * gradient.sign()
    scaled = gradient * step
    tiny = torch.finfo(gradient.dtype).tiny
    return step * scaled / scaled.norm(dim=-1, keepdim=True).clamp_min(tiny)
