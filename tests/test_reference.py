"""What doing nothing earns, which a policy has to be told from, and the radius that is judged."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harden.attacks import Strength
from harden.config.pipeline import make_config
from harden.config.tasks import TASKS, Task
from harden.data.dataset import open_dataset
from harden.envs.vector import VectorEnv
from harden.evaluation.entries import Trial
from harden.evaluation.reference import does_nothing, fresh_policies
from harden.evaluation.threat import data_spread, share, threat
from harden.evaluation.trials import Victim, evaluate_policy
from harden.evaluation.verdict import verdict
from harden.nets import GaussianPolicy
from harden.nets.saved import load_policy
from harden.policies.foreign import ForeignPolicy, OpaquePolicy
from harden.stages.attackers import fit_config
from support.commands import harden

ROOT = Path(__file__).parents[1]
BALL = TASKS["ball-circle"]


def tried(policy: GaussianPolicy, task: Task = BALL, action: str = "mean") -> dict[str, Any]:
    """Return the reference of an evaluation without attacks."""
    trial = Trial(4, task.epsilon, Strength(1, 1), action, 0)
    return evaluate_policy(
        Victim(policy, None), task, [], [trial], simulate=partial(VectorEnv, task, workers=0)
    ).reference


def acting(function: Any, task: Task = BALL) -> OpaquePolicy:
    """Return a function as somebody else's policy."""
    source = ForeignPolicy("callable", lambda obs: (function(obs), None))
    return OpaquePolicy(source, task.obs_dim, *map(torch.tensor, task.bounds))


def jitter(obs: Tensor) -> Tensor:
    """Tremble on the spot."""
    return 1e-3 * torch.sin(1e3 * obs[:, :2])


@pytest.mark.parametrize("task", [BALL, TASKS["ant-run"]], ids=["ball", "ant, which is paid for standing"])
@pytest.mark.parametrize("action", ["mean", "sample"])
def test_an_untrained_policy_does_nothing(task: Task, action: str) -> None:
    like = GaussianPolicy(task.obs_dim, task.act_dim)
    (policy,) = fresh_policies(like, task, 1, seed=77)
    assert does_nothing(tried(policy, task, action))


@pytest.mark.parametrize(
    "function",
    [lambda obs: torch.zeros(len(obs), 2), jitter],
    ids=["stands", "trembles"],
)
def test_a_policy_that_stands_still_does_nothing(function: Any) -> None:
    (warning,) = does_nothing(tried(acting(function)))
    assert warning["check"] == "does-nothing"


def test_a_policy_that_runs_the_wrong_way_earns_less_than_standing_still() -> None:
    released = load_policy(ROOT / "checkpoints/released/ball-circle/cvpo").policy
    # it circles the other way round, for which the task takes reward away
    found = tried(acting(lambda obs: released.mean(obs * mirror()) * torch.tensor([1.0, -1.0])))
    assert found["reward"] < found["standing_still"]["level"] - 10
    assert does_nothing(found)


def mirror() -> Tensor:
    """Return the signs of the ball's observation seen in a mirror along x."""
    return torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 1.0])


@pytest.mark.parametrize("task", ["ball-circle", "ant-run"])
def test_a_trained_policy_does_something(task: str) -> None:
    policy = load_policy(ROOT / f"checkpoints/released/{task}/safer").policy
    found = tried(policy, TASKS[task])
    assert does_nothing(found) == []
    assert found["reward"] > 2 * found["standing_still"]["level"]


def test_standing_still_is_inside_the_bounds() -> None:
    from harden.evaluation.reference import _actors

    task = BALL._replace(action_low=(0.5, -1.0), action_high=(1.0, 3.0))
    still = _actors(acting(jitter, task), task, "mean", 1, 0)["standing_still"]
    assert still(torch.zeros(1, 8), torch.zeros(1)).tolist() == [[0.75, 0.0]]


def test_evaluate_says_it_and_its_verdict_is_not_green(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("idle.py").write_text("import numpy as np\n\ndef act(obs):\n    return np.zeros((len(obs), 2))\n")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--policy", "idle:act", "--attack", "random", "--episodes", "20", "--json", "a.json"]
    out = harden("evaluate", *words, "--html", "a.html", "--set", "collect.workers=0").output
    assert "does-nothing" in out
    found = json.loads(Path("a.json").read_text())
    assert found["reference"]["episodes"] == 10
    assert found["reference"]["standing_still"]["does_nothing"] is True
    assert verdict(found)["status"] == "close"
    page = Path("a.html").read_text()
    assert 'class="within"' not in page
    assert "does-nothing" in page


def test_the_verdict_is_on_the_tasks_radius_however_training_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = ["--policy", str(ROOT / "checkpoints/released/ball-circle/safer-long")]
    words = ["-p", str(ROOT / "pipelines/quickstart.toml"), *policy, "--attack", "random,mc", "--curves"]
    few = ["--episodes", "2", "--attack-steps", "1", "--restarts", "1", "--set", "collect.workers=0"]
    harden("evaluate", *words, *few, "--json", "a.json")
    found = json.loads(Path("a.json").read_text())
    assert found["threat_model"]["epsilon"] == 0.05
    assert max(one["epsilon"] for one in found["results"]) == pytest.approx(0.15)
    assert {shown["epsilon"] for shown in found["trajectories"]["episodes"]} == {0.05}
    assert not any("nothing was tried" in lack for lack in verdict(found)["lacks"])


def test_what_is_fitted_to_attack_a_policy_does_not_depend_on_its_trainings_margin() -> None:
    config = make_config({"task": "ball-circle", "adversary": {"epsilon": 0.2}})
    loaded = load_policy(ROOT / "checkpoints/released/ball-circle/safer-long")
    assert fit_config(config, loaded, "independent").train_epsilon == 0.05


def test_a_constant_sensor_has_no_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounding is no spread: in the data, over the visited states, and in files from before."""
    assert share(0.05, 0.0) is share(0.05, 5.6e-17) is None
    assert share(0.05, 0.01) == pytest.approx(5.0)
    monkeypatch.chdir(tmp_path)
    harden("collect", "--episodes", "2", "--behaviour", "random", "--set", "collect.workers=0")
    dataset = open_dataset(Path("datasets/ball-circle"), BALL)

    class Constant:
        info, path = dataset.info, dataset.path

        def __len__(self) -> int:
            return len(dataset)

        def shards(self) -> Any:
            for place, rows in dataset.shards():
                obs = rows.obs.clone()
                obs[:, 0], obs[:, 1] = 0.1, 12345.678
                yield place, rows._replace(obs=obs)

    assert data_spread(Constant())["observation_std"][:2] == [0.0, 0.0]
    evaluation = json.loads(
        (ROOT / "checkpoints/released/ball-circle/safer-long/evaluation.json").read_text()
    )
    model = evaluation["threat_model"]
    spreads = [5.6e-17, *model["observation_std"][1:]]
    model["data"] = {"path": "logs", "digest": "0" * 64, "transitions": 100, "observation_std": spreads}
    told = threat(evaluation)
    assert told is not None
    assert told["rows"][0]["share"] is None
    assert told["rows"][1]["share"] > 0


def test_status_says_that_the_evaluated_policy_does_nothing(folder: Path) -> None:
    released = ROOT / "checkpoints/released/ball-circle/safer-long"
    shutil.copytree(released, "checkpoints/ball-circle/policy")
    evaluation = json.loads((released / "evaluation.json").read_text())
    path = Path("checkpoints/ball-circle/evaluation.json")
    path.write_text(json.dumps(evaluation))
    assert "does-nothing" not in harden("status").output
    idle = {"check": "does-nothing", "attack": "natural", "epsilon": None, "message": "it stands still"}
    path.write_text(json.dumps(evaluation | {"warnings": [idle]}))
    assert "does-nothing: it stands still" in harden("status").output
