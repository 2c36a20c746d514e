"""The dual against finite differences, a brute-force grid and scipy, and the trap of infeasibility."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from harden.ops import dual, newton
from harden.ops.dual import evaluate_dual, minimise_dual, particle_weights, solve_dual
from harden.types import DualSolution


def draw(seed: int, states: int = 24, particles: int = 12) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Return Q values of random scale with a KL bound and a threshold that some particles meet."""
    rng = np.random.default_rng(seed)
    q_reward = torch.tensor(rng.normal(size=(states, particles)) * 10 ** rng.uniform(-2, 2))
    q_cost = torch.tensor(rng.random((states, particles)) * 10 ** rng.uniform(-2, 1))
    kappa = float(q_cost.mean()) * rng.uniform(0.3, 1.3)
    return q_reward, q_cost, float(10 ** rng.uniform(-2, -0.3)), kappa


def paper_dual(
    eta: float, lam: float, q_reward: np.ndarray, q_cost: np.ndarray, kl: float, kappa: float
) -> float:
    """Eq. 51 written out plainly, with one eta * delta and a mean over the particles."""
    inner = [np.log(np.mean(np.exp((r - lam * c) / eta))) for r, c in zip(q_reward, q_cost, strict=True)]
    return lam * kappa + eta * kl + eta * float(np.mean(inner))


def test_value_is_the_papers() -> None:
    q_reward, q_cost, kl, kappa = draw(0)
    x = torch.tensor((float(q_reward.std()), 0.7), dtype=torch.float64)
    mine = float(evaluate_dual(x, q_reward, q_cost, kl, kappa).value)
    assert mine == pytest.approx(paper_dual(float(x[0]), 0.7, q_reward.numpy(), q_cost.numpy(), kl, kappa))


@pytest.mark.parametrize("seed", range(5))
def test_gradient_and_hessian_are_the_derivatives(seed: int) -> None:
    q_reward, q_cost, kl, kappa = draw(seed)
    x = torch.tensor((float(q_reward.std()) + 0.1, 0.4), dtype=torch.float64)

    def value(y: torch.Tensor) -> torch.Tensor:
        return evaluate_dual(y, q_reward, q_cost, kl, kappa).value

    point = evaluate_dual(x, q_reward, q_cost, kl, kappa)
    by_autograd = torch.func.grad(value)(x)
    torch.testing.assert_close(point.gradient, by_autograd, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(point.hessian, torch.func.hessian(value)(x), rtol=1e-6, atol=1e-9)


def test_gradient_is_the_slack_of_the_constraints() -> None:
    q_reward, q_cost, kl, kappa = draw(3)
    eta, lam = torch.tensor(0.5 * float(q_reward.std())), torch.tensor(0.2)
    weights = particle_weights(q_reward, q_cost, eta, lam)
    uniform = 1 / weights.shape[1]
    kl_used = float((weights * (weights / uniform).log()).sum(1).mean())
    cost_used = float((weights * q_cost).sum(1).mean())
    x = torch.stack((eta, lam)).double()
    gradient = evaluate_dual(x, q_reward, q_cost, kl, kappa).gradient
    assert gradient[0].item() == pytest.approx(kl - kl_used, rel=1e-5)
    assert gradient[1].item() == pytest.approx(kappa - cost_used, rel=1e-5)


@pytest.mark.parametrize("seed", range(8))
def test_minimum_is_no_higher_than_a_grids_and_scipys(seed: int) -> None:
    q_reward, q_cost, kl, kappa = draw(seed)
    x, _, converged = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0)
    value = float(evaluate_dual(x, q_reward, q_cost, kl, kappa).value)
    spread = float(q_reward.std())
    grid = min(
        float(evaluate_dual(torch.tensor((eta, lam)), q_reward, q_cost, kl, kappa).value)
        for eta in np.geomspace(1e-2 * spread, 1e3 * spread, 40)
        for lam in np.linspace(0, 20, 21)
    )

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        point = evaluate_dual(torch.tensor(y), q_reward, q_cost, kl, kappa)
        return float(point.value), point.gradient.numpy()

    starts = [(spread, 0.0), (10 * spread, 5.0)]
    options = {"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-12}
    bounds = [(1e-6 * spread, None), (0, 20)]
    rival = min(
        minimize(objective, s, jac=True, method="L-BFGS-B", bounds=bounds, options=options).fun
        for s in starts
    )
    assert bool(converged)
    assert value <= grid + 1e-9 * abs(grid)
    assert value == pytest.approx(rival, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lam_max", [1e-3, 20.0])
def test_a_gpus_arithmetic_finds_the_same(seed: int, lam_max: float, monkeypatch: pytest.MonkeyPatch) -> None:
    q_reward, q_cost, kl, kappa = draw(seed)
    on_host = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=lam_max)
    monkeypatch.setattr(dual, "arithmetic_on", lambda device: newton.DEVICE)
    on_device = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=lam_max)
    assert bool(on_host.converged)
    assert bool(on_device.converged)
    torch.testing.assert_close(on_device.x, on_host.x, rtol=1e-9, atol=1e-12)


def test_active_constraints_hold_with_equality() -> None:
    q_reward, q_cost, kl, _ = draw(1)
    x, *_ = minimise_dual(q_reward, q_cost, kl, float(q_cost.mean()) * 0.85, lam_max=1e6)
    weights = particle_weights(q_reward, q_cost, x[0], x[1])
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
        x, *_ = minimise_dual(rewards, q_cost, kl, kappa, lam_max=20.0)
        assert bool(x.isfinite().all())
        assert bool(particle_weights(rewards, q_cost, x[0], x[1]).isfinite().all())


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


def test_rate_one_uses_the_exact_solution() -> None:
    q_reward, q_cost, kl, kappa = draw(5)
    previous = solve_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, previous=None, rate=1.0)
    again = solve_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, previous=previous, rate=1.0)
    assert float(again.eta) == float(again.eta_exact)
    assert float(again.lam) == float(again.lam_exact)


def test_a_warm_start_finds_the_same_minimum() -> None:
    q_reward, q_cost, kl, kappa = draw(6)
    cold, *_ = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, tolerance=1e-9)
    start = cold * torch.tensor((1.3, 0.8), dtype=torch.float64)
    warm, *_ = minimise_dual(q_reward, q_cost, kl, kappa, lam_max=20.0, start=start, tolerance=1e-9)
    torch.testing.assert_close(cold, warm, rtol=1e-5, atol=1e-7)
