"""The E-step's dual: two variables, convex, solved by a damped Newton method on the host."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from harden.types import DualSolution

_TINY = sys.float_info.min**0.5

Pair = tuple[float, float]


class Point(NamedTuple):
    """A function of x and y at one point, with its derivatives."""

    value: float
    by_x: float
    by_y: float
    by_xx: float
    by_xy: float
    by_yy: float


class Minimum(NamedTuple):
    """Where the function is lowest.

    Args:
        x, y: both variables.
        at: the function there.
        converged: whether each derivative is within its slack, or pushes against a bound.
    """

    x: float
    y: float
    at: Point
    converged: bool


def _clamp(value: float, low: float, high: float) -> float:
    return low if value < low else min(value, high)


def minimise(
    evaluate: Callable[[float, float], Point],
    start: Pair,
    *,
    low: Pair,
    high: Pair,
    ratio: float,
    slack: Pair,
    max_iterations: int,
) -> Minimum:
    """Minimise a convex function over a box.

    Args:
        evaluate: the function with its derivatives.
        start: where to begin, moved into the box.
        low, high: the box; x is positive in it.
        ratio: x changes by this factor at most in one step.
        slack: size of each derivative that counts as none; one that pushes against a bound does too.
        max_iterations: steps at most.
    """
    x, y = _clamp(start[0], low[0], high[0]), _clamp(start[1], low[1], high[1])
    at, damping, steps = evaluate(x, y), 1e-3, 0
    while True:
        x_held = (x <= low[0] and at.by_x > 0.0) or (x >= high[0] and at.by_x < 0.0)
        y_held = (y <= low[1] and at.by_y > 0.0) or (y >= high[1] and at.by_y < 0.0)
        converged = (x_held or abs(at.by_x) <= slack[0]) and (y_held or abs(at.by_y) <= slack[1])
        if converged or steps == max_iterations:
            return Minimum(x, y, at, converged)
        move_x, move_y = _newton_step(at, x_held, y_held, damping)
        new_x = _clamp(_clamp(x + move_x, x / ratio, x * ratio), low[0], high[0])
        new_y = _clamp(y + move_y, low[1], high[1])
        there = evaluate(new_x, new_y)
        # the last digits of a value are rounding
        better = there.value <= at.value + 1e-14 * abs(at.value)
        if better:
            x, y, at = new_x, new_y, there
        damping = _clamp(damping * (0.1 if better else 10.0), 1e-15, 1e15)
        steps += 1


def _newton_step(at: Point, x_held: bool, y_held: bool, damping: float) -> Pair:
    """Return the damped Newton step of what no bound holds (Levenberg and Marquardt), by Cramer's rule."""
    by_x, by_y = 0.0 if x_held else at.by_x, 0.0 if y_held else at.by_y
    # rounding can leave a curvature of nothing below zero
    by_xx = 1.0 if x_held else max(at.by_xx, 0.0) * (1.0 + damping) + _TINY
    by_yy = 1.0 if y_held else max(at.by_yy, 0.0) * (1.0 + damping) + _TINY
    by_xy = 0.0 if x_held or y_held else at.by_xy
    determinant = max(by_xx * by_yy - by_xy * by_xy, _TINY * _TINY)
    return (by_xy * by_y - by_yy * by_x) / determinant, (by_xy * by_x - by_xx * by_y) / determinant


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


class Particles(NamedTuple):
    """What every evaluation of the dual shares, in float64.

    Args:
        r, c: Q_r and Q_c less each state's mean, (S, K).
        products: 1, r, c, rr, rc, cc, (6, S, K).
        mean_reward, mean_cost: of Q_r and Q_c themselves.
        std_reward, std_cost: of r and c.
    """

    r: Tensor
    c: Tensor
    products: Tensor
    mean_reward: float
    mean_cost: float
    std_reward: float
    std_cost: float


def prepare_particles(q_reward: Tensor, q_cost: Tensor) -> Particles:
    """Return what the dual needs of the particles' Q values, (S, K) each."""
    q_reward, q_cost = q_reward.double(), q_cost.double()
    # a state's own mean drops out of its weights; without it the second moments below lose no digits
    mean_reward, mean_cost = q_reward.mean(1, keepdim=True), q_cost.mean(1, keepdim=True)
    r, c = q_reward - mean_reward, q_cost - mean_cost
    products = torch.stack((torch.ones_like(r), r, c, r * r, r * c, c * c))
    scalars = torch.stack((mean_reward.mean(), mean_cost.mean(), r.std(), c.std()))
    return Particles(r, c, products, *scalars.tolist())


def evaluate_dual(eta: float, lam: float, particles: Particles, kl_bound: float, kappa: float) -> Point:
    """Return the dual's value with its derivatives by eta and lam in closed form.

    The gradient is the slack of the KL and of the cost constraint. Six numbers are all that is read back from
    the device.

    Args:
        eta, lam: the dual variables.
        particles: as `prepare_particles` made them.
        kl_bound: delta, nats.
        kappa: the discounted cost threshold.

    Source: Eq. 51 (Eq. 6 prints the term in delta twice), with a mean over particles inside the log.
    """
    log_mean, e_r, e_c, var_r, cov, var_c = _moments(eta, lam, particles).tolist()
    # of the advantage a = r - lam c
    cov_ac = cov - lam * var_c
    var_a = var_r - lam * (cov + cov_ac)
    kl = (e_r - lam * e_c) / eta - log_mean
    return Point(
        eta * (kl_bound + log_mean) + particles.mean_reward - lam * particles.mean_cost + lam * kappa,
        kl_bound - kl,
        kappa - particles.mean_cost - e_c,
        var_a / (eta * eta * eta),
        cov_ac / (eta * eta),
        var_c / eta,
    )


def _moments(eta: float, lam: float, particles: Particles) -> Tensor:
    """Return log-mean-exp of the advantage, the means of r and c, and their covariance rr, rc, cc under q*.

    All are means over states, (6,): the part of the dual that grows with their number.
    """
    r, c, products = particles.r, particles.c, particles.products
    scaled = (r - lam * c) / eta
    peak = scaled.amax(1, keepdim=True)
    sums = (products * (scaled - peak).exp()).sum(2)
    total, moments = sums[0], sums[1:] / sums[0]
    e_r, e_c = moments[:2]
    of_means = torch.stack((torch.zeros_like(e_r), torch.zeros_like(e_r), e_r * e_r, e_r * e_c, e_c * e_c))
    log_mean = peak.squeeze(1) + total.log() - math.log(c.shape[1])
    return torch.cat((log_mean[None], moments - of_means)).mean(1)


def minimise_dual(
    q_reward: Tensor,
    q_cost: Tensor,
    kl_bound: float,
    kappa: float,
    *,
    lam_max: float,
    lam_min: float = 0.0,
    start: tuple[float, float] | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 100,
) -> Minimum:
    """Minimise the dual over eta > 0 and lam_min <= lam <= lam_max.

    Args:
        q_reward, q_cost: (S, K).
        kl_bound: delta, nats.
        kappa: the discounted cost threshold.
        lam_max: upper bound of the cost multiplier (without one an infeasible problem runs to infinity).
        lam_min: lower bound; equal to `lam_max` it leaves eta alone to be found.
        start: eta and lam to start from.
        tolerance: allowed slack of an active constraint, relative to its bound.
        max_iterations: steps of the search at most.

    Returns:
        eta and lam as x and y.

    Source: Eq. 6, 52.
    """
    particles = prepare_particles(q_reward, q_cost)
    # the scale of eta: far below it the weights are one-hot, far above it they are uniform
    spread = particles.std_reward + lam_max * particles.std_cost + 1e-8
    return minimise(
        lambda eta, lam: evaluate_dual(eta, lam, particles, kl_bound, kappa),
        (spread, lam_min) if start is None else start,
        low=(spread * 1e-7, lam_min),
        high=(spread * 1e9, lam_max),
        # the model holds near its point only
        ratio=10.0,
        slack=(tolerance * kl_bound, _cost_slack(tolerance, kappa)),
        max_iterations=max_iterations,
    )


def _cost_slack(tolerance: float, kappa: float) -> float:
    """Return by how much the expected cost may miss kappa, which may be 0."""
    return tolerance * max(kappa, 1e-3)


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
    """Solve the dual, move lam towards its solution, and solve eta for the lam in use.

    Args:
        q_reward, q_cost, kl_bound, kappa, lam_max, tolerance: as in `minimise_dual`.
        previous: the last round's solution: start of the search and of the smoothing.
        rate: share of the way from the lam last used to the exact one, 1 uses the exact one.

    Source: Eq. 6.
    Deviation: lam is bounded and smoothed over rounds. While no particle meets kappa the exact lam runs to
        its bound and the policy collapses to standing still. Eta is the dual's minimiser for the lam in use,
        so that the bound on the KL holds for the weights as they are used.
    """

    def search(lam_min: float, lam_max: float, start: tuple[float, float] | None) -> Minimum:
        return minimise_dual(
            *(q_reward, q_cost, kl_bound, kappa),
            lam_min=lam_min,
            lam_max=lam_max,
            start=start,
            tolerance=tolerance,
        )

    exact = search(
        0.0, lam_max, None if previous is None else (float(previous.eta_exact), float(previous.lam_exact))
    )
    # the first solution is met from lam = 0: critics that have seen little must not freeze the policy
    lam_before = 0.0 if previous is None else float(previous.lam)
    lam = lam_before + rate * (exact.y - lam_before)
    used = exact if lam == exact.y else search(lam, lam, (exact.x, lam))
    feasible = exact.y < lam_max or exact.at.by_y >= -_cost_slack(tolerance, kappa)
    # the dual's derivative by eta is the bound less the KL
    numbers = torch.tensor((used.x, lam, exact.x, exact.y, kl_bound - used.at.by_x), dtype=torch.float64)
    facts = torch.tensor((feasible, exact.converged and used.converged)).to(q_cost.device)
    eta, lam_used, eta_exact, lam_exact, kl = numbers.to(q_cost.device)
    return DualSolution(eta, lam_used, eta_exact, lam_exact, facts[0], facts[1], kl)
