"""Simulators of the user's own: their interfaces, in this Python and in another one, and how they fail."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harden.config.file import load_config
from harden.config.pipeline import make_config
from harden.config.sections import OwnTask
from harden.data.dataset import open_dataset
from harden.envs.ask import completed
from harden.envs.vector import VectorEnv
from harden.errors import HardenError, InputError
from support.commands import harden, refused

HERE = Path(__file__).parent
TASK = {"horizon": 20, "cost_limit": 2, "epsilon": 0.1}


@pytest.fixture(autouse=True)
def _folder(folder: Path) -> None:
    """An empty working folder in which the simulators lie, as a user's do."""
    (folder / "mine.py").write_text((HERE / "support/simulators.py").read_text())


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another Python that has NumPy: of another version where there is one, else of this one, and bare."""
    for python in sorted(Path.home().glob(".pyenv/versions/*/bin/python")):
        found = subprocess.run(
            [python, "-c", "import sys, numpy; print(sys.version_info >= (3, 8))"], capture_output=True
        )
        if found.stdout.strip() == b"True" and not str(python.resolve()).startswith(sys.base_prefix):
            return str(python)
    made = tmp_path_factory.mktemp("python")
    venv.create(made, with_pip=False, symlinks=True)
    (site,) = made.glob("lib/python*/site-packages")
    for part in Path(np.__file__).parents[1].glob("numpy*"):
        (site / part.name).symlink_to(part)
    return str(made / "bin/python")


def own(env: str, **keys: Any) -> Any:
    """Return the task's row, with what the environment says of itself."""
    return completed(make_config({"task": TASK | {"env": f"mine:{env}"} | keys})).task_row


def played(task: Any, workers: int = 1, steps: int = 5) -> list[np.ndarray]:
    """Play the beginnings of two episodes side by side; returns all that was seen."""
    slots = np.arange(2)
    with VectorEnv(task, 2, workers) as envs:
        seen = [envs.reset(slots, slots + 7)]
        for number in range(steps):
            step = envs.step(slots, np.full((2, task.act_dim), number / 5 - 0.1, np.float32))
            seen += [np.c_[step.obs, step.rewards, step.costs]]
    return seen


@pytest.mark.parametrize("python", ["this", "other"])
def test_a_simulator_says_what_it_is_and_is_the_same_in_each_python(python: str, other_python: str) -> None:
    named = {} if python == "this" else {"python": other_python}
    task = own("Point", cost_key="speeding", **named)
    assert (task.obs_dim, task.act_dim, task.bounds) == (2, 1, ((-2.0,), (2.0,)))
    seen, here = played(task), played(own("Six"))
    assert all(np.array_equal(a, b) for a, b in zip(seen, here, strict=True)), (
        "five values or six, here or there"
    )
    assert seen[-1][:, -1].sum() > 0, "something costs"


def test_the_other_python_is_another_one(other_python: str) -> None:
    prefix = subprocess.run(
        [other_python, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True, check=True
    ).stdout
    assert prefix.strip() != sys.prefix


def test_parts_of_an_observation_are_put_together_by_name() -> None:
    with pytest.raises(InputError, match=r"task\.obs_keys") as found:
        own("Parts")
    assert "speed: Space(1,) float32 from -2 to 2" in str(found.value), "the ranges are shown"
    with pytest.raises(InputError, match="heigth"):
        own("Parts", obs_keys=["place", "heigth"])
    turned = own("Parts", obs_keys=["speed", "place"])
    assert turned.obs_dim == 2
    for a, b in zip(played(turned), played(own("made")), strict=True):
        assert np.array_equal(a[:, [1, 0]], b[:, :2])


def test_actions_without_limits_take_the_tasks() -> None:
    with pytest.raises(InputError, match=r"-inf.*no limits.*task\.action_low"):
        own("Free")
    task = own("Free", action_low=[-2.0], action_high=[2.0])
    assert all(np.array_equal(a, b) for a, b in zip(played(task), played(own("Six")), strict=True))


def test_what_the_file_says_is_held_against_the_simulator() -> None:
    with pytest.raises(InputError, match=r"task\.obs_dim"):
        played(own("Six", obs_dim=3))
    with pytest.raises(InputError, match=r"no info\['cost'\].*speeding"):
        played(own("Point"))
    with pytest.raises(InputError, match="there is no environment Sixx"):
        own("Sixx")
    with pytest.raises(InputError, match="'nobody' can't be imported"):
        completed(make_config({"task": TASK | {"env": "nobody:Six"}}))
    without = {name: value for name, value in TASK.items() if name != "horizon"} | {"env": "mine:Six"}
    with pytest.raises(InputError, match=r"task\.horizon"):
        completed(make_config({"task": without}))


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("Hangs", "no answer within 3 s"),
        ("Crashes", r"ended .*exit status 7"),
        ("Fails", "the simulation failed .*connection is lost in a second line"),
        ("Leaves", "the simulation failed .*SystemExit"),
        ("Dies", "ended by itself .*-6"),
    ],
)
def test_a_simulator_that_fails_is_one_line(env: str, said: str) -> None:
    sizes = {"obs_dim": 2, "act_dim": 1, "action_low": [-2.0], "action_high": [2.0]}
    keys = {"timeout": 3.0} if env == "Hangs" else {}
    task = make_config({"task": TASK | {"env": f"mine:{env}"} | sizes | keys}).task_row
    with pytest.raises(InputError, match=said) as found:
        played(task)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("python", "said"), [("nowhere/python", "can't be started"), ("/bin/true", r"exit status 0.*3\.8")]
)
def test_what_is_no_python_is_refused(python: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        own("Six", python=python)


def test_a_worker_of_another_protocol_is_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harden.envs.worker.PROTOCOL", 99)
    with pytest.raises(HardenError, match="protocol 1"):
        own("Six")


def test_a_task_has_its_files_name_and_the_run_says_what_the_simulator_said() -> None:
    Path("point.toml").write_text('task = { env = "mine:Six", horizon = 20, cost_limit = 2, epsilon = 0.1 }')
    words = ["-p", "point.toml", "--quiet", "--set", "collect.workers=1"]
    harden("collect", *words, "--behaviour", "random", "--episodes", "2")
    info = open_dataset(Path("datasets/point")).info
    assert (info.env_id, info.horizon, info.obs_dim, info.act_dim) == ("Six", 20, 2, 1)
    task = completed(load_config(Path("point.toml"))).task
    assert isinstance(task, OwnTask)
    assert (task.name, task.action_high) == ("point", (2.0,))


def test_a_film_shows_the_clean_episode_beside_the_attacked_one() -> None:
    Path("point.toml").write_text('task = { env = "mine:Seen", horizon = 20, cost_limit = 2, epsilon = 0.1 }')
    Path("acts.py").write_text("def act(obs):\n    return 1 - 20 * obs[:, 1:]\n")
    words = ["-p", "point.toml", "--policy", "acts:act", "--quiet", "--width", "80", "--every", "5"]
    assert "filmed 20 steps in 4 frames" in harden("render", *words, "--attack", "random").output
    with Image.open("episode.gif") as film:
        assert (film.n_frames, film.size) == (4, (160, 40))
    harden("render", *words)
    with Image.open("episode.gif") as film:
        assert film.size == (80, 40)
    before = os.stat("episode.gif").st_mtime_ns
    assert "rgb_array" in refused("render", *words, "--set", "task.env=mine:Six")
    assert os.stat("episode.gif").st_mtime_ns == before


def test_a_task_of_the_package_that_harden_has_no_row_for_needs_a_limit_and_a_radius_alone() -> None:
    table = {"env": "bullet_safety_gym:SafetyBallRun-v0", "cost_limit": 5, "epsilon": 0.05}
    task = completed(make_config({"task": table})).task_row
    assert (task.horizon, task.obs_dim, task.act_dim) == (100, 7, 2)


def test_init_asks_the_simulator_and_marks_what_it_does_not_know(other_python: str) -> None:
    words = ["init", "--env", "mine:Six", "--python", other_python]
    said = harden(*words).output
    assert "observes 2 numbers" in said
    assert said.splitlines()[-1].endswith("cost_limit, epsilon, horizon")
    assert "task.cost_limit" in refused("status", "-p", "Six")
    assert "there already" in refused(*words)
    decided = [w for key in ("cost_limit=2", "epsilon=0.1", "horizon=20") for w in ("--set", f"task.{key}")]
    harden(
        "init",
        "--env",
        "mine:Free",
        *decided,
        "--set",
        "task.action_low=[-2]",
        "--set",
        "task.action_high=[2]",
    )
    task = load_config(Path("pipelines/Free.toml")).task
    assert isinstance(task, OwnTask)
    assert (task.obs_dim, task.act_dim, task.horizon, task.unsaid) == (2, 1, 20, False)
    assert "speeding" in refused("init", "--env", "mine:Point")
    assert "task.KEY" in refused("init", "--env", "mine:Six", "--set", "seed=3")
    assert "--env" in refused("init", "--python", other_python)
