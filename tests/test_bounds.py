"""Guarantees hold against everything that is tried inside the ball, and the theorems are as printed."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from harden.evaluation.certificate import guaranteed_move
from harden.nets import GaussianPolicy
from harden.ops import ball
from harden.ops.bounds import interval, robust_bound, total_variation, vanilla_bound


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_one_linear_layer_is_bounded_exactly(norm: str, order: int) -> None:
    weight, bias, obs = torch.randn(3, 5), torch.randn(3), torch.randn(4, 5)
    radius = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    low, high = interval([(weight, bias)], obs, radius, norm)
    middle = obs @ weight.T + bias
    # Hoelder: the dual norm of each row
    reach = (weight * radius).norm(p=order, dim=1)
    torch.testing.assert_close(low, middle - reach)
    torch.testing.assert_close(high, middle + reach)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_in_the_ball_leaves_the_bounds_of_a_policy(norm: str, scale: float) -> None:
    policy, obs = GaussianPolicy(6, 2, (32, 32), obs_scale=scale), torch.randn(50, 6)
    with torch.no_grad():
        policy.mean_head.weight.mul_(30)
        bound = guaranteed_move(policy, obs, 0.1, norm)
        draw, most = torch.Generator().manual_seed(0), torch.zeros(50)
        for _ in range(200):
            delta = ball.project(
                10 * ball.sample(obs, torch.tensor(0.1), norm, draw), torch.tensor(0.1), norm
            )
            most = torch.maximum(most, (policy.mean(obs + delta) - policy.mean(obs)).abs().amax(1))
    assert bool((most <= bound + 1e-6).all())
    assert float((most / bound).max()) > 0.05, "and they are not empty words"
    assert float(guaranteed_move(policy, obs, 1e-6, norm).max()) < 1e-3


def test_total_variation_is_never_above_its_bound() -> None:
    for shift in (0.01, 0.5, 2.0, 10.0):
        exact = 2 * stats.norm.cdf(shift / 2) - 1
        bound = float(total_variation(torch.tensor(shift**2 / 2, dtype=torch.float64)))
        assert exact <= bound <= 1
        assert bound <= shift / 2, "Pinsker's is one of the two"


def test_the_theorems_by_hand() -> None:
    found = robust_bound(1.0, 1.0, 0.5, distance=0.1, kl=0.02)
    assert found == pytest.approx(1 + 2 * (0.1 / 0.5 + math.sqrt(0.04) * 0.5 * 0.1 / 0.25) * (1 + 1))
    assert found == pytest.approx(1.96)
    found = vanilla_bound(1.0, 1.0, 0.5, distance=0.1, kl=0.02, lipschitz=2.0, epsilon=0.1)
    assert found == pytest.approx(4.84)
    assert vanilla_bound(1.0, 1.0, 0.5, distance=0.0, kl=0.0, lipschitz=0.0, epsilon=0.1) == 1.0
