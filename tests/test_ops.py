"""The rest of the mathematics: closed forms, hand-computed values, gradcheck."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harden.attacks import ball
from harden.method import bellman
from harden.method.m_step import step_multiplier
from harden.method.schedules import discounted_threshold, scheduled_epsilon, scheduled_limit, scheduled_rate
from harden.nets import gaussian
from harden.types import Transitions


def test_split_kl_is_torchs_with_one_part_held() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, other = (torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    std, other_std = (torch.rand(5, 3, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    of_mean, of_std = gaussian.split_kl(mean, std, other, other_std)

    def normal(m: torch.Tensor, s: torch.Tensor) -> torch.distributions.Distribution:
        return torch.distributions.Independent(torch.distributions.Normal(m, s), 1)

    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(of_mean, kl(normal(mean, std), normal(other, std)))
    torch.testing.assert_close(of_std, kl(normal(mean, std), normal(mean, other_std)))
    whole = gaussian.kl(mean, std, other, other_std)
    torch.testing.assert_close(whole, kl(normal(mean, std), normal(other, other_std)))


def test_cross_entropy_is_the_weighted_log_likelihood_and_differentiates() -> None:
    draw = torch.Generator().manual_seed(0)
    actions = torch.randn(5, 7, 3, generator=draw, dtype=torch.float64)
    weights = torch.softmax(torch.randn(5, 7, generator=draw, dtype=torch.float64), 1)
    mean = torch.randn(5, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    std = (torch.rand(5, 3, generator=draw, dtype=torch.float64) + 0.1).requires_grad_()
    each = torch.distributions.Normal(mean.unsqueeze(1), std.unsqueeze(1)).log_prob(actions).sum(-1)
    q_mean = (weights.unsqueeze(2) * actions).sum(1)
    q_var = (weights.unsqueeze(2) * (actions - q_mean.unsqueeze(1)) ** 2).sum(1)
    found = gaussian.cross_entropy(q_mean, q_var, mean, std)
    torch.testing.assert_close(found, -(weights * each).sum(1))
    assert torch.autograd.gradcheck(lambda m, s: gaussian.cross_entropy(q_mean, q_var, m, s), (mean, std))


def test_a_draw_is_the_mean_and_its_noise_in_spreads() -> None:
    mean, std = torch.randn(3, 2), torch.rand(3, 2)
    noise = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1))
    found = gaussian.sample(mean, std, 5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, mean[:, None] + std[:, None] * noise)


def test_split_kl_differentiates() -> None:
    old_mean, old_std = torch.randn(3, 2, dtype=torch.float64), torch.rand(3, 2, dtype=torch.float64) + 0.3
    mean = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    std = (torch.rand(3, 2, dtype=torch.float64) + 0.3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, s: gaussian.split_kl(old_mean, old_std, m, s), (mean, std))


def test_multiplier_rises_under_violation_falls_with_slack_and_stays_in_its_box() -> None:
    beta = torch.tensor([1.0, 1.0, 0.0, 4.9])
    value = torch.tensor([0.3, 0.05, 0.0, 9.0])
    stepped = step_multiplier(beta, value, torch.tensor(0.1), rate=2.0, ceiling=5.0)
    torch.testing.assert_close(stepped, torch.tensor([1.4, 0.9, 0.0, 5.0]))


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (10, 0.0), (15, 0.025), (20, 0.05), (500, 0.05)])
def test_epsilon_schedule(epoch: int, expected: float) -> None:
    assert scheduled_epsilon(0.05, epoch, start=10, ramp=10) == pytest.approx(expected)


def test_epsilon_schedule_without_a_ramp_switches_on() -> None:
    assert scheduled_epsilon(0.05, 4, start=5, ramp=0) == 0.0
    assert scheduled_epsilon(0.05, 6, start=5, ramp=0) == 0.05


def test_threshold_is_the_discounted_sum_of_an_even_cost() -> None:
    limit, horizon, gamma = 5.0, 200, 0.97
    by_hand = sum(gamma**t * limit / horizon for t in range(horizon))
    assert discounted_threshold(limit, horizon, gamma) == pytest.approx(by_hand)
    assert discounted_threshold(limit, 300, gamma) != pytest.approx(by_hand)
    assert discounted_threshold(limit, 300, 1.0) == limit


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["linf", "l2"]), st.floats(1e-4, 10.0))
def test_projection_and_samples_stay_in_the_ball(seed: int, norm: ball.Norm, epsilon: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    radius = torch.tensor(epsilon)
    far = 20 * epsilon * torch.randn(16, 5, generator=generator)
    draws = (draw(far, radius, norm, generator) for draw in (ball.sample, ball.sample_gaussian))
    for delta in (ball.project(far, radius, norm), *draws):
        size = delta.abs().amax(-1) if norm == "linf" else delta.norm(dim=-1)
        assert float(size.max()) <= epsilon * (1 + 1e-5)
    inside = ball.project(0.01 * epsilon * torch.ones(1, 5), radius, norm)
    torch.testing.assert_close(inside, 0.01 * epsilon * torch.ones(1, 5))


def ellipsoids(dtype: torch.dtype, seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return perturbations, (200, n) each, with a radius by coordinate of up to a million times another."""
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for size, decades in itertools.product((1, 2, 5, 30), (0.0, 1.0, 3.0, 6.0)):
        radius = 10 ** (-decades * torch.rand(size, generator=draw, dtype=dtype))
        far = 10 ** (4 * torch.rand(200, 1, generator=draw, dtype=dtype) - 2)
        unit = torch.randn(200, size, generator=draw, dtype=dtype)
        cases += [(far * unit * radius, radius), (far * unit, radius)]
    zero = torch.tensor([0.0, 0.1, 2.0], dtype=dtype)
    return [*cases, (torch.randn(200, 3, generator=draw, dtype=dtype), zero)]


def test_the_l2_projection_is_the_nearest_point_of_an_ellipsoid() -> None:
    """Against bisection of the multiplier, and by what makes a point the nearest one of a convex set."""
    draw = torch.Generator().manual_seed(1)
    for delta, radius in ellipsoids(torch.float64):
        found, square = ball.project(delta, radius, "l2"), radius.square().clamp_min(1e-300)
        low = torch.zeros(len(delta), 1, dtype=torch.float64)
        high = (delta * radius).norm(dim=1, keepdim=True) + 1.0
        for _ in range(200):
            middle = (low + high) / 2
            outside = (delta * radius / (square + middle)).norm(dim=1, keepdim=True) > 1
            low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
        torch.testing.assert_close(found, delta * radius.square() / (square + high), rtol=1e-9, atol=1e-12)
        inside = torch.randn(500, len(radius), generator=draw, dtype=torch.float64)
        inside = inside / inside.norm(dim=1, keepdim=True) * radius
        # the set lies on the far side of the plane through the nearest point
        ahead = ((delta - found).unsqueeze(1) * (inside - found.unsqueeze(1))).sum(2)
        assert float(ahead.max()) <= 1e-9 * float(delta.abs().max())


def test_the_projection_onto_a_plain_ball_is_radial() -> None:
    delta = torch.randn(100, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 0.3 * delta / delta.norm(dim=1, keepdim=True)
    for shape in ((), (6,)):
        radius = torch.full(shape, 0.3, dtype=torch.float64)
        torch.testing.assert_close(ball.project(delta, radius, "l2"), expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_projection_is_in_the_ball_to_the_last_bit_and_projects_to_itself(dtype: torch.dtype) -> None:
    scalars = [(delta, torch.tensor(0.37, dtype=dtype)) for delta, _ in ellipsoids(dtype)]
    for delta, radius in [*ellipsoids(dtype), *scalars]:
        for norm in ("linf", "l2"):
            found = ball.project(delta, radius, norm)
            assert torch.equal(ball.project(found, radius, norm), found)
            # alone, where sums are taken in another order
            alone = torch.stack([ball.project(row, radius, norm) for row in found[:5]])
            assert torch.equal(alone, found[:5])
            share = torch.where(radius > 0, found / radius, 0.0)
            assert float((share.abs() if norm == "linf" else share.norm(dim=1)).max()) <= 1.0
            assert float(torch.where(radius > 0, 0.0, found).abs().max()) == 0.0
        inside = radius * torch.full_like(delta, 0.5 / delta.shape[1] ** 0.5)
        assert torch.equal(ball.project(inside, radius, "l2"), inside)


def test_without_a_radius_nothing_moves() -> None:
    for radius in (torch.tensor(0.0), torch.zeros(3)):
        assert torch.equal(ball.project(torch.ones(2, 3), radius, "l2"), torch.zeros(2, 3))


def test_a_vector_radius_holds_each_coordinate() -> None:
    radius = torch.tensor([0.0, 0.1, 2.0])
    delta = ball.project(torch.full((4, 3), 5.0), radius, "linf")
    torch.testing.assert_close(delta, radius.expand(4, 3))


def episodes() -> Transitions:
    """Two episodes, of three steps ended by the dynamics and of two ended by the clock."""
    count = 5
    obs = torch.arange(count, dtype=torch.float32).unsqueeze(1)
    return Transitions(
        obs=obs,
        actions=torch.zeros(count, 1),
        rewards=torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]),
        costs=torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0]),
        next_obs=obs + 1,
        terminals=torch.tensor([False, False, True, False, False]),
        timeouts=torch.tensor([False, False, False, False, True]),
    )


def test_one_step_backups_stop_at_terminals_and_go_on_through_timeouts() -> None:
    plain = bellman.backups(episodes(), (0.5, 1), (0.5, 1))
    torch.testing.assert_close(plain.discounts, torch.tensor([0.5, 0.5, 0.0, 0.5, 0.5]))
    torch.testing.assert_close(plain.rewards, episodes().rewards)


def test_n_step_backups_never_cross_an_episode() -> None:
    ahead = bellman.backups(episodes(), (0.5, 3), (0.5, 3))
    torch.testing.assert_close(ahead.rewards, torch.tensor([1 + 1 + 1.0, 2 + 2.0, 4.0, 8 + 8.0, 16.0]))
    torch.testing.assert_close(ahead.costs, torch.tensor([0.5, 1.0, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(ahead.discounts, torch.tensor([0.0, 0.0, 0.0, 0.25, 0.5]))
    torch.testing.assert_close(ahead.next_obs[:, 0], torch.tensor([3.0, 3.0, 3.0, 5.0, 5.0]))


def test_each_signal_has_its_own_discount_and_steps() -> None:
    apart = bellman.backups(episodes(), (0.5, 3), (0.9, 1))
    ahead, alone = (
        bellman.backups(episodes(), (0.5, 3), (0.5, 3)),
        bellman.backups(episodes(), (0.9, 1), (0.9, 1)),
    )
    of_reward = ("rewards", "next_obs", "discounts")
    of_cost = ("costs", "cost_next_obs", "cost_discounts", "step_costs", "step_next_obs", "step_discounts")
    assert all(torch.equal(getattr(apart, name), getattr(ahead, name)) for name in of_reward)
    assert all(torch.equal(getattr(apart, name), getattr(alone, name)) for name in of_cost)


@pytest.mark.parametrize("n_step", [1, 3])
def test_each_transition_stands_beside_what_was_looked_ahead(n_step: int) -> None:
    ahead, alone = (bellman.backups(episodes(), (0.5, n), (0.5, n)) for n in (n_step, 1))
    assert torch.equal(ahead.step_costs, alone.costs)
    assert torch.equal(ahead.step_next_obs, alone.next_obs)
    assert torch.equal(ahead.step_discounts, alone.discounts)


def test_an_episode_that_goes_on_beyond_the_data_is_looked_ahead_to_its_last_row() -> None:
    data = episodes()
    data = data._replace(timeouts=torch.zeros(5, dtype=torch.bool))
    ahead = bellman.backups(data, (0.5, 4), (0.5, 1))
    torch.testing.assert_close(ahead.rewards[3:], torch.tensor([8 + 8.0, 16.0]))
    torch.testing.assert_close(ahead.discounts[3:], torch.tensor([0.25, 0.5]))


def test_what_is_looked_ahead_is_made_where_the_data_are() -> None:
    """On a device without values, which refuses to meet another one."""
    data = Transitions(*(column.to("meta") for column in episodes()))
    ahead = bellman.backups(data, (0.5, 3), (0.9, 2))
    assert {column.device.type for column in ahead} == {"meta"}


def test_n_step_values_of_a_known_chain() -> None:
    """On a deterministic chain the n-step target of the true values is the true value, for every n."""
    data, gamma = episodes(), 0.9
    ends = data.terminals | data.timeouts
    truth = bellman.monte_carlo_returns(data.rewards, ends, gamma)
    value_after_timeout = 3.0
    truth[3] += gamma**2 * value_after_timeout
    truth[4] += gamma * value_after_timeout
    of_obs = {float(o): float(v) for o, v in zip(data.obs[:, 0], truth, strict=True)}
    of_obs[5.0] = value_after_timeout
    for n_step in (1, 2, 3, 7):
        look = bellman.backups(data, (gamma, n_step), (gamma, n_step))
        next_q = torch.tensor([of_obs.get(float(o), 0.0) for o in look.next_obs[:, 0]])
        target = bellman.td_target(look.rewards, look.discounts, next_q)
        np.testing.assert_allclose(target.numpy(), truth.numpy(), rtol=1e-5)


def test_monte_carlo_returns() -> None:
    ends = torch.tensor([False, False, True, False, True])
    returns = bellman.monte_carlo_returns(torch.tensor([1.0, 1, 1, 2, 2]), ends, 0.5)
    np.testing.assert_allclose(returns.numpy(), [1.75, 1.5, 1.0, 3.0, 2.0])
    unfinished = bellman.monte_carlo_returns(torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3).bool(), 0.5)
    np.testing.assert_allclose(unfinished.numpy(), [3.0, 4.0, 4.0])
    assert unfinished.dtype == torch.float64


def test_cost_ceiling() -> None:
    assert bellman.cost_ceiling(1.0, 0.97) == pytest.approx(1 / 0.03)
    assert bellman.cost_ceiling(1.0, 1.0) == math.inf


def test_the_limit_falls_geometrically_to_its_own() -> None:
    assert scheduled_limit(5.0, 80.0, 0, ramp=4) == pytest.approx(80.0)
    assert scheduled_limit(5.0, 80.0, 2, ramp=4) == pytest.approx(20.0)
    assert scheduled_limit(5.0, 80.0, 4, ramp=4) == scheduled_limit(5.0, 80.0, 9, ramp=4) == 5.0
    assert scheduled_limit(5.0, 80.0, 0, ramp=0) == 5.0
    assert scheduled_limit(5.0, 80.0, 0.5, ramp=1) == pytest.approx(20.0)


def test_the_learning_rate_falls_linearly_and_stays_at_its_end() -> None:
    rates = [scheduled_rate(1e-3, 2e-4, epoch, epochs=5) for epoch in range(7)]
    assert rates == pytest.approx([1e-3, 8e-4, 6e-4, 4e-4, 2e-4, 2e-4, 2e-4])
    assert scheduled_rate(1e-3, 1e-3, 3, epochs=5) == 1e-3
    assert scheduled_rate(1e-3, 2e-4, 0, epochs=1) == 1e-3
    assert scheduled_rate(1e-3, 2e-4, 1, epochs=2) == pytest.approx(2e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_perturbations_are_uniform_in_the_ball(norm: ball.Norm) -> None:
    draw, radius = torch.Generator().manual_seed(0), torch.tensor([0.1] * 3 + [0.5])
    unit = ball.sample(torch.empty(40_000, 4), radius, norm, draw) / radius
    size = unit.abs().amax(1) if norm == "linf" else unit.norm(dim=1)
    # a ball of half the radius has 1 / 2^4 of the volume
    for share in (0.5, 0.8, 0.95):
        assert float((size < share).float().mean()) == pytest.approx(share**4, abs=0.01)
    torch.testing.assert_close(unit.mean(0), torch.zeros(4), atol=0.01, rtol=0)


def test_gaussian_perturbations_are_normal_where_the_ball_lets_them() -> None:
    draw, like, radius = (
        torch.Generator().manual_seed(0),
        torch.empty(40_000, 4),
        torch.tensor([0.1] * 3 + [0.5]),
    )
    linf = ball.sample_gaussian(like, radius, "linf", draw) / radius
    inside = linf.abs() < 1 - 1e-6
    assert float(inside.float().mean()) == pytest.approx(math.erf(math.sqrt(0.5)), abs=0.01)
    # a normal variable within one deviation of its mean
    truncated = 1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(0.5))
    assert float(linf[inside].square().mean()) == pytest.approx(truncated, abs=0.01)
    l2 = (ball.sample_gaussian(like, radius, "l2", draw) / radius).norm(dim=1)
    # the square of the length before the projection is a chi-square of 4, over 4: at most 1 by 1 - 3 exp(-2)
    assert float((l2 < 1 - 1e-6).float().mean()) == pytest.approx(1 - 3 * math.exp(-2), abs=0.01)
