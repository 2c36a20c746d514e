"""Fitted Q evaluation of logs, against returns that are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harden.config.pipeline import PipelineConfig, make_config
from harden.evaluation.fitted_q import second_opinion
from harden.evaluation.verdict import imagined
from harden.policies.foreign import ForeignPolicy, OpaquePolicy
from harden.progress import QUIET
from harden.types import Transitions

LIMIT = 10


def config_of(horizon: int, steps: int = 1500) -> PipelineConfig:
    """Return a pipeline for the chain."""
    task = {"name": "chain", "horizon": horizon, "cost_limit": 5, "epsilon": 0.1, "obs_dim": 1, "act_dim": 1}
    sizes = {"critic_hidden": [32, 32], "policy_hidden": [4]}
    return make_config({"task": task, "networks": sizes, "evaluate": {"independent_steps": steps}})


def forward() -> OpaquePolicy:
    """Return somebody else's policy, which always goes forward."""
    foreign = ForeignPolicy("callable", lambda obs: (torch.full((len(obs), 1), 0.25), None))
    return OpaquePolicy(foreign, 1, -torch.ones(1), torch.ones(1))


def walks(episodes: int) -> Transitions:
    """Return random walks on 0, 0.25, 0.5, 0.75: the fourth step forward from 0 ends them, or the time limit.

    A step earns 1, and costs 0.5 where it goes forward.
    """
    draw, rows = torch.Generator().manual_seed(0), list[tuple[Any, ...]]()
    for _ in range(episodes):
        x = 0.0
        for step in range(LIMIT):
            action = 0.25 if torch.rand((), generator=draw) < 0.5 else -0.25
            after = max(0.0, x + action)
            over = after >= 1.0
            cost = 0.5 * (action > 0)
            rows.append(([x], [action], 1.0, cost, [after], over, not over and step == LIMIT - 1))
            x = after
            if over:
                break
    columns = list(zip(*rows, strict=True))
    return Transitions(*(torch.tensor(c) for c in columns[:5]), *(torch.tensor(c) for c in columns[5:]))


@pytest.mark.parametrize(("horizon", "steps"), [(LIMIT, 4), (3, 3)])
def test_it_is_the_return_of_the_chain(horizon: int, steps: int) -> None:
    rows = walks(200)
    logged = len(rows.rewards) / float((rows.terminals | rows.timeouts).sum())
    assert logged > 8, "what the policy earns is nowhere in the logs' own returns"
    found = second_opinion(config_of(horizon), forward(), rows, QUIET)
    for name, each in (("reward", 1.0), ("cost", 0.5)):
        assert found[name]["mean"] == pytest.approx(each * steps, abs=0.2)
        low, high = found[name]["ci95"]
        assert low <= found[name]["mean"] <= high
        # all starts are one state: what is left is what the members differ by
        assert high - low < 0.5


def test_equal_seeds_give_equal_bits_and_global_draws_do_not_matter() -> None:
    config, rows = config_of(LIMIT, 20), walks(5)
    found = second_opinion(config, forward(), rows, QUIET)
    torch.rand(3)
    assert second_opinion(config, forward(), rows, QUIET) == found
    drawn = config.evaluate.model_copy(update={"action": "sample"})
    for change in ({"seed": 1}, {"evaluate": drawn}):
        assert second_opinion(config.model_copy(update=change), forward(), rows, QUIET) != found


@pytest.mark.parametrize(
    ("reward", "cost", "disputed"),
    [
        ((100.0, 90.0, 110.0), (2.0, 1.0, 3.0), 0),
        # far, and the intervals meet; apart, and not by much
        ((150.0, 104.0, 190.0), (2.5, 2.2, 3.0), 0),
        ((150.0, 120.0, 190.0), (2.0, 1.0, 3.0), 1),
        ((150.0, 120.0, 190.0), (9.0, 6.0, 12.0), 2),
        ((40.0, 30.0, 60.0), (0.5, 0.4, 0.6), 2),
    ],
)
def test_far_apart_opinions_are_told(
    reward: tuple[float, ...], cost: tuple[float, ...], disputed: int
) -> None:
    def figures(values: tuple[float, ...]) -> dict[str, Any]:
        return {"mean": values[0], "ci95": list(values[1:])}

    natural = {"reward": figures((100.0, 95.0, 105.0)), "cost": figures((2.0, 1.5, 2.1))}
    world = {"error": 0.0, "cost": 0.02, "cost_seen": 0.02, "logged": {"reward": 90.0, "cost": 2.0}}
    world["fitted_q"] = {"reward": figures(reward), "cost": figures(cost)}
    evaluation = {"horizon": 100, "cost_limit": 5.0, "results": [natural], "world_model": world}
    assert len(imagined(evaluation)) == 1 + disputed
