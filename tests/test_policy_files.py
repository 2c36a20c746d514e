"""Policy files as Stable-Baselines3, CleanRL and RSL-RL write them: their own actions, or one line."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harden.config.file import find_pipeline, load_config
from harden.errors import DamagedFileError, InputError
from harden.nets.saved import LoadedPolicy
from harden.policies.adopt import task_bounds
from harden.policies.foreign import OpaquePolicy, chosen_outputs
from harden.policies.open import open_foreign, open_policy
from harden.policies.reading import Reading
from harden.policies.state_dict import open_state_dict
from harden.policies.torchscript import Program
from harden.progress import QUIET
from support.commands import refused

FILES = Path(__file__).parent / "fixtures/policies"
ANSWERS = dict(np.load(FILES / "answers.npz"))
OBS = torch.from_numpy(ANSWERS.pop("obs"))
CONFIG = load_config(find_pipeline(Path("ball-circle")))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read zips in this process: a child takes seconds to start."""
    monkeypatch.setattr("harden.policies.sb3.call_limited", lambda path, read: read(path))


def opened(name: str | Path, **reading: str) -> LoadedPolicy:
    """Open a file for ball-circle."""
    return open_policy(FILES / name, CONFIG, QUIET, Reading(**reading))


@pytest.mark.parametrize("name", ANSWERS)
def test_a_file_acts_as_its_own_library_says(here: None, name: str) -> None:
    policy = opened(name).policy
    assert policy.differentiable
    with torch.no_grad():
        wanted = torch.from_numpy(ANSWERS[name]).clamp(-1, 1)
        torch.testing.assert_close(policy.mean(OBS), wanted, atol=1e-5, rtol=0)
    # an MLP as ours, in our range, is ours; nothing else is
    ours = name.split(".")[0] in ("sb3-sac", "sb3-td3", "cleanrl-td3")
    assert isinstance(policy, OpaquePolicy) != ours
    leaf = OBS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(policy.mean(leaf).sum(), leaf)
    assert float(slope.abs().max()) > 0


def test_a_zip_is_read_in_a_child_process() -> None:
    path = FILES / "sb3-ppo.zip"
    foreign = open_foreign(path, Reading(), CONFIG, OBS, QUIET)
    torch.testing.assert_close(foreign.run(OBS)[0], torch.from_numpy(ANSWERS[path.name]), atol=1e-5, rtol=0)
    assert "VecNormalize" in foreign.notes


def test_actions_in_the_range_of_another_environment_stay_so(here: None) -> None:
    foreign = open_foreign(FILES / "sb3-sac-wide.zip", Reading(), CONFIG, OBS, QUIET)
    wanted = torch.from_numpy(ANSWERS["sb3-sac-wide.zip"])
    assert float(wanted.max()) > 1.5
    torch.testing.assert_close(foreign.run(OBS)[0], wanted, atol=1e-5, rtol=0)
    assert "[-2.0, -0.5] to [3.0, 0.5]" in foreign.notes


def test_what_names_do_not_say_is_said_and_may_be_given() -> None:
    name = "sb3-ppo.safetensors"
    assert "tanh" in opened(name).manifest["how"]
    other = opened(name, activation="relu")
    assert "--activation" not in other.manifest["how"]
    assert not torch.allclose(other.policy.mean(OBS), opened(name).policy.mean(OBS), atol=1e-2)


def test_a_spread_in_the_file_is_the_spread() -> None:
    std = opened("rsl-rl-3.safetensors").policy(OBS)[1]
    wanted = load_file(FILES / "rsl-rl-3.safetensors")["std"]
    torch.testing.assert_close(std, wanted.expand_as(std))


def test_cleanrls_own_scale_is_applied(tmp_path: Path) -> None:
    layers = {
        "fc1": nn.Linear(8, 6),
        "fc2": nn.Linear(6, 5),
        "fc_mean": nn.Linear(5, 2),
        "fc_logstd": nn.Linear(5, 2),
    }
    state = {f"{k}.{n}": v.detach() for k, layer in layers.items() for n, v in layer.named_parameters()}
    scale, bias = torch.tensor([2.0, 0.5]), torch.tensor([1.0, 0.0])
    save_file(state | {"action_scale": scale, "action_bias": bias}, tmp_path / "sac.safetensors")
    foreign = open_state_dict(tmp_path / "sac.safetensors", Reading(), task_bounds(CONFIG), OBS)
    h = layers["fc2"](layers["fc1"](OBS).relu()).relu()
    wanted = layers["fc_mean"](h).tanh() * scale + bias
    torch.testing.assert_close(foreign.run(OBS)[0], wanted)
    assert foreign.adopted is None


def changed(path: Path, **changes: Any) -> Path:
    """Write a copy of a zip with other parts: of its JSON by key, of its files by name with _ for the dot."""
    with zipfile.ZipFile(FILES / "sb3-ppo.zip") as whole, zipfile.ZipFile(path, "w") as copy:
        for entry in whole.namelist():
            content = changes.get(entry.replace(".", "_"), whole.read(entry))
            if entry == "data":
                content = json.dumps(
                    json.loads(content) | {k: v for k, v in changes.items() if "_pth" not in k}
                )
            copy.writestr(entry, content)
    return path


class Planted:
    """Writes a file where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (eval, ("open('planted', 'w').close()",))


def test_what_more_a_zip_holds_is_refused_and_no_pickle_in_it_is_opened(
    here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {":type:": "<class 'abc.ABCMeta'>", "__module__": "__main__"}
    space = {"low": "[-1. ... -1.]", "high": "[1. ... 1.]"}
    buffer, whole = io.BytesIO(), io.BytesIO()
    torch.save({"action_net.weight": Planted()}, buffer)
    torch.save(nn.Linear(8, 2), whole)
    for number, changes in enumerate(
        (
            {"policy_class": own},
            {"policy_kwargs": {"features_extractor_class": "<class '__main__.Scaled'>"}},
            {"policy_kwargs": {"activation_fn": "functools.partial(<class 'torch.nn.LeakyReLU'>)"}},
            {"policy_kwargs": {"clip_mean": "two"}},
            {"action_space": {"n": "5"}},
            {"action_space": space},
            {"policy_class": 7},
            {"policy_pth": buffer.getvalue()},
            {"policy_pth": whole.getvalue()},
            {"policy_pth": pickle.dumps(Planted())},
        )
    ):
        path = changed(tmp_path / f"{number}.zip", **changes)
        with pytest.raises(InputError, match=str(path)):
            opened(path)
    serialized = {":type:": "<class 'dict'>", ":serialized:": pickle.dumps(Planted()).hex()}
    assert opened(changed(tmp_path / "fine.zip", policy_kwargs=serialized, lr_schedule=serialized))
    assert not Path("planted").exists()


def test_a_zip_that_unpacks_to_far_more_is_refused(here: None, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        with bomb.open("data", "w", force_zip64=True) as file:
            for _ in range(300):
                file.write(bytes(2**20))
        bomb.writestr("policy.pth", b"")
    with pytest.raises(DamagedFileError, match="bytes"):
        opened(tmp_path / "bomb.zip")


def test_recurrent_and_stacked_state_dicts_are_called_so(tmp_path: Path) -> None:
    cell = {f"lstm_actor.{name}": value for name, value in nn.LSTM(8, 4).state_dict().items()}
    save_file(cell | load_file(FILES / "sb3-ppo.safetensors"), tmp_path / "lstm.safetensors")
    with pytest.raises(InputError, match="recurrent"):
        opened(tmp_path / "lstm.safetensors")
    net = nn.Sequential(nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 2))
    named = {f"actor_mean.{name}": value for name, value in net.state_dict().items()}
    save_file(named | {"actor_logstd": torch.zeros(1, 2)}, tmp_path / "stacked.safetensors")
    with pytest.raises(InputError, match=r"4 observations of 8 coordinates at once.*stacked"):
        opened(tmp_path / "stacked.safetensors")


def test_a_name_that_is_not_accounted_for_is_refused(tmp_path: Path) -> None:
    for name in ("sb3-ppo", "sb3-sac", "sb3-td3", "cleanrl-ppo", "cleanrl-td3", "rsl-rl-3", "rsl-rl-5"):
        state = load_file(FILES / f"{name}.safetensors")
        save_file(state | {"gate.weight": torch.ones(2, 2)}, tmp_path / "more.safetensors")
        with pytest.raises(InputError, match=r"'gate\.weight'"):
            opened(tmp_path / "more.safetensors")


class Stacked(nn.Module):
    """Takes four observations."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        self.net, self.axes = nn.Linear(32, 2), axes

    def forward(self, obs: Tensor) -> Tensor:
        """Return the action."""
        assert obs.dim() == self.axes
        return self.net(obs.flatten(1))


class Several(nn.Module):
    """Gives more than an action."""

    def forward(self, obs: Tensor) -> dict[str, Tensor]:
        """Return a value, an action and a class."""
        return {"value": obs[:, :1], "action": obs[:, :2].tanh(), "mode": obs[:, :1].long()}


def test_a_program_of_several_outputs_or_observations(tmp_path: Path) -> None:
    path = tmp_path / "several.pt"
    torch.jit.save(torch.jit.script(Several()), path)
    torch.testing.assert_close(Program(path, Reading(output="action"))(OBS)[0], OBS[:, :2].tanh())
    for reading in (Reading(), Reading(output="actions")):
        with pytest.raises(InputError, match="value, action, mode"):
            Program(path, reading)(OBS)
    for axes in (2, 3):
        torch.jit.save(torch.jit.script(Stacked(axes)), path)
        with pytest.raises(InputError, match="4 observations at once: a stacked policy"):
            Program(path)(OBS)


def test_a_file_without_an_output_is_no_policy() -> None:
    with pytest.raises(InputError):
        chosen_outputs([], Reading(), Path("none.onnx"))


def test_an_onnx_file_of_several_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("MatMul", ["o", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["action"]),
        helper.make_node("ArgMax", ["h"], ["mode"], axis=1),
    ]
    ends = [("o", kinds.FLOAT, ["b", 8]), ("h", kinds.FLOAT, None), ("action", kinds.FLOAT, None)]
    infos = [helper.make_tensor_value_info(*end) for end in (*ends, ("mode", kinds.INT64, None))]
    weight = onnx.numpy_helper.from_array(np.eye(8, 2, dtype=np.float32), "w")
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "several.onnx"
    )
    assert "h, action, mode" in refused("evaluate", "--policy", "several.onnx", "--dry-run")
    policy = open_policy("several.onnx", CONFIG, QUIET, Reading(output="action")).policy
    torch.testing.assert_close(policy.mean(OBS), OBS[:, :2].tanh())
