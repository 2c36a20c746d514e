"""The E-step's dual: two variables, convex, solved by a damped Newton method where the Q values are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from harden.ops.newton import Minimum, Point, Scalar, arithmetic_on, minimise
from harden.types import DualSolution


class DualPoint(NamedTuple):
    """The dual at one point, in float64.

    Args:
        value: g(eta, lam), scalar.
        gradient: (2,), by eta and lam: the slack of the KL and of the cost constraint.
        hessian: (2, 2).
    """

    value: Tensor
    gradient: Tensor
    hessian: Tensor


def particle_weights(q_reward: Tensor, q_cost: Tensor, eta: Tensor, lam: Tensor) -> Tensor:
    """Return q* over each state's particles, which were drawn from policy_old.

    Args:
        q_reward, q_cost: (S, K).
        eta, lam: scalars.

    Returns:
        (S, K), rows sum to one.

    Source: Eq. 5; the factor policy_old is in the draw already.
    """
    return torch.softmax((q_reward - lam * q_cost) / eta, dim=1)


def evaluate_dual(x: Tensor, q_reward: Tensor, q_cost: Tensor, kl_bound: float, kappa: float) -> DualPoint:
    """Return the dual's value, gradient and Hessian in closed form.

    Args:
        x: (2,), eta and lam.
        q_reward, q_cost: float64 (S, K).
        kl_bound: delta, nats.
        kappa: the discounted cost threshold.

    Source: Eq. 51 (Eq. 6 prints the term in delta twice), with a mean over particles inside the log.
    """
    particles = _prepare(q_reward, q_cost)
    eta, lam = x.unbind()
    at = _point(eta, lam, _moments(eta, lam, particles).unbind(), particles.means.unbind(), kl_bound, kappa)
    hessian = torch.stack((at.by_xx, at.by_xy, at.by_xy, at.by_yy)).view(2, 2)
    return DualPoint(at.value, torch.stack((at.by_x, at.by_y)), hessian)


class _Particles(NamedTuple):
    """What every evaluation of the dual shares.

    Args:
        r, c: Q_r and Q_c less each state's mean, (S, K).
        products: 1, r, c, rr, rc, cc, (6, S, K).
        means: (2,), of Q_r and Q_c themselves.
    """

    r: Tensor
    c: Tensor
    products: Tensor
    means: Tensor


def _prepare(q_reward: Tensor, q_cost: Tensor) -> _Particles:
    q_reward, q_cost = q_reward.double(), q_cost.double()
    # a state's own mean drops out of its weights; without it the second moments below lose no digits
    mean_reward, mean_cost = q_reward.mean(1, keepdim=True), q_cost.mean(1, keepdim=True)
    r, c = q_reward - mean_reward, q_cost - mean_cost
    products = torch.stack((torch.ones_like(r), r, c, r * r, r * c, c * c))
    return _Particles(r, c, products, torch.stack((mean_reward.mean(), mean_cost.mean())))


def _moments(eta: Scalar, lam: Scalar, particles: _Particles) -> Tensor:
    """Return log-mean-exp of the advantage, the means of r and c, and their covariance rr, rc, cc under q*.

    All are means over states, (6,): the part of the dual that grows with their number.
    """
    r, c, products, _ = particles
    scaled = (r - lam * c) / eta
    peak = scaled.amax(1, keepdim=True)
    sums = (products * (scaled - peak).exp()).sum(2)
    total, moments = sums[0], sums[1:] / sums[0]
    e_r, e_c = moments[:2]
    of_means = torch.stack((torch.zeros_like(e_r), torch.zeros_like(e_r), e_r * e_r, e_r * e_c, e_c * e_c))
    log_mean = peak.squeeze(1) + total.log() - math.log(c.shape[1])
    return torch.cat((log_mean[None], moments - of_means)).mean(1)


def _point(
    eta: Scalar,
    lam: Scalar,
    moments: Sequence[Scalar],
    means: Sequence[Scalar],
    kl_bound: float,
    kappa: float,
) -> Point:
    """Put the dual together from its moments."""
    log_mean, e_r, e_c, var_r, cov, var_c = moments
    mean_reward, mean_cost = means
    # of the advantage a = r - lam c
    cov_ac = cov - lam * var_c
    var_a = var_r - lam * (cov + cov_ac)
    kl = (e_r - lam * e_c) / eta - log_mean
    return Point(
        eta * (kl_bound + log_mean) + mean_reward - lam * mean_cost + lam * kappa,
        kl_bound - kl,
        kappa - mean_cost - e_c,
        var_a / (eta * eta * eta),
        cov_ac / (eta * eta),
        var_c / eta,
    )


def minimise_dual(
    q_reward: Tensor,
    q_cost: Tensor,
    kl_bound: float,
    kappa: float,
    *,
    lam_max: float,
    start: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Minimum:
    """Minimise the dual over eta > 0 and 0 <= lam <= lam_max.

    Args:
        q_reward, q_cost: (S, K).
        kl_bound: delta, nats.
        kappa: the discounted cost threshold.
        lam_max: upper bound of the cost multiplier (without one an infeasible problem runs to infinity).
        start: float64 (2,), eta and lam to start from.
        tolerance: allowed slack of an active constraint, relative to its bound.
        max_iterations: evaluations of the dual at most.

    Source: Eq. 6, 52.
    """
    how = arithmetic_on(q_cost.device)
    particles = _prepare(q_reward, q_cost)
    # the scale of eta: far below it the weights are one-hot, far above it they are uniform
    stds = torch.stack((particles.r.std(), particles.c.std())).nan_to_num()
    *means, std_reward, std_cost = how.read(torch.cat((particles.means, stds)))
    spread = std_reward + lam_max * std_cost + 1e-8

    def look(eta: Scalar, lam: Scalar) -> Point:
        return _point(eta, lam, how.read(_moments(eta, lam, particles)), means, kl_bound, kappa)

    return minimise(
        look,
        (spread, spread * 0.0) if start is None else how.read(start.double()),
        low=(spread * 1e-7, 0.0),
        high=(spread * 1e9, lam_max),
        # the model holds near its point only
        ratio=10.0,
        slack=(tolerance * kl_bound, tolerance * max(kappa, 1e-3)),
        max_iterations=max_iterations,
        how=how,
    )


def solve_dual(
    q_reward: Tensor,
    q_cost: Tensor,
    kl_bound: float,
    kappa: float,
    *,
    lam_max: float,
    previous: DualSolution | None,
    rate: float,
    tolerance: float = 1e-6,
) -> DualSolution:
    """Solve the dual and move the multipliers in use towards the solution.

    Args:
        q_reward, q_cost, kl_bound, kappa, lam_max, tolerance: as in `minimise_dual`.
        previous: the last round's solution: start of the search and of the smoothing.
        rate: share of the way from the multipliers last used to the exact ones, 1 uses the exact ones.

    Source: Eq. 6.
    Deviation: lam is bounded and both variables are smoothed over rounds. While no particle meets kappa the
        exact lam runs to its bound and the policy collapses to standing still.
    """
    start = None if previous is None else torch.stack((previous.eta_exact, previous.lam_exact))
    x, gradient, _ = minimise_dual(
        q_reward, q_cost, kl_bound, kappa, lam_max=lam_max, start=start, tolerance=tolerance
    )
    eta, lam = x[0], x[1]
    feasible = ~((lam >= lam_max) & (gradient[1] < -tolerance * max(kappa, 1e-3)))
    if previous is None or rate == 1.0:
        # the first solution is met from lam = 0: critics that have seen little must not freeze the policy
        return DualSolution(eta, lam * rate, eta, lam, feasible)
    used_eta = torch.lerp(previous.eta, eta, rate)
    used_lam = torch.lerp(previous.lam, lam, rate)
    return DualSolution(used_eta, used_lam, eta, lam, feasible)
