"""How right critics are, as benchmarks/critics.py judges it: Q values beside Monte Carlo returns."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from harden.config.tasks import TASKS
from harden.envs.vector import VectorEnv
from harden.nets import GaussianPolicy
from harden.seeds import episode_seeds, generator

CALIBRATION = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/calibration.py")))


def test_branches_share_their_beginning_and_average_their_returns() -> None:
    policy = GaussianPolicy(8, 2, (8,), init_std=0.5)
    task = TASKS["ball-circle"]._replace(horizon=12)
    found = CALIBRATION.branch(policy, task, (0.5, 0.5), points=4, branches=3, seed=5, workers=0)
    again = CALIBRATION.branch(policy, task, (0.5, 0.5), points=4, branches=3, seed=5, workers=1)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert found.obs.shape == (4, 8)
    # the first point by hand: the same actions up to it, and three ways on from there
    place = generator("cpu", 5, "branch-time")
    time = int(torch.randint(12 - 6, (4,), generator=place)[0])
    draw = generator("cpu", 5, "branch-actions", 0)
    returns = torch.zeros(3, dtype=torch.float64)
    with VectorEnv(task, 3, 0) as envs:
        seeds = episode_seeds(5, "branch", 0, 1).repeat(3)
        obs = torch.from_numpy(envs.reset(np.arange(3), seeds))
        for now in range(12):
            with torch.no_grad():
                actions = policy.sample(obs, draw)
            if now <= time:
                assert torch.equal(obs[0], obs[1])
                actions = actions[:1].repeat(3, 1)
            if now == time:
                assert torch.equal(obs[0], found.obs[0])
                assert torch.equal(actions[0], found.actions[0])
            step = envs.step(np.arange(3), actions.numpy())
            obs = torch.from_numpy(step.obs)
            if now >= time:
                returns += 0.5 ** (now - time) * torch.from_numpy(step.rewards).double()
    torch.testing.assert_close(found.rewards[0], returns, rtol=1e-6, atol=0)


def test_critics_that_are_right_are_called_right_and_a_bias_is_seen() -> None:
    rewards, costs = torch.rand(2, 30, 4, dtype=torch.float64)
    held_out = CALIBRATION.Branches(torch.rand(30, 1), torch.rand(30, 1), rewards, costs)

    def critics(reward: float, cost: float) -> SimpleNamespace:
        return SimpleNamespace(
            q_reward=lambda obs, actions: reward * rewards.mean(1),
            q_cost=lambda obs, actions: cost * costs.mean(1),
        )

    right = CALIBRATION.calibrate(critics(1.0, 1.0), held_out)
    assert right["points"] == 30
    assert right["reward"]["bias"] == right["cost"]["bias"] == 0.0
    assert right["reward"]["rank_correlation"] == pytest.approx(1.0)
    wrong = CALIBRATION.calibrate(critics(1.5, -0.5), held_out)
    assert wrong["reward"]["bias"] == pytest.approx(0.5)
    assert wrong["cost"]["bias"] == pytest.approx(-1.5)
    assert wrong["cost"]["rank_correlation"] == pytest.approx(-1.0)


def test_what_never_costs_anything_leaves_nothing_to_rank() -> None:
    rewards, costs = torch.rand(30, 4, dtype=torch.float64), torch.zeros(30, 4, dtype=torch.float64)
    critics = SimpleNamespace(q_reward=lambda *_: rewards.mean(1), q_cost=lambda *_: torch.rand(30))
    found = CALIBRATION.calibrate(
        critics, CALIBRATION.Branches(torch.rand(30, 1), torch.rand(30, 1), rewards, costs)
    )
    assert found["cost"]["rank_correlation"] is None
    assert found["cost"]["noise_ceiling"] is None
    assert found["cost"]["bias"] is None
    assert found["cost"]["mean_return"] == 0.0
    json.dumps(found, allow_nan=False)


def test_the_noise_ceiling_is_what_true_values_reach() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 1))
    returns = values + 3.0 * rng.normal(size=(4000, 24))
    reached = stats.spearmanr(values[:, 0], returns.mean(1)).statistic
    assert CALIBRATION.noise_ceiling(returns) == pytest.approx(reached, abs=0.02)
    assert CALIBRATION.noise_ceiling(np.repeat(values, 2, axis=1)) == pytest.approx(1.0)
    assert CALIBRATION.noise_ceiling(np.concatenate((values, -values), axis=1)) == 0.0
