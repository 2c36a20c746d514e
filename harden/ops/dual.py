"""The E-step's dual: two variables, convex, solved by a damped Newton method on the device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

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


class Minimum(NamedTuple):
    """Where the dual is lowest.

    Args:
        x: float64 (2,), eta and lam.
        point: the dual there.
        converged: bool.
    """

    x: Tensor
    point: DualPoint
    converged: Tensor


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
    return _evaluate(x, _prepare(q_reward, q_cost), kl_bound, kappa)


class _Particles(NamedTuple):
    """What every evaluation of the dual shares: (S, K) each, with powers (S, K, 5) of their deviations."""

    q_reward: Tensor
    q_cost: Tensor
    mean_reward: Tensor
    mean_cost: Tensor
    powers: Tensor


def _prepare(q_reward: Tensor, q_cost: Tensor) -> _Particles:
    q_reward, q_cost = q_reward.double(), q_cost.double()
    # a state's own mean drops out of its weights; without it the second moments below lose no digits
    mean_reward, mean_cost = q_reward.mean(1, keepdim=True), q_cost.mean(1, keepdim=True)
    r, c = q_reward - mean_reward, q_cost - mean_cost
    powers = torch.stack((r, c, r * r, r * c, c * c), dim=2)
    return _Particles(r, c, mean_reward.mean(), mean_cost.mean(), powers)


def _evaluate(x: Tensor, particles: _Particles, kl_bound: float, kappa: float) -> DualPoint:
    """Evaluate the dual from the weighted first and second moments of each state's Q values."""
    r, c, mean_reward, mean_cost, powers = particles
    eta, lam = x[0], x[1]
    scaled = (r - lam * c) / eta
    log_sum = scaled.logsumexp(1, keepdim=True)
    weights = (scaled - log_sum).exp()
    e_r, e_c, e_rr, e_rc, e_cc = torch.bmm(weights.unsqueeze(1), powers).squeeze(1).unbind(1)
    log_mean = log_sum.mean() - math.log(c.shape[1])
    kl = ((e_r - lam * e_c) / eta).mean() - log_mean
    var_r, cov, var_c = (e_rr - e_r * e_r).mean(), (e_rc - e_r * e_c).mean(), (e_cc - e_c * e_c).mean()
    # of the advantage a = r - lam c
    var_a, cov_ac = var_r - lam * (2.0 * cov - lam * var_c), cov - lam * var_c
    cross = cov_ac / eta**2
    hessian = (var_a.clamp_min(0.0) / eta**3, cross, cross, var_c.clamp_min(0.0) / eta)
    return DualPoint(
        eta * (kl_bound + log_mean) + mean_reward - lam * mean_cost + lam * kappa,
        torch.stack((kl_bound - kl, kappa - mean_cost - e_c.mean())),
        torch.stack(hessian).view(2, 2),
    )


def _newton_move(point: DualPoint, free: Tensor, damping: Tensor) -> Tensor:
    """Return the damped Newton step in the free variables (Levenberg and Marquardt), by Cramer's rule."""
    gradient = point.gradient * free
    diagonal = point.hessian.diagonal()
    tiny = torch.finfo(diagonal.dtype).tiny ** 0.5
    diagonal = torch.where(free, diagonal * (1.0 + damping) + tiny, 1.0)
    cross = point.hessian[0, 1] * free.all()
    determinant = (diagonal[0] * diagonal[1] - cross * cross).clamp_min(tiny * tiny)
    swapped = diagonal.flip(0)
    return -(swapped * gradient - cross * gradient.flip(0)) / determinant


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

    The loop has no decision on the host on a GPU: a point that has converged stays as it is, so that the
    early exit taken on a CPU, where asking costs nothing, changes no bit.

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
    # eta below any useful temperature of these Q values: weights are one-hot there
    particles = _prepare(q_reward, q_cost)
    spread = (q_reward.double().std() + lam_max * q_cost.double().std()).nan_to_num() + 1e-8
    lower = torch.stack((spread * 1e-7, torch.zeros_like(spread)))
    upper = torch.stack((spread * 1e9, torch.full_like(spread, lam_max)))
    scale = torch.tensor((kl_bound, max(kappa, 1e-3)), dtype=torch.float64, device=q_cost.device)
    x = torch.stack((spread, torch.zeros_like(spread))) if start is None else start.double()
    x = torch.maximum(torch.minimum(x, upper), lower)
    point = _evaluate(x, particles, kl_bound, kappa)
    damping = torch.full_like(spread, 1e-3)
    done = torch.zeros((), dtype=torch.bool, device=q_cost.device)
    for _ in range(max_iterations):
        free = ~(((x <= lower) & (point.gradient > 0)) | ((x >= upper) & (point.gradient < 0)))
        done = done | ((point.gradient * free).abs() <= tolerance * scale).all()
        if done.device.type == "cpu" and bool(done):
            break
        aim = x + _newton_move(point, free, damping)
        # the model holds near the point only: eta may change tenfold at most in one step
        near = torch.stack((aim[0].clamp(min=0.1 * x[0], max=10.0 * x[0]), aim[1]))
        candidate = torch.maximum(torch.minimum(near, upper), lower)
        there = _evaluate(candidate, particles, kl_bound, kappa)
        better = (there.value <= point.value + 1e-14 * point.value.abs()) & ~done
        x = torch.where(better, candidate, x)
        point = DualPoint(*(torch.where(better, new, old) for new, old in zip(there, point, strict=True)))
        damping = torch.where(better, damping * 0.1, damping * 10.0).clamp(1e-15, 1e15)
    return Minimum(x, point, done)


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
    x, point, _ = minimise_dual(
        q_reward, q_cost, kl_bound, kappa, lam_max=lam_max, start=start, tolerance=tolerance
    )
    eta, lam = x[0], x[1]
    feasible = ~((lam >= lam_max) & (point.gradient[1] < -tolerance * max(kappa, 1e-3)))
    if previous is None or rate == 1.0:
        # the first solution is met from lam = 0: critics that have seen little must not freeze the policy
        return DualSolution(eta, lam * rate, eta, lam, feasible)
    used_eta = torch.lerp(previous.eta, eta, rate)
    used_lam = torch.lerp(previous.lam, lam, rate)
    return DualSolution(used_eta, used_lam, eta, lam, feasible)
