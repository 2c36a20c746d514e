"""How a policy acts while data are collected."""

from __future__ import annotations

import pytest
import torch

from harden.nets import GaussianPolicy
from harden.stages.collect import CorrelatedNoise, make_actor
from harden.tasks import TASKS

TASK = TASKS["ball-circle"]


def draw(seed: int = 0) -> torch.Generator:
    """Return a generator."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_correlated_noise_is_standard_normal_and_correlated_as_asked(correlation: float) -> None:
    noise = CorrelatedNoise(64, 2, correlation, draw())
    series = torch.stack([noise(torch.arange(64)) for _ in range(4000)])
    assert float(series.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(series.std()) == pytest.approx(1.0, abs=0.02)
    for lag in (1, 5):
        assert float((series[lag:] * series[:-lag]).mean()) == pytest.approx(correlation**lag, abs=0.03)
    between_slots = float((series[:, 0] * series[:, 1]).mean())
    assert between_slots == pytest.approx(0.0, abs=0.1)


def test_a_slot_that_waits_keeps_its_place() -> None:
    noise = CorrelatedNoise(3, 2, 0.999, draw())
    before = noise(torch.tensor([0, 1, 2]))
    noise(torch.tensor([0]))
    assert torch.allclose(noise(torch.tensor([1])), before[1:2], atol=0.5)


def test_each_action_is_still_a_draw_from_the_policy() -> None:
    policy = GaussianPolicy(8, 2, (16,), init_std=0.3)
    obs = torch.randn(1, 8).expand(50, 8)
    act = make_actor("policy-sample", policy, TASK, draw(), 0.0, CorrelatedNoise(50, 2, 0.8, draw(1)))
    actions = torch.stack([act(obs, torch.arange(50)).actions for _ in range(400)])
    mean, std = (value[0].detach() for value in policy(obs))
    torch.testing.assert_close(actions.mean((0, 1)), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(actions.std((0, 1)), std, atol=0.02, rtol=0)
