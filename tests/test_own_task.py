"""Tasks of the user's own: any Gymnasium environment with costs, or none at all, from a TOML file."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from harden.attacks import ATTACKS, Strength, attack_stream, perturb
from harden.config.file import load_config
from harden.config.pipeline import make_config
from harden.config.tasks import Task
from harden.data.dataset import open_dataset
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.nets.saved import LoadedPolicy, load_policy
from support.commands import SMALL, harden, refused, stages

OWN = """
[task]
name = "point"
env = "support.point_mass:PointMass-v0"
horizon = 20
cost_limit = 2
epsilon = [0.1, 0.3]
obs_dim = 2
act_dim = 1
action_low = [-2.0]
action_high = [2.0]
"""
# a run of three refreshes of an episode or two
SETTINGS = [
    word
    for key, value in (SMALL | {"train.env_steps": "120", "estep.limit_start": "5.0"}).items()
    for word in ("--set", f"{key}={value}")
]
POINT = ["-p", "point.toml", *SETTINGS, "--quiet"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the pipeline of a task of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "point.toml").write_text(OWN)
    no_simulation = OWN.replace('env = "support.point_mass:PointMass-v0"\n', "")
    (tmp_path / "logs.toml").write_text(no_simulation)
    return tmp_path


def test_a_task_of_ones_own_goes_through_the_whole_pipeline(folder: Path) -> None:
    harden("collect", *POINT, "--episodes", "3", "--behaviour", "random")
    data = open_dataset(Path("datasets/point"))
    assert (data.info.env_id, data.info.transitions) == ("PointMass-v0", 60)
    actions = data.recent(60).actions
    assert 1 < actions.abs().max() <= 2
    harden("fit-critics", *POINT, "--steps", "2")
    harden("e-step", *POINT, "--states", "24")
    harden("fit-policy", *POINT, "--steps", "2")
    attack = ["--attack", "random,mc", "--attack-steps", "2", "--restarts", "1", "--episodes", "2"]
    harden("evaluate", *POINT, *attack, "--json", "found.json")
    found = json.loads(Path("found.json").read_text())
    assert (found["task"], found["cost_limit"]) == ("point", 2)
    assert found["threat_model"]["epsilon_unit"] == [0.1, 0.3]
    harden("train", *POINT, "--overwrite")
    assert load_policy("checkpoints/point/policy").policy.architecture["high"] == [2.0]
    found = stages(harden("status", "-p", "point.toml", *SETTINGS).output)
    assert {state for stage, state in found.items() if stage != "evaluate"} == {"done"}


def test_the_data_do_not_depend_on_where_they_are_simulated(folder: Path) -> None:
    for name, workers in (("here", "0"), ("elsewhere", "2")):
        words = ["--episodes", "3", "--out", name, "--set", f"collect.workers={workers}"]
        harden("collect", *POINT, *words)
    assert open_dataset(Path("here")).info.digest == open_dataset(Path("elsewhere")).info.digest


def test_epsilon_is_a_number_a_vector_or_a_share_of_each_deviation() -> None:
    sizes = {"name": "mine", "horizon": 10, "cost_limit": 1, "obs_dim": 2, "act_dim": 1}
    one = make_config({"task": sizes | {"epsilon": 0.2}})
    assert one.task_row.radius(one.train_epsilon) == 0.2
    vector = make_config({"task": sizes | {"epsilon": [0.1, 0.3]}})
    assert vector.task_row.radius(vector.train_epsilon) == pytest.approx((0.1, 0.3))
    share = make_config({"task": sizes | {"epsilon": 0.5, "observation_std": [2.0, 0.1]}})
    assert share.task_row.radius(share.train_epsilon) == pytest.approx((1.0, 0.05))
    # half of the way through a schedule it is half of each
    assert share.task_row.radius(0.25) == pytest.approx((0.5, 0.025))


def test_what_is_fitted_for_one_radius_is_not_taken_for_another(folder: Path) -> None:
    from harden.method.learner import new_learner
    from harden.stages.attackers import key_of

    wide = load_config(Path("point.toml"))
    Path("narrow.toml").write_text(OWN.replace("[0.1, 0.3]", "[0.001, 0.003]"))
    narrow = load_config(Path("narrow.toml"))
    learner = new_learner(wide, torch.device("cpu"))
    loaded = LoadedPolicy(learner.policy, learner.critics, {})
    assert wide.train_epsilon == narrow.train_epsilon, "both are shares of what the vectors say"
    assert key_of(wide, loaded) == key_of(wide, loaded) != key_of(narrow, loaded)


@pytest.mark.parametrize("attack", ["random", "mc", "black-box"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_stay_inside_each_coordinates_radius(folder: Path, attack: str, norm: str) -> None:
    from harden.method.learner import new_learner

    config = load_config(Path("point.toml"))
    learner = new_learner(config, torch.device("cpu"))
    obs = torch.randn(50, 2)
    strength = Strength(steps=3, restarts=1, norm=norm, queries=10)  # type: ignore[arg-type]
    radius = config.task_row.radius(config.eval_epsilon)
    draw = attack_stream("cpu", 0, attack)
    moved = perturb(ATTACKS[attack], learner.policy, learner.critics, obs, radius, strength, draw) - obs
    share = moved.abs() / torch.tensor(radius)
    assert share.max() <= 1 + 1e-5
    if norm == "l2":
        assert share.norm(dim=1).max() <= 1 + 1e-5
    # the wider coordinate is used as such
    assert moved[:, 1].abs().max() > 0.1


def test_without_an_environment_all_but_simulation_works(folder: Path) -> None:
    harden("collect", *POINT, "--episodes", "6")
    logs = ["-p", "logs.toml", *SETTINGS]
    data = ["--data", "datasets/point"]
    for words in (["collect"], ["train"], ["evaluate", "--policy", "nowhere"]):
        said = refused(*words, *logs)
        assert "has no environment" in said
        assert "train --offline" in said
    assert not Path("datasets/logs").exists()
    harden("fit-critics", *logs, *data, "--steps", "2", "--quiet")
    harden("e-step", *logs, *data, "--states", "20", "--quiet")
    harden("fit-policy", *logs, "--steps", "2", "--quiet")
    harden("fit-policy", "--clone", *logs, *data, "--steps", "20", "--out", "cloned", "--quiet")
    short = ["--set", "offline.refreshes=2", "--set", "imitation.steps=20"]
    # what is learned in seconds is safe for nobody
    short += ["--set", "cost_limit=1000", "--set", 'estep.limit_start="limit"']
    for key in ("world.hidden=[64]", "world.batch=256", "offline.world_steps=600", "offline.calibrated=1e6"):
        short += ["--set", key]
    harden("train", "--offline", *logs, *data, *short, "--overwrite", "--quiet")
    harden("policy", "export", "checkpoints/logs/policy", "--to", "safetensors", "--out", "out.safetensors")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("obs_dim = 2", "obs_dim = 3\n", "epsilon has 2 numbers for 3 coordinates"),
        ('name = "point"', 'name = "ball-circle"', "task.name = 'ball-circle'"),
        ('name = "point"', 'name = "../point"', "task.name = '../point'"),
        ("cost_limit = 2", "", "task.cost_limit"),
        ("horizon = 20", "horizon = 20\nsteps = 3", "task.steps = 3: Extra inputs are not permitted"),
        ("action_low = [-2.0]", "action_low = [2.0]", "action_low < action_high"),
        ("epsilon = [0.1, 0.3]", "epsilon = [0.1, -0.3]", "task.epsilon"),
    ],
)
def test_a_task_that_is_none_is_refused(folder: Path, old: str, new: str, said: str) -> None:
    Path("point.toml").write_text(OWN.replace(old, new))
    with pytest.raises(InputError) as found:
        load_config(Path("point.toml"))
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("PointMass-v0", "PointMess-v0", "there is no environment PointMess-v0"),
        ("support.point_mass", "no_such_module", "'no_such_module' can't be imported"),
        ("[-2.0]", "[-1.0]", "task.action_low"),
        ("PointMass-v0", "PointMassFree-v0", "gives no info['cost']"),
        ("act_dim = 1", "act_dim = 2", "task.obs_dim"),
        ("PointMass-v0", "PointMassByKey-v0", "Discrete, not Box and Box"),
    ],
)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_environment_that_does_not_fit_is_refused(
    folder: Path, old: str, new: str, said: str, workers: str
) -> None:
    text = OWN.replace(old, new)
    if old == "act_dim = 1":
        text = text.replace("[-2.0]", "[-2.0, -2.0]").replace("[2.0]", "[2.0, 2.0]")
    Path("point.toml").write_text(text)
    result = harden("collect", *POINT, "--set", f"collect.workers={workers}", code=2)
    assert said in result.output


class Strange(gymnasium.Env[Any, Any]):
    """A point at rest, that gives what it is told to."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, start: Any, step: Any, limit: float) -> None:
        self.start, self.given = start, step
        self.action_space = gymnasium.spaces.Box(-limit, limit, (1,), np.float32)

    def reset(self, **_: Any) -> Any:
        """Return what is to be returned."""
        return self.start

    def step(self, action: Any) -> Any:
        """Return what is to be returned."""
        return self.given


REST, FREE = np.zeros(2, np.float32), {"cost": 0.0}
STEP = (REST, 0.0, False, False, FREE)


def played(task: Task) -> None:
    """Begin an episode and take one step."""
    with VectorEnv(task, 1, 0) as envs:
        envs.reset(np.zeros(1, int), np.zeros(1, int))
        envs.step(np.zeros(1, int), np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("steps", [None, 20], ids=["bare", "limited"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": (REST, 0.0, False, FREE)}, "terminated, truncated, info"),
        ({"step": REST}, "terminated, truncated, info"),
        ({"start": REST}, "(obs, info)"),
        ({"step": (REST, 0.0, False, False, {"cost": np.zeros(3)})}, "cost"),
        ({"step": (REST, 0.0, False, False, {"cost": "high"})}, "cost"),
        ({"step": (REST, 0.0, False, False, None)}, "info['cost']"),
        ({"step": (REST, None, False, False, FREE)}, "reward"),
        ({"step": (np.zeros(3), 0.0, False, False, FREE)}, "(3,)"),
        ({"step": ({"obs": REST}, 0.0, False, False, FREE)}, "observes"),
        ({"start": (np.zeros((1, 2)), {})}, "(1, 2)"),
    ],
)
def test_an_environment_of_another_interface_is_refused_in_a_line(
    change: dict[str, Any], said: str, steps: int | None
) -> None:
    options = {"start": (REST, {}), "step": STEP, "limit": 2.0} | change
    name = f"Strange{abs(hash((said, steps)))}-v0"
    gymnasium.register(name, lambda: Strange(**options), max_episode_steps=steps)
    task = make_config({"task": tomllib.loads(OWN)["task"] | {"env": name}}).task_row
    with pytest.raises(InputError, match=re.escape(said)) as found:
        played(task)
    assert found.value.remedy
    assert "unpack" not in str(found.value)


def test_an_environment_that_is_not_there_costs_no_earlier_run(folder: Path) -> None:
    harden("train", *POINT)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    wrong = ["--set", "task.env=PointMess-v0", "--overwrite"]
    assert "there is no environment PointMess-v0" in refused("train", *POINT, *wrong)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_step_that_costs_more_than_the_task_allows_is_refused(folder: Path, workers: str) -> None:
    Path("point.toml").write_text(OWN + "max_step_cost = 0.5\n")
    # a point that starts 0.5 from the edge is over it within 20 steps of full force
    options = ["--episodes", "1", "--behaviour", "random", "--set", f"collect.workers={workers}"]
    words = ["--set", "task.horizon=2000"]
    result = harden("collect", *POINT, *options, *words, code=2)
    assert "a step of PointMass-v0 costs 1, which is not in 0 to 0.5" in result.output
    assert "task.max_step_cost" in result.output


def test_the_paper_has_no_settings_for_it(folder: Path) -> None:
    assert "own" in refused("train", "-p", "point.toml", "--set", "preset=paper")


def test_where_episodes_end_early_a_refresh_has_more_of_them(folder: Path) -> None:
    Path("point.toml").write_text(OWN.replace("PointMass-v0", "PointMassBrief-v0"))
    sizes = {"train.episodes": 2, "train.warm_up_episodes": 3, "train.env_steps": 140}
    harden("train", *POINT, *(w for key, value in sizes.items() for w in ("--set", f"{key}={value}")))
    shards = open_dataset(Path("datasets/point")).info.shards
    # 3 episodes of 20 steps have room for 3 + 2 + 1 + 1 of 6, as long as another one of 20 would fit
    assert [shard.transitions for shard in shards] == [42, 24, 24]
    harden(
        "train", *POINT, "--resume", *(w for key, value in sizes.items() for w in ("--set", f"{key}={value}"))
    )
