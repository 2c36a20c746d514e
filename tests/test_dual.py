"""The dual against finite differences, a brute-force grid and scipy, and the trap of infeasibility."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from harden.method import dual
from harden.method.dual import (
    Minimum,
    Point,
    evaluate_dual,
    minimise_dual,
    particle_weights,
    prepare_particles,
    solve_dual,
)
from harden.types import DualSolution


def draw(seed: int, states: int = 24, particles: int = 12) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Return Q values of random scale with a KL bound and a threshold that some particles meet."""
    rng = np.random.default_rng(seed)
    q_reward = torch.tensor(rng.normal(size=(states, particles)) * 10 ** rng.uniform(-2, 2))
    q_cost = torch.tensor(rng.random((states, particles)) * 10 ** rng.uniform(-2, 1))
    kappa = float(q_cost.mean()) * rng.uniform(0.3, 1.3)
    return q_reward, q_cost, float(10 ** rng.uniform(-2, -0.3)), kappa


def evaluate(
    eta: float, lam: float, q_reward: torch.Tensor, q_cost: torch.Tensor, kl: float, kappa: float
) -> Point:
    return evaluate_dual(eta, lam, prepare_particles(q_reward, q_cost), kl, kappa)


def paper_dual(
    x: torch.Tensor, q_reward: torch.Tensor, q_cost: torch.Tensor, kl: float, kappa: float
) -> torch.Tensor:
    """Eq. 51 written out plainly, with one eta * delta and a mean over the particles."""
    eta, lam = x
    inner = [(((r - lam * c) / eta).exp().mean()).log() for r, c in zip(q_reward, q_cost, strict=True)]
    return lam * kappa + eta * kl + eta * torch.stack(inner).mean()


@pytest.mark.parametrize("seed", range(5))
def test_value_gradient_and_hessian_are_those_of_the_papers_dual(seed: int) -> None:
    q_reward, q_cost, kl, kappa = draw(seed)
    x = torch.tensor((float(q_reward.std()) + 0.1, 0.4), dtype=torch.float64)

    def value(y: torch.Tensor) -> torch.Tensor:
        return paper_dual(y, q_reward, q_cost, kl, kappa)

    point = evaluate(*x.tolist(), q_reward, q_cost, kl, kappa)
    assert point.value == pytest.approx(float(value(x)))
    gradient, hessian = torch.func.grad(value)(x), torch.func.hessian(value)(x)
    assert [point.by_x, point.by_y] == pytest.approx(gradient.tolist(), rel=1e-8, abs=1e-10)
    assert [point.by_xx, point.by_xy] == pytest.approx(hessian[0].tolist(), rel=1e-6, abs=1e-9)
    assert [point.by_xy, point.by_yy] == pytest.approx(hessian[1].tolist(), rel=1e-6, abs=1e-9)


def test_gradient_is_the_slack_of_the_constraints() -> None:
    q_reward, q_cost, kl, kappa = draw(3)
    eta, lam = torch.tensor(0.5 * float(q_reward.std())), torch.tensor(0.2)
    weights = particle_weights(q_reward, q_cost, eta, lam)
    uniform = 1 / weights.shape[1]
    kl_used = float((weights * (weights / uniform).log()).sum(1).mean())
    cost_used = float((weights * q_cost).sum(1).mean())
    point = evaluate(float(eta), float(lam), q_reward, q_cost, kl, kappa)
    assert point.by_x == pytest.approx(kl - kl_used, rel=1e-5)
    assert point.by_y == pytest.approx(kappa - cost_used, rel=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_minimum_is_no_higher_than_a_grids_and_scipys(seed: int) -> None:
    q_reward, q_cost, kl, kappa = draw(seed)
    found = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0)
    particles, spread = prepare_particles(q_reward, q_cost), float(q_reward.std())
    grid = min(
        evaluate_dual(eta, lam, particles, kl, kappa).value
        for eta in np.geomspace(1e-2 * spread, 1e3 * spread, 40).tolist()
        for lam in np.linspace(0, 20, 21).tolist()
    )

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        point = evaluate_dual(*y.tolist(), particles, kl, kappa)
        return point.value, np.array((point.by_x, point.by_y))

    starts = [(spread, 0.0), (10 * spread, 5.0)]
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-12}
    bounds = [(1e-6 * spread, None), (0, 20)]
    rival = min(
        minimize(objective, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun
        for s in starts
    )
    assert found.converged
    assert found.at == evaluate_dual(found.x, found.y, particles, kl, kappa)
    assert found.at.value <= grid + 1e-9 * abs(grid)
    assert found.at.value == pytest.approx(rival, rel=1e-6, abs=1e-9)


def test_a_search_ends_as_soon_as_it_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations, evaluate_once = [], dual.evaluate_dual

    def counted(*arguments: Any) -> Point:
        evaluations.append(arguments)
        return evaluate_once(*arguments)

    monkeypatch.setattr(dual, "evaluate_dual", counted)
    q_reward, q_cost, kl, kappa = draw(6)
    cold = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0)
    from_scratch = len(evaluations)
    assert cold.converged
    assert from_scratch <= 20
    warm = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, start=(cold.x, cold.y))
    assert len(evaluations) == from_scratch + 1
    assert warm == cold


def test_a_search_that_may_not_go_on_says_so() -> None:
    q_reward, q_cost, kl, kappa = draw(6)
    assert not minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, max_iterations=1).converged


def weights_of(found: Minimum, q_reward: torch.Tensor, q_cost: torch.Tensor) -> torch.Tensor:
    """Return q* at a solution."""
    return particle_weights(q_reward, q_cost, torch.tensor(found.x), torch.tensor(found.y))


def test_active_constraints_hold_with_equality() -> None:
    q_reward, q_cost, kl, _ = draw(1)
    weights = weights_of(
        minimise_dual(q_reward, q_cost, kl, float(q_cost.mean()) * 0.85, lam_max=1e6), q_reward, q_cost
    )
    assert float((weights * q_cost).sum(1).mean()) == pytest.approx(float(q_cost.mean()) * 0.85, rel=1e-4)
    assert float((weights * (weights * weights.shape[1]).log()).sum(1).mean()) == pytest.approx(kl, rel=1e-4)


def test_weights_are_a_softmax_without_the_policys_density() -> None:
    weights = particle_weights(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor(0.5), torch.tensor(2.0)
    )
    expected = np.exp([1 / 0.5, (2 - 2) / 0.5])
    np.testing.assert_allclose(weights[0].numpy(), expected / expected.sum(), rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_no_overflow_at_any_scale_or_without_any_difference(scale: float) -> None:
    q_reward, q_cost, kl, kappa = draw(2)
    for rewards in (q_reward * scale, torch.zeros_like(q_reward)):
        found = minimise_dual(rewards, q_cost, kl, kappa, lam_max=20.0)
        assert math.isfinite(found.x)
        assert math.isfinite(found.y)
        assert bool(weights_of(found, rewards, q_cost).isfinite().all())


def test_what_all_particles_of_a_state_share_changes_nothing() -> None:
    """However large it is beside what tells them apart."""
    q_reward, q_cost, kl, kappa = draw(6)
    plain = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, tolerance=1e-9)
    shared = 1e9 * torch.randn(len(q_reward), 1, dtype=torch.float64)
    found = minimise_dual(q_reward + shared, q_cost, kl, kappa, lam_max=20.0, tolerance=1e-9)
    assert (found.x, found.y) == pytest.approx((plain.x, plain.y), rel=1e-5)


def test_infeasible_is_said_and_lam_is_bounded_smoothed_and_recovers() -> None:
    q_reward, q_cost, kl, _ = draw(4)
    dangerous = q_cost + 10.0
    first = solve_dual(q_reward, dangerous, kl, 1.0, lam_max=8.0, previous=None, rate=0.05)
    assert not bool(first.feasible)
    assert float(first.lam_exact) == pytest.approx(8.0)
    assert float(first.lam) == pytest.approx(0.05 * 8.0)

    solution: DualSolution = first
    for _ in range(200):
        solution = solve_dual(q_reward, dangerous, kl, 1.0, lam_max=8.0, previous=solution, rate=0.05)
    assert float(solution.lam) == pytest.approx(8.0, abs=0.01)
    for _ in range(200):
        solution = solve_dual(q_reward, q_cost * 0.0, kl, 1.0, lam_max=8.0, previous=solution, rate=0.05)
    assert bool(solution.feasible)
    assert float(solution.lam) == pytest.approx(0.0, abs=0.01)


def test_lam_follows_the_exact_one_at_the_rate_and_eta_is_solved_for_it() -> None:
    """From the first solution, which is met from lam = 0, on."""
    q_reward, q_cost, kl, kappa = draw(5)
    kappa = 0.8 * float(q_cost.mean())
    first = solve_dual(q_reward, q_cost, kl, kappa, lam_max=200.0, previous=None, rate=0.25)
    assert 0.0 < float(first.lam) == pytest.approx(0.25 * float(first.lam_exact))
    second = solve_dual(3.0 * q_reward, q_cost, kl, kappa, lam_max=200.0, previous=first, rate=0.25)
    exact = minimise_dual(3.0 * q_reward, q_cost, kl, kappa, lam_max=200.0)
    assert float(second.eta_exact) == pytest.approx(exact.x, rel=1e-4)
    assert float(second.lam_exact) == pytest.approx(exact.y, rel=1e-4)
    assert float(second.lam) == pytest.approx(float(0.75 * first.lam + 0.25 * second.lam_exact), rel=1e-12)
    for rewards, solution in ((q_reward, first), (3.0 * q_reward, second)):
        weights = particle_weights(rewards, q_cost, solution.eta, solution.lam)
        used = (weights * (weights * weights.shape[1]).log()).sum(1).mean()
        assert float(used) == pytest.approx(kl, rel=1e-4), "of the weights in use, not of the exact ones"
        assert float(solution.kl) == pytest.approx(float(used), rel=1e-4)
        assert bool(solution.converged)


def test_eta_alone_is_found_where_lam_is_given() -> None:
    q_reward, q_cost, kl, kappa = draw(7)
    found = minimise_dual(q_reward, q_cost, kl, kappa, lam_min=3.0, lam_max=3.0)
    around = [found.x * factor for factor in np.linspace(0.7, 1.4, 200)]
    values = [
        float(evaluate_dual(eta, 3.0, prepare_particles(q_reward, q_cost), kl, kappa).value) for eta in around
    ]
    assert found.y == 3.0
    assert found.at.value <= min(values)


def test_a_search_that_ends_early_says_so() -> None:
    q_reward, q_cost, kl, kappa = draw(8)
    assert not minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, max_iterations=1).converged


def test_rate_one_uses_the_exact_solution() -> None:
    q_reward, q_cost, kl, kappa = draw(5)
    previous = solve_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, previous=None, rate=1.0)
    again = solve_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, previous=previous, rate=1.0)
    assert float(again.eta) == float(again.eta_exact)
    assert float(again.lam) == float(again.lam_exact)


def test_a_warm_start_finds_the_same_minimum() -> None:
    q_reward, q_cost, kl, kappa = draw(6)
    cold = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, tolerance=1e-9)
    start = 1.3 * cold.x, 0.8 * cold.y
    warm = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, start=start, tolerance=1e-9)
    assert (warm.x, warm.y) == pytest.approx((cold.x, cold.y), rel=1e-5, abs=1e-7)
