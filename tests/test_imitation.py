"""Cloning and distillation: the likelihood against integrals, fits against what made the data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harden.config.sections import Imitation
from harden.errors import DivergedError, InputError
from harden.nets import GaussianPolicy
from harden.nets.gaussian import censored_log_prob
from harden.progress import Reporter
from harden.training.imitation import (
    ImitationFitted,
    clone_loss,
    distil_loss,
    fit_imitation,
    score,
    score_constant,
    split_episodes,
)
from harden.types import Transitions

CPU = torch.device("cpu")
UNIT = torch.ones(1, dtype=torch.float64)


def transitions(lengths: list[int]) -> Transitions:
    """Return episodes of some lengths; each row's observation is its episode and its step."""
    obs = torch.tensor([[float(e), float(t)] for e, length in enumerate(lengths) for t in range(length)])
    ends = torch.cat([torch.arange(length) == length - 1 for length in lengths])
    by_time = ends & (torch.cumsum(ends, 0) % 2 == 0)
    nothing = torch.zeros(len(obs))
    return Transitions(obs, obs, nothing, nothing, obs, ends & ~by_time, by_time)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.4), (-1.7, 0.2), (0.0, 3.0)])
def test_a_censored_gaussian_has_all_its_probability(mean: float, std: float) -> None:
    where = torch.linspace(-1, 1, 200_001, dtype=torch.float64)[1:-1].unsqueeze(1)
    m, s = mean * UNIT, std * UNIT
    inside = censored_log_prob(where, m, s, -UNIT, UNIT)
    torch.testing.assert_close(inside, torch.distributions.Normal(mean, std).log_prob(where[:, 0]))
    masses = censored_log_prob(torch.tensor([[-1.0], [1.0]], dtype=torch.float64), m, s, -UNIT, UNIT).exp()
    assert float(inside.exp().sum()) * 1e-5 + float(masses.sum()) == pytest.approx(1.0, abs=1e-4)
    drawn = (m + s * torch.randn(200_000, 1, dtype=torch.float64)).clamp(-1, 1)
    assert float(masses[1]) == pytest.approx(float((drawn == 1).double().mean()), abs=5e-3)


def test_a_censored_gaussian_differentiates_also_far_out() -> None:
    actions = torch.tensor([[-1.0, 0.2, 1.0], [1.0, -1.0, -1.0]], dtype=torch.float64)
    mean = torch.tensor([[0.9, 0.1, -3.0], [0.5, 1.0, -0.2]], dtype=torch.float64, requires_grad=True)
    std = torch.full((2, 3), 0.1, dtype=torch.float64, requires_grad=True)
    low, high = -torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: censored_log_prob(actions, m, s, low, high), (mean, std))
    far = mean.detach().float().requires_grad_()
    loss = censored_log_prob(actions.float(), far, std.detach().float(), low.float(), high.float()).sum()
    (slope,) = torch.autograd.grad(loss, far)
    assert bool(slope.isfinite().all())


def test_distillation_is_zero_at_the_teacher_and_the_kl_by_parts() -> None:
    teacher, student, obs = GaussianPolicy(3, 2, (8,)), GaussianPolicy(3, 2, (8,)), torch.randn(9, 3)
    mean, std = (value.detach() for value in teacher(obs))
    torch.testing.assert_close(distil_loss(teacher, obs, mean, std), torch.zeros(9), atol=1e-6, rtol=0)
    other_mean, other_std = student(obs)
    normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
    parts = kl(normal(mean, std), normal(other_mean, std)) + kl(normal(mean, std), normal(mean, other_std))
    torch.testing.assert_close(distil_loss(student, obs, mean, std), parts.sum(-1))


def test_episodes_are_held_out_whole_and_the_same_each_time() -> None:
    data = transitions([5, 1, 7, 3, 2, 9, 4, 6, 2, 2])
    split = split_episodes(data, 0.2, seed=3)
    assert split.episodes == (6, 2, 2)
    parts = [set(data.obs[rows, 0].tolist()) for rows in split[:3]]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert set.union(*parts) == set(range(10))
    assert sum(len(rows) for rows in split[:3]) == len(data.obs)
    assert torch.equal(split.held_out, split_episodes(data, 0.2, seed=3).held_out)
    assert not torch.equal(split.held_out, split_episodes(data, 0.2, seed=4).held_out)
    with pytest.raises(InputError, match="three are needed"):
        split_episodes(transitions([4, 4]), 0.1, seed=0)


def test_the_constant_to_beat_is_the_best_one() -> None:
    actions = (torch.tensor([0.8, -0.2]) + torch.tensor([0.7, 0.3]) * torch.randn(3000, 2)).clamp(-1, 1)
    low, high = -torch.ones(2), torch.ones(2)
    best = score_constant(actions, actions, low, high)

    def of(mean: Tensor, std: Tensor) -> float:
        return float(censored_log_prob(actions, mean, std, low, high).mean())

    grid = [
        of(torch.tensor([m, -0.2]), torch.tensor([s, 0.3]))
        for m in (0.6, 0.7, 0.8, 0.9)
        for s in (0.5, 0.6, 0.7, 0.8, 0.9)
    ]
    assert best.log_likelihood >= max(grid)
    assert best.log_likelihood == pytest.approx(
        of(torch.tensor([0.8, -0.2]), torch.tensor([0.7, 0.3])), abs=0.01
    )
    assert best.action_error == pytest.approx(float(actions.var(0, unbiased=False).mean().sqrt()), abs=1e-4)


def fitted(policy: GaussianPolicy, obs: Tensor, actions: Tensor, **keys: float) -> ImitationFitted:
    """Fit a policy to actions; returns what the fit did."""
    config = Imitation.model_validate({"steps": 3000, "check_every": 100, "patience": 8} | keys)
    cut = len(obs) * 4 // 5
    return fit_imitation(
        policy,
        clone_loss,
        (obs[:cut], actions[:cut]),
        (obs[cut:], actions[cut:]),
        config,
        seed=0,
        device=CPU,
        logs=None,
        report=Reporter(True),
    )


def test_a_clone_finds_means_and_spreads_behind_the_bounds() -> None:
    """A third of the actions stands on a bound; read as plain draws they would pull the mean inwards."""
    obs = torch.rand(6000, 1) * 2 - 1
    mean, std = 0.9 * obs, 0.5
    actions = (mean + std * torch.randn(6000, 1)).clamp(-1, 1)
    policy = GaussianPolicy(1, 1, (32,))
    fitted(policy, obs, actions)
    where = torch.linspace(-0.9, 0.9, 50).unsqueeze(1)
    with torch.no_grad():
        found_mean, found_std = policy(where)
    assert float((found_mean - 0.9 * where).abs().mean()) < 0.06
    assert float((found_std - std).abs().mean()) < 0.06


def test_a_fit_stops_early_and_keeps_its_best() -> None:
    """Few noisy rows and a large network: it soon learns the noise."""
    obs = torch.randn(60, 4)
    actions = (0.5 * torch.randn(60, 1)).clamp(-1, 1)
    policy = GaussianPolicy(4, 1, (64, 64))
    done = fitted(policy, obs, actions, check_every=20, patience=3)
    assert done.best_step == done.steps - 3 * 20 < 1000
    kept = score(policy, obs[48:], actions[48:]).log_likelihood
    assert kept == pytest.approx(-done.loss, abs=1e-5), "the best weights, not the last"


def test_equal_seeds_give_equal_fits() -> None:
    obs, actions = torch.randn(200, 3), torch.rand(200, 2) * 2 - 1
    first, second = GaussianPolicy(3, 2, (8,)), GaussianPolicy(3, 2, (8,))
    second.load_state_dict(first.state_dict())
    for policy in (first, second):
        fitted(policy, obs, actions, steps=150)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_fit_that_diverges_says_so(tmp_path: Path) -> None:
    obs = torch.randn(100, 3)
    with pytest.raises(DivergedError, match=r"imitation\.learning_rate"):
        fitted(GaussianPolicy(3, 1, (8,)), obs, torch.full((100, 1), math.nan))
