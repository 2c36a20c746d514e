"""How a policy acts while data are collected."""

from __future__ import annotations

import pytest
import torch

from harden.config.sections import PLAIN_ROLL_OUTS, Collect
from harden.config.tasks import TASKS
from harden.nets import GaussianPolicy
from harden.training.collection import Exploration, make_actor

TASK = TASKS["ball-circle"]


def draw(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_noise_is_standard_normal_and_correlated_as_asked(correlation: float) -> None:
    explore = Exploration(64, 2, Collect(correlation=correlation), draw())
    series = torch.stack([explore.noise(torch.arange(64), 2) for _ in range(4000)])
    assert float(series.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(series.std()) == pytest.approx(1.0, abs=0.02)
    for lag in (1, 5):
        assert float((series[lag:] * series[:-lag]).mean()) == pytest.approx(correlation**lag, abs=0.03)
    between_slots = float((series[:, 0] * series[:, 1]).mean())
    assert between_slots == pytest.approx(0.0, abs=0.1)


def test_a_slot_that_waits_keeps_its_place() -> None:
    explore = Exploration(3, 2, Collect(correlation=0.999), draw())
    before = explore.noise(torch.tensor([0, 1, 2]), 2)
    explore.noise(torch.tensor([0]), 2)
    assert torch.allclose(explore.noise(torch.tensor([1]), 2), before[1:2], atol=0.5)


def test_without_settings_it_is_the_policys_own_sample() -> None:
    policy = GaussianPolicy(8, 2, (16,), init_std=0.3)
    obs = torch.randn(10, 8)
    explore = Exploration(10, 2, Collect.model_validate(PLAIN_ROLL_OUTS), draw(1))
    assert torch.equal(explore(policy, obs, torch.arange(10)), policy.sample(obs, draw(1)))


@pytest.mark.parametrize(
    ("init_std", "floor", "spread"), [(0.3, 0.0, 0.3), (0.3, 0.2, 0.3), (0.15, 0.4, 0.4)]
)
def test_each_action_is_a_gaussian_draw_with_some_spread_at_least(
    init_std: float, floor: float, spread: float
) -> None:
    policy = GaussianPolicy(8, 2, (16,), init_std=init_std)
    obs = torch.zeros(1, 8).expand(50, 8)
    explore = Exploration(50, 2, Collect(correlation=0.8, min_std=floor), draw(1))
    act = make_actor("policy-sample", policy, TASK, draw(), 0.0, explore)
    actions = torch.stack([act(obs, torch.arange(50)).actions for _ in range(400)])
    mean = policy.mean(obs)[0].detach()
    torch.testing.assert_close(actions.mean((0, 1)), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(actions.std((0, 1)), torch.full((2,), spread), atol=0.03, rtol=0)


def test_a_share_of_the_slots_acts_by_the_mean() -> None:
    policy = GaussianPolicy(8, 2, (16,), init_std=0.3)
    obs = torch.randn(10, 8)
    explore = Exploration(10, 2, Collect(correlation=0.8, min_std=0.4, mean_share=0.3), draw(1))
    for slots in (torch.arange(10), torch.tensor([1, 2, 3, 9])):
        with torch.no_grad():
            actions, mean = explore(policy, obs[slots], slots), policy.clip(policy.mean(obs[slots]))
        assert (actions == mean).all(dim=1).tolist() == [slot < 3 for slot in slots.tolist()]
