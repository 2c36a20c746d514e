"""The rule of the cost: what it comes to, and what is no rule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harden.config.pipeline import make_config
from harden.config.rule import cost_of, parse_rule
from harden.data.dataset import DatasetWriter, open_dataset
from harden.errors import InputError
from harden.models.world import WorldModel
from harden.training.logged import read_logs
from support.transitions import HOW, make

SIZES = {"obs": 2, "action": 1}
OBS = torch.tensor([[0.5, -1.0], [0.7, 2.0], [-0.7, 0.0], [float("nan"), 1.0]])
ACTIONS = torch.tensor([[0.1], [-0.2], [0.0], [1.0]])


@pytest.mark.parametrize(
    ("text", "costs"),
    [
        ("abs(obs[0]) > 0.6", [0, 1, 1, 0]),
        ("abs(obs[0]) > 0.6 and obs[1] >= 1", [0, 1, 0, 0]),
        ("obs[0] > 0.6 or not action[0] <= 0", [1, 1, 0, 1]),
        ("-1 < obs[1] < 1.5", [0, 0, 1, 1]),
        ("max(0, obs[1] - 1) / 2", [0, 0.5, 0, 0]),
        ("min(obs[1], 2 * action[0], 1)", [0, 0, 0, 1]),
        ("sqrt(obs[0] ** 2 + obs[1] ** 2) > 2", [0, 1, 0, 0]),
        ("100", [1, 1, 1, 1]),
    ],
)
def test_what_steps_cost(text: str, costs: list[float]) -> None:
    found = cost_of(parse_rule(text, SIZES), OBS, ACTIONS, 1.0)
    torch.testing.assert_close(found, torch.tensor(costs, dtype=torch.float32))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "obs",
        "obs[2] > 0",
        "obs[-1] > 0",
        "action[1]",
        "speed > 1",
        "__import__('os').system('true')",
        "obs[0].__class__",
        "abs(obs[0], 1)",
        "abs()",
        "max(*obs)",
        "[o for o in obs]",
        "(lambda: 1)()",
        "obs[0] if 1 else 2",
        "'a' > 'b'",
        "obs[0] is 1",
        "True",
        "(" * 1000,
        "1 + " * 1000 + "1",
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        parse_rule(text, SIZES)
    own = {"name": "arm", "horizon": 2, "cost_limit": 1, "epsilon": 0.1, "obs_dim": 2, "act_dim": 1}
    if text:
        with pytest.raises(InputError, match="cost"):
            make_config({"task": own | {"cost": text}})


def test_logs_and_the_model_of_them_cost_what_the_rule_says(tmp_path: Path) -> None:
    own = {"name": "arm", "horizon": 2, "cost_limit": 1, "epsilon": 0.1, "obs_dim": 8, "act_dim": 2}
    config = make_config({"task": own | {"cost": "obs[0] > obs[1]"}})
    rows = make([2, 2])
    with DatasetWriter(tmp_path / "logs", config.task_row) as writer:
        writer.append(rows._replace(costs=torch.zeros(4)), **HOW)
    read = read_logs(config, open_dataset(tmp_path / "logs"))
    expected = (rows.next_obs[:, 0] > rows.next_obs[:, 1]).float()
    torch.testing.assert_close(read.costs, expected)
    world = WorldModel(8, 2, 1.0, 3, (4,), rule="obs[0] > obs[1]")
    outcome = world(rows.obs, rows.actions)
    torch.testing.assert_close(outcome.costs, (outcome.next_obs[..., 0] > outcome.next_obs[..., 1]).float())
    assert WorldModel(**{k: v for k, v in world.architecture.items() if k != "kind"}).rule is not None
