"""The perturbation set: balls of l-infinity and l2 around an observation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["linf", "l2"]


# Newton steps towards an ellipsoid's nearest point: radii that differ a million times over need about 14
_STEPS = 20


def project(delta: Tensor, epsilon: Tensor, norm: Norm) -> Tensor:
    """Return the nearest perturbation inside the ball, by the Euclidean distance.

    What lies inside already comes back as it is, and so does what was projected before.

    Args:
        delta: (..., obs_dim).
        epsilon: radius, broadcastable to delta: a scalar, or one a coordinate, in raw observation units.
        norm: "linf" clips each coordinate; "l2" bounds ||delta / epsilon||_2 by one.
    """
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, epsilon), -epsilon)
    delta = torch.where(epsilon > 0, delta, 0.0)
    nearest = _onto_ellipsoid(delta, epsilon)
    # a sum of that many squares may be wrong by that much: the length, computed again, is never above one
    rounding = (0.5 * delta.shape[-1] + 4.0) * torch.finfo(delta.dtype).eps
    nearest = nearest * ((1.0 - rounding) / _length(nearest, epsilon)).clamp_max(1.0)
    return torch.where(_length(delta, epsilon) <= 1.0, delta, nearest)


def _length(delta: Tensor, epsilon: Tensor) -> Tensor:
    """Return ||delta / epsilon||_2, (..., 1), of perturbations that are zero where the radius is."""
    tiny = torch.finfo(delta.dtype).tiny
    return (delta / epsilon.clamp_min(tiny)).norm(dim=-1, keepdim=True)


def _onto_ellipsoid(delta: Tensor, epsilon: Tensor) -> Tensor:
    """Return the nearest point of the surface ||x / epsilon||_2 = 1 to points outside.

    It is x = delta epsilon^2 / (epsilon^2 + m), with the multiplier m > 0 that puts it on the surface. The
    reciprocal of its length is concave in m, so that Newton's method rises to the root from any lower bound.

    Args:
        delta: (..., obs_dim), zero where the radius is.
        epsilon: as in `project`; from one radius for all coordinates the lower bound is the root.

    Source: More and Sorensen 1983 (the secular equation of a trust region).
    """
    tiny = torch.finfo(delta.dtype).tiny
    # in units of the largest radius no square overflows
    largest = epsilon.expand(delta.shape).amax(-1, keepdim=True).clamp_min(tiny)
    square = (epsilon / largest).square().clamp_min(tiny)
    scaled = delta / largest * (epsilon / largest)
    at_least = scaled.norm(dim=-1, keepdim=True) - 1.0, (scaled.abs() - square).amax(-1, keepdim=True)
    multiplier = torch.maximum(*at_least).clamp_min(0.0)
    for _ in range(_STEPS if epsilon.dim() else 0):
        unit = scaled / (square + multiplier)
        length = unit.norm(dim=-1, keepdim=True)
        slope = (unit.square() / (square + multiplier)).sum(-1, keepdim=True).clamp_min(tiny)
        multiplier = multiplier + ((length - 1.0) * length.square() / slope).clamp_min(0.0)
    return delta * square / (square + multiplier)


def sample(like: Tensor, epsilon: Tensor, norm: Norm, generator: torch.Generator) -> Tensor:
    """Draw perturbations uniformly from the ball.

    Args:
        like: gives shape, type and device, (..., obs_dim).
        epsilon, norm: as in `project`.
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
