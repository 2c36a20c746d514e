"""Somebody else's policy under attack: a function, a TorchScript or an ONNX file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import harden
from harden.attacks import ATTACKS, Strength, perturb
from harden.config.file import find_pipeline, load_config
from harden.config.pipeline import make_config
from harden.errors import Interrupted
from harden.nets.saved import load_policy
from harden.policies.export import export_policy
from harden.policies.foreign import OpaquePolicy
from harden.policies.open import open_policy
from harden.policies.torchscript import write_torchscript
from harden.progress import Reporter
from support.commands import harden as run_harden
from support.commands import refused

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
QUIET = Reporter(True)
SMALL = ["--set", "collect.workers=0", "--set", "evaluate.independent_episodes=10"]
SMALL += ["--set", "evaluate.independent_steps=10", "--set", "imitation.steps=20"]
SMALL += ["--set", "imitation.check_every=10", "--set", "networks.critic_hidden=[16]"]
AGENT = """
import numpy as np


def act(obs):
    assert obs.dtype == np.float32 and obs.ndim == 2
    return np.tanh(np.stack([-obs[:, 0] - obs[:, 5], obs[:, 1]], axis=1))


class Model:
    def predict(self, obs):
        return act(obs), None


model = Model()
text = "no function"


def three(obs):
    return obs[:, :3]


def noisy(obs):
    return np.random.uniform(size=(len(obs), 2))


class Sampler:
    # as a model of Stable-Baselines3 has it
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        mean = act(observation)
        return mean if deterministic else mean + np.random.normal(size=mean.shape), state


sampler = Sampler()


def far(obs):
    return 50 * act(obs)


def edge(obs):
    return np.clip(1.5 * act(obs), -1, 1) + 1e-7


def fails(obs):
    raise LookupError("no such row\\nand a second line")


def silent(obs):
    raise RuntimeError


def words(obs):
    return ["left"] * len(obs)


def mapping(obs):
    return {"action": act(obs)}


def single(obs):
    return np.tanh(obs[:2])


def leaves(obs):
    raise SystemExit(0)


def late(obs):
    if len(obs) == 1:
        raise ZeroDivisionError("division by zero")
    return act(obs)
"""
BROKEN = {
    "unfinished": "def act(obs:\n",
    "angry": "raise RuntimeError('no licence found\\nask the office')\n",
    "script": "import sys\nsys.exit(0)\n",
    "hungry": "import nothing_of_this_name\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with somebody's module in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "somebody.py").write_text(AGENT)
    for name, text in BROKEN.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def act(obs: np.ndarray) -> np.ndarray:
    """Return actions as the module's `act`."""
    return np.tanh(np.stack([-obs[:, 0] - obs[:, 5], obs[:, 1]], axis=1))


def config():
    """Return the default pipeline."""
    return load_config(find_pipeline(Path("pipelines/ball-circle.toml")))


def test_a_function_is_attacked_without_gradients_and_the_report_says_so(folder: Path) -> None:
    words = ["evaluate", "--policy", "somebody:act", "--episodes", "1", "--queries", "17", *SMALL]
    said = run_harden(*words, "--attack", "random,mc,mad", "--json", "a.json", "--html", "a.html").output
    assert re.search("no-gradient.*mc, mad", said)
    assert "no gradients" in Path("a.html").read_text()
    evaluation = json.loads(Path("a.json").read_text())
    by_name = {one["attack"]: one for one in evaluation["results"]}
    for name in ("mc", "mad"):
        assert (by_name[name]["style"], by_name[name]["steps"], by_name[name]["queries"]) == (
            "evolution",
            0,
            17,
        )
    assert by_name["random"]["style"] == "uniform"
    assert "fitted here" in evaluation["threat_model"]["critics"]["own"]
    critics = evaluation["threat_model"]["critics"]
    assert critics["surrogate_error"] > 0
    # a copy after so few steps is another policy: the file says it, not the terminal alone
    assert critics["surrogate_share"] > 0.1
    assert evaluation["checks"]["poor-copy"] == 1
    assert [w["attack"] for w in evaluation["warnings"] if w["check"] == "poor-copy"] == ["mc"]
    kept = list(Path("checkpoints/agents/somebody-act").glob("*/critics.safetensors"))
    assert len(kept) == 1
    # the same function, handed over in Python, and as a method that returns more than actions
    natural = by_name["natural"]["per_episode"]
    for named in (act, "somebody:model.predict"):
        again = harden.evaluate(named, "random", episodes=1)
        assert again["results"][0]["per_episode"] == natural
        assert again["policy"]["policy_digest"] == evaluation["policy"]["policy_digest"]


@pytest.mark.parametrize(
    ("named", "fact"),
    [
        ("nowhere:act", "No module named 'nowhere'"),
        ("somebody:missing", "no attribute 'missing'"),
        ("somebody:text", "somebody:text"),
        ("somebody:three", "(512, 3)"),
        ("somebody:noisy", "somebody:noisy"),
        ("somebody:fails", "(512, 8) (LookupError: no such row)"),
        ("somebody:silent", "(512, 8) (RuntimeError)"),
        ("somebody:leaves", "(512, 8) (SystemExit: 0)"),
        ("somebody:words", "(ValueError: could not convert string to float: 'left')"),
        ("somebody:mapping", "(TypeError: float() argument must be"),
        ("somebody:single", "(2, 8)"),
        ("somebody:late", "(1, 8) (ZeroDivisionError: division by zero)"),
        ("unfinished:act", "(SyntaxError: '(' was never closed (unfinished.py, line 1))"),
        ("angry:act", "(RuntimeError: no licence found)"),
        ("script:act", "(SystemExit: 0)"),
        ("hungry:act", "(ModuleNotFoundError: No module named 'nothing_of_this_name')"),
        ("somebody.py", "somebody.py"),
        ("none.onnx", "none.onnx is missing"),
        ("none", "none is missing"),
    ],
)
def test_what_is_no_policy_is_refused_in_one_line(folder: Path, named: str, fact: str) -> None:
    for words in (["evaluate", "--attack", "random", "--episodes", "1"], ["render"]):
        said = refused(*words, "--policy", named)
        assert named in said
        assert fact in said
    assert not list(folder.glob("*.gif"))


def test_too_few_episodes_to_learn_a_surrogate_from_are_refused_before_any_is_run(folder: Path) -> None:
    words = ["--policy", "somebody:act", "--attack", "mc", "--episodes", "1", *SMALL]
    said = refused("evaluate", *words, "--set", "evaluate.independent_episodes=2")
    assert "evaluate.independent_episodes is 2" in said
    assert "three are needed" in said
    assert not Path("checkpoints/agents").exists(), "and nothing is left behind"


def test_ctrl_c_inside_a_function_is_no_failure_of_it(folder: Path) -> None:
    def stopped(obs: np.ndarray) -> np.ndarray:
        raise Interrupted("stopped by Ctrl-C")

    with pytest.raises(Interrupted):
        open_policy(stopped, config(), QUIET)


def test_a_function_that_samples_unless_told_otherwise_is_told(folder: Path) -> None:
    obs = torch.randn(20, 8)
    policy = open_policy("somebody:sampler.predict", config(), QUIET).policy
    torch.testing.assert_close(policy.mean(obs), torch.from_numpy(act(obs.numpy())))


def test_answers_that_are_clipped_are_no_secret(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    about = open_policy("somebody:far", config(), Reporter()).manifest
    said = capsys.readouterr().err
    assert "warning: somebody:far: " in said
    assert "[-1, 1]" in said
    assert "clipped" in said
    assert about["how"].startswith("asked for actions only: no gradients; ")
    assert "clipped" in about["how"]
    # rounding is no answer outside
    assert "clipped" not in open_policy("somebody:edge", config(), Reporter()).manifest["how"]
    assert "warning" not in capsys.readouterr().err


def test_a_function_acts_in_the_range_of_a_task_of_ones_own(folder: Path) -> None:
    own = {
        "name": "point",
        "env": "support.point_mass:PointMass-v0",
        "horizon": 20,
        "cost_limit": 2,
    }
    own |= {"epsilon": 0.1, "obs_dim": 2, "act_dim": 1, "action_low": [-2.0], "action_high": [2.0]}

    def runs(obs: np.ndarray) -> np.ndarray:
        return np.full((len(obs), 1), 1.5)

    # a folder of its name is another policy
    (folder / "runs").mkdir()
    loaded = open_policy(runs, make_config({"task": own}), QUIET)
    assert float(loaded.policy.mean(torch.zeros(1, 2))) == 1.5
    assert "clipped" not in loaded.manifest["how"]


def test_weights_of_an_onnx_file_are_taken_over_and_torchscript_is_asked_itself(folder: Path) -> None:
    released = load_policy(RELEASED).policy
    for name, kind in (("ours.onnx", "onnx"), ("ours.pt", "torchscript")):
        export_policy(load_policy(RELEASED), kind, folder / name, torch.randn(9, 8))
    obs = torch.randn(20, 8)
    for name in ("ours.onnx", "ours.pt"):
        loaded = open_policy(name, config(), QUIET)
        torch.testing.assert_close(loaded.policy.mean(obs), released.mean(obs), atol=1e-5, rtol=0)
        assert loaded.policy.differentiable
        assert isinstance(loaded.policy, OpaquePolicy) == name.endswith("pt")
        assert ("taken over" in loaded.manifest["how"]) == name.endswith("onnx")


class Bends(torch.nn.Module):
    """A policy of nobody's architecture."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return two actions."""
        return torch.sin(3 * obs[:, :2]) * torch.cos(obs[:, 2:4])


def test_torchscript_of_any_kind_gives_gradients_and_onnx_gives_values(folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    write_torchscript(folder / "bends.pt", Bends(), 8, {})
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    weight = np.eye(8, 2, dtype=np.float32)
    nodes = [helper.make_node("MatMul", ["o", "w"], ["h"]), helper.make_node("Sin", ["h"], ["a"])]
    ends = [helper.make_tensor_value_info(n, kind, ["batch", s]) for n, s in (("o", 8), ("a", 2))]
    graph = helper.make_graph(nodes, "sines", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(folder / "sines.onnx"))
    obs, draw = 0.3 * torch.randn(30, 8), torch.Generator().manual_seed(0)
    moved = []
    for name, climbs in (("bends.pt", True), ("sines.onnx", False)):
        policy = open_policy(name, config(), QUIET).policy
        assert isinstance(policy, OpaquePolicy)
        assert policy.differentiable is climbs
        adv = perturb(ATTACKS["mad"], policy, None, obs, 0.1, Strength(10, 1, queries=65), draw)
        noise = perturb(ATTACKS["random"], policy, None, obs, 0.1, Strength(), draw)
        with torch.no_grad():
            clean = policy.mean(obs)
            distances = [(policy.mean(given) - clean).norm(dim=1).mean() for given in (adv, noise)]
        assert distances[0] > 1.3 * distances[1], "it searched, and found more than chance does"
        moved.append(float((adv - obs).abs().max()))
    assert max(moved) <= 0.1 * (1 + 1e-5)
    torch.testing.assert_close(open_policy("sines.onnx", config(), QUIET).policy.mean(obs), obs[:, :2].sin())
