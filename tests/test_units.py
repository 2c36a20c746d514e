"""Nothing that is learned depends on the unit that a task gives its reward in."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from harden.method.critic_step import fit_critics, make_replay, measure
from harden.method.e_step import EStepStates, e_step, lam_unit
from harden.method.learner import Learner, new_learner
from harden.method.m_step import RobustMStep
from harden.method.schedules import scheduled
from harden.nets import Critics
from harden.nets.saved import load_critics, module_digest, save_critics
from harden.types import Targets, Transitions
from support.learners import CPU, TERMS, configure

UNIT = 1024.0


def data(unit: float) -> Transitions:
    """Return transitions whose rewards are in some unit."""
    draw = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, 300, 8, generator=draw)
    actions = torch.rand(300, 2, generator=draw) * 2 - 1
    rewards = (3.0 * actions[:, 0] + obs[:, 0]) * unit
    ends = torch.arange(300) % 30 == 29
    return Transitions(
        obs, actions, rewards, (actions[:, 0] > 0).float(), next_obs, ends & (obs[:, 1] > 0), ends
    )


def learned(unit: float) -> tuple[Learner, Targets, Any]:
    """Return a learner after a round on them."""
    sections = {"networks": {"reward_critics": 2}, "critics": {"scale_rewards": True, "batch": 64}}
    config = configure(variant="safer", **sections)
    learner, rows = new_learner(config, CPU), data(unit)
    measure(learner, rows, config)
    fit_critics(learner, make_replay(rows, config, CPU), config, 0.05, 100)
    targets, learner.dual, _ = e_step(
        learner, EStepStates.clean(rows.obs), config, TERMS._replace(dual_rate=1.0)
    )
    module = RobustMStep(learner, config, TERMS)
    for iteration in range(5):
        learner.policy_optimizer.zero_grad()
        module.training_step(targets, iteration).backward()
        learner.policy_optimizer.step()
    return learner, targets, config


def test_a_policy_does_not_depend_on_the_unit_of_its_reward() -> None:
    (small, targets, config), (large, others, _) = learned(1.0), learned(UNIT)
    assert small.dual is not None
    assert large.dual is not None
    assert float(small.dual.lam) > 0.01
    for name in ("eta", "lam"):
        ratio = float(getattr(large.dual, name)) / float(getattr(small.dual, name))
        assert ratio == pytest.approx(UNIT, rel=1e-4), name
    assert lam_unit(large.critics, config) == pytest.approx(UNIT * lam_unit(small.critics, config))
    torch.testing.assert_close(targets.weights, others.weights, rtol=1e-3, atol=1e-5)
    for one, other in itertools.zip_longest(small.policy.parameters(), large.policy.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_value_stays_what_it_is_in_another_unit() -> None:
    critics = Critics(8, 2, hidden=(16,))
    draw = torch.Generator().manual_seed(0)
    obs, actions = torch.randn(20, 8, generator=draw), torch.rand(20, 2, generator=draw)
    before, costs = critics.q_both(obs, actions)
    for scale in (7.5, 0.02, 1.0):
        critics.rescale_rewards(scale)
        torch.testing.assert_close(critics.q_reward(obs, actions), before)
        torch.testing.assert_close(critics.q_both(obs, actions)[0], before)
        assert torch.equal(critics.q_cost(obs, actions), costs)
        torch.testing.assert_close(critics(obs, actions)[:2].amin(0), before / scale)


def test_a_unit_is_stored_and_is_part_of_the_identity(tmp_path: Any) -> None:
    critics = Critics(8, 2, hidden=(16,))
    raw = module_digest(critics)
    assert "reward_scale" not in critics.architecture
    critics.set_reward_scale(2.0)
    assert module_digest(critics) != raw
    save_critics(tmp_path, critics, {})
    again, _ = load_critics(tmp_path)
    assert again.reward_scale == 2.0
    assert module_digest(again) == module_digest(critics)


def test_rewards_of_nothing_have_the_unit_one() -> None:
    config = configure(critics={"scale_rewards": True})
    learner = new_learner(config, CPU)
    measure(learner, data(0.0), config)
    assert learner.critics.reward_scale == 1.0


def test_a_measured_limit_falls_from_what_the_first_data_cost() -> None:
    config = configure(estep={"limit_start": "measured", "limit_ramp": 0.5}, train={"env_steps": 20_000})
    learner, first = new_learner(config, CPU), data(1.0)
    measure(learner, first, config)
    cost = float(first.costs.mean()) * config.task_row.horizon
    assert learner.first_cost == pytest.approx(cost)
    assert learner.first_cost > config.task_row.cost_limit
    # later data change nothing
    measure(learner, first._replace(costs=2 * first.costs), config)
    assert learner.first_cost == pytest.approx(cost)
    fixed = configure(
        estep={"limit_start": learner.first_cost, "limit_ramp": 0.5}, train={"env_steps": 20_000}
    )
    for refresh in (0, 1, 3, config.refreshes, None):
        assert scheduled(config, refresh, learner.first_cost) == scheduled(fixed, refresh)
    # first data within the limit, or none, leave the task's own in force from the start
    for cost in (1.0, None):
        assert scheduled(config, 0, cost).kappa == scheduled(configure(), 0).kappa
