"""Policies out to a robot and in from others: equal actions, or one line that says why not."""

from __future__ import annotations

import copy
import os
import random
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import harden as harden_package
from harden.config.file import find_pipeline, load_config
from harden.config.tasks import TASKS
from harden.data.dataset import DatasetWriter
from harden.errors import HardenError
from harden.nets import GaussianPolicy
from harden.nets.saved import LoadedPolicy, load_policy, save_policy
from harden.policies import export as export_module
from harden.policies.adopt import Bounds, Linear, make_policy
from harden.policies.foreign import OpaquePolicy, call_limited
from harden.policies.onnx_file import open_onnx
from harden.policies.open import open_policy
from harden.policies.reading import Reading
from harden.policies.state_dict import write_state_dict
from harden.policies.torchscript import open_torchscript
from harden.progress import Reporter
from harden.stages.policy_files import import_policy
from harden.types import Transitions
from support.commands import harden, refused

ROOT = Path(__file__).parents[1]
BOUNDS = Bounds(-torch.ones(2), torch.ones(2), 0.3, 0.1, 0.5)
CONFIG = load_config(find_pipeline(Path("ball-circle")))
RELEASED = ROOT / "checkpoints/released/ball-circle/cvpo"
FILES = {"onnx": "policy.onnx", "torchscript": "policy.pt", "safetensors": "policy.safetensors"}
QUICK = [
    word
    for key in ("policy_hidden=[32]", "init_std=0.4", "max_std=1")
    for word in ("--set", f"networks.{key}")
] + [
    "--set",
    "imitation.steps=1500",
]


# a robot without a simulation
BARE = """[task]
name = "bare"
horizon = 100
cost_limit = 5
epsilon = 0.05
obs_dim = 8
act_dim = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a data set of ball-circle's sizes, ten episodes of a smooth walk."""
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    obs = torch.cumsum(0.1 * torch.randn(1000, 8, generator=draw), 0).remainder(2) - 1
    actions = torch.rand(1000, 2, generator=draw) * 2 - 1
    nothing, ends = torch.zeros(1000), torch.arange(1, 1001) % 100 == 0
    data = Transitions(obs, actions, nothing, nothing, obs, torch.zeros(1000, dtype=torch.bool), ends)
    with DatasetWriter(Path("data"), TASKS["ball-circle"]) as writer:
        writer.append(data, seed=0, policy_digest="", behaviour="policy-sample")
    # what a copy earns is simulated in test_policy_files.py
    monkeypatch.setattr("harden.stages.policy_files.try_both", lambda *_: [{"reward": 1.0, "cost": 0.0}] * 2)
    Path("bare.toml").write_text(BARE)
    return tmp_path


@pytest.fixture(autouse=True)
def tried_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try TorchScript programs in this process, but for the tests of the limits: a child takes seconds."""
    monkeypatch.setattr("harden.policies.foreign.call_limited", lambda path, f, *words: f(path, *words))


def script(module: nn.Module, path: str) -> None:
    """Write a module as TorchScript, as a user's own training would."""
    torch.jit.save(torch.jit.script(module), path)


def write_own_onnx(module: nn.Module, path: str, batch: bool = True) -> None:
    """Write a module as ONNX, as a user's own training would."""
    shapes = {"dynamic_shapes": ({0: "rows"},)} if batch else {}
    given = (torch.zeros(2 if batch else 1, 8),)
    program = torch.onnx.export(module, given, dynamo=True, verbose=False, **shapes)  # type: ignore[arg-type]
    assert program is not None
    program.save(path)


def actor(activation: type[nn.Module] = nn.ReLU, squash: bool = True) -> nn.Sequential:
    """Return somebody's actor for ball-circle."""
    last = [nn.Tanh()] if squash else []
    return nn.Sequential(
        nn.Linear(8, 24), activation(), nn.Linear(24, 16), activation(), nn.Linear(16, 2), *last
    )


class WithSpread(nn.Module):
    """An actor that gives a mean and the logarithm of a spread."""

    def __init__(self, log_std: float) -> None:
        super().__init__()
        self.net = actor()
        self.log_std = nn.Parameter(torch.full((2,), log_std))

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return both."""
        mean = self.net(obs)
        return mean, self.log_std.expand_as(mean)


class WithChangingSpread(nn.Module):
    """An actor of another architecture, whose spread depends on the observation."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.spread = actor(nn.Tanh), nn.Linear(8, 2)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return a mean and a spread from 0.2 to 0.8."""
        return self.net(obs), 0.2 + 0.6 * torch.sigmoid(4 * self.spread(obs))


class OneAtATime(nn.Module):
    """An actor for a robot's loop: it refuses a batch."""

    def __init__(self, net: nn.Module, axes: int) -> None:
        super().__init__()
        self.net, self.axes = net, axes

    def forward(self, obs: Tensor) -> Tensor:
        """Return the action for one observation."""
        assert obs.dim() == self.axes, "one at a time, please"
        assert obs.numel() == 8, "one at a time, please"
        return self.net(obs)


class Sampled(nn.Module):
    """An actor that draws its actions."""

    def __init__(self) -> None:
        super().__init__()
        self.net = actor()

    def forward(self, obs: Tensor) -> Tensor:
        """Return a draw."""
        mean = self.net(obs)
        return mean + 0.3 * torch.randn_like(mean)


@pytest.mark.parametrize("kind", FILES)
def test_what_goes_out_comes_back(folder: Path, kind: str) -> None:
    said = harden(
        "policy", "export", str(RELEASED), "--to", kind, "--out", FILES[kind], "--data", "data"
    ).output
    assert "1,000 observations of data" in said
    assert re.search(r"one decision takes \d+ us", said)
    said = harden("policy", "import", FILES[kind], "--out", "back", "--data", "data", "--quiet").output
    assert said.startswith("taken over exactly")
    original, back = load_policy(RELEASED), load_policy("back")
    obs = torch.randn(500, 8)
    with torch.no_grad():
        torch.testing.assert_close(back.policy.mean(obs), original.policy.mean(obs), atol=1e-6, rtol=0)
    if kind != "safetensors":
        assert float(back.policy(obs)[1].detach().std()) < 1e-6, "an action alone brings no spread"
        assert "networks.init_std" in said
    else:
        assert back.manifest["policy_digest"] == original.manifest["policy_digest"]
    assert back.critics is None
    assert back.manifest["imported"]["exact"] is True
    assert back.manifest["variant"] == "imported"
    assert len(back.manifest["inputs"]["file"]) == 64


@pytest.mark.parametrize("kind", FILES)
def test_bounds_and_batches_are_in_the_exported_policy(folder: Path, kind: str) -> None:
    low, high = torch.tensor([-2.0, 0.5, -1.0]), torch.tensor([3.0, 0.6, 1.0])
    policy = GaussianPolicy(5, 3, (16, 8), low, high, obs_scale=2.0)
    with torch.no_grad():
        policy.mean_head.weight.mul_(100)
    save_policy(Path("mine"), policy, None, {})
    done = export_module.export_policy(load_policy("mine"), kind, Path(FILES[kind]), torch.randn(64, 5))
    assert done.error <= 1e-5
    assert 0 < done.latency[0] <= done.latency[1] < 1
    act = export_module._reopen(kind, Path(FILES[kind]))
    obs = 50 * torch.randn(300, 5)
    for rows in (1, 300):
        actions = act(obs[:rows])
        assert actions.shape == (rows, 3)
        assert bool(((actions >= low) & (actions <= high)).all())
    torch.testing.assert_close(actions, policy.mean(obs).detach(), atol=1e-5, rtol=0)


def test_an_export_that_acts_otherwise_is_not_put_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("policy.pt").write_text("what stood here before")
    plain = export_module._reopen

    def off(*args: Any) -> Any:
        act = plain(*args)
        return lambda obs: act(obs) + 2e-5

    monkeypatch.setattr(export_module, "_reopen", off)
    with pytest.raises(HardenError, match="acts otherwise by 2e-05"):
        export_module.export_policy(
            load_policy(RELEASED), "torchscript", Path("policy.pt"), torch.randn(9, 8)
        )
    assert Path("policy.pt").read_text() == "what stood here before"
    assert not list(folder.glob(".*tmp"))


@pytest.mark.parametrize("kind", FILES)
def test_an_exported_file_is_one_and_says_nothing_of_this_machine(folder: Path, kind: str) -> None:
    harden("policy", "export", str(RELEASED), "--to", kind, "--out", FILES[kind])
    parts = [Path(FILES[kind]).read_bytes()]
    if kind == "torchscript":
        with zipfile.ZipFile(FILES[kind]) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    for content in parts:
        assert str(ROOT).encode() not in content
        assert b"site-packages" not in content
    assert list(folder.glob("*policy.*")) == [folder / FILES[kind]]


def test_the_pages_lines_run_a_policy_with_onnxruntime_alone(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/your-own-data.md").read_text(), re.DOTALL)
    lines = next(block for block in blocks if "onnxruntime" in block)
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    harden("policy", "export", str(RELEASED), "--to", "onnx", "--out", "policy.onnx")
    obs = np.random.default_rng(0).normal(size=(20, 8))
    np.save("obs.npy", obs)
    robot = (
        "import sys, numpy\nmoved = []\nsensors, motors = lambda: numpy.load('obs.npy'), moved.append\n"
        f"{lines}\nnumpy.save('moved.npy', moved)\n"
        "assert not {'torch', 'harden', 'onnx'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", robot], check=True, cwd=folder)
    np.testing.assert_allclose(np.load("moved.npy"), load_policy(RELEASED).act(obs), atol=1e-5)


def test_without_the_extra_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harden("policy", "export", str(RELEASED), "--to", "onnx", "--out", "policy.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    for words in (["export", str(RELEASED), "--to", "onnx"], ["import", "policy.onnx"]):
        assert "pip install 'harden[onnx]'" in refused("policy", *words, "--out", "new")
    assert not Path("new").exists()


@pytest.mark.parametrize("kind", ["onnx", "onnx of one row", "torchscript", "safetensors"])
def test_somebody_elses_actor_of_our_architecture_is_taken_over(folder: Path, kind: str) -> None:
    theirs = actor()
    words = ["their.pt"]
    if kind.startswith("onnx"):
        words = ["their.onnx"]
        write_own_onnx(theirs, "their.onnx", batch=kind == "onnx")
    elif kind == "torchscript":
        script(theirs, "their.pt")
    else:
        words = ["their.safetensors", "--activation", "relu", "--squash", "tanh"]
        save_file(
            {f"actor.{name}": value for name, value in theirs.state_dict().items()}, "their.safetensors"
        )
    said = harden("policy", "import", *words, "--out", "mine", "--data", "data", *QUICK).output
    assert "taken over exactly" in said
    obs = torch.randn(50, 8)
    mean, std = load_policy("mine").policy(obs)
    torch.testing.assert_close(mean, theirs(obs), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.full_like(std, 0.4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["onnx", "torchscript", "safetensors"])
def test_another_architecture_is_distilled(folder: Path, kind: str) -> None:
    theirs = actor(nn.Tanh, squash=False)
    with torch.no_grad():
        theirs[-1].weight.mul_(4)
    words = {"onnx": ["their.onnx"], "torchscript": ["their.pt"], "safetensors": ["their.safetensors"]}[kind]
    if kind == "onnx":
        write_own_onnx(theirs, "their.onnx")
    elif kind == "torchscript":
        script(theirs, "their.pt")
    else:
        save_file(theirs.state_dict(), "their.safetensors")
        assert "--activation" in refused("policy", "import", *words, "--out", "mine")
        words += ["--activation", "tanh", "--squash", "none"]
    assert "--data" in refused("policy", "import", *words, "--out", "mine", "-p", "bare.toml")
    said = harden("policy", "import", *words, "--out", "mine", "--data", "data", *QUICK).output
    assert "distilled" in said
    found = load_policy("mine")
    assert found.manifest["imported"]["error"] < 0.1
    obs = found_obs()
    wanted = theirs(obs).clamp(-1, 1)
    error = (found.policy.mean(obs) - wanted).square().mean().sqrt()
    assert float(error.detach()) < 0.1 < 0.3 < float(wanted.detach().std()), "far better than a constant"


def found_obs() -> Tensor:
    """Return the data set's observations."""
    from harden.data.dataset import open_dataset

    return open_dataset(Path("data")).recent(1000).obs


@pytest.mark.parametrize("log_std", [-1.2, -9.0])
def test_a_spread_of_its_own_is_kept_and_has_to_be_named(folder: Path, log_std: float) -> None:
    theirs = WithSpread(log_std)
    script(theirs, "their.pt")
    assert "--spread" in refused("policy", "import", "their.pt", "--out", "mine", "--quiet")
    words = ["--spread", "log-std", "--data", "data", "--quiet", *QUICK]
    said = harden("policy", "import", "their.pt", "--out", "mine", *words).output
    assert "kept inside our floor and ceiling" in said
    with torch.no_grad():
        mean, std = load_policy("mine").policy(found_obs())
        error = (mean - theirs(found_obs())[0]).square().mean().sqrt()
    assert float(error) < 0.1
    torch.testing.assert_close(std, torch.full_like(std, max(float(np.exp(log_std)), 0.1)), atol=0.05, rtol=0)


def test_a_state_dict_with_a_spread_is_taken_over_with_it(folder: Path) -> None:
    theirs, said = actor(), ["--activation", "relu", "--squash", "tanh"]
    for log_std, kept in ((-1.2, np.exp(-1.2)), (-9.0, 0.1)):
        save_file(theirs.state_dict() | {"log_std": torch.full((2,), log_std)}, "their.safetensors")
        harden("policy", "import", "their.safetensors", "--out", "mine", "--overwrite", *said)
        mean, std = load_policy("mine").policy(found_obs())
        torch.testing.assert_close(mean, theirs(found_obs()), atol=1e-5, rtol=0)
        torch.testing.assert_close(std, torch.full_like(std, float(kept)), atol=2e-3, rtol=0)


def test_a_spread_that_depends_on_the_observation_is_distilled_too(folder: Path) -> None:
    theirs = WithChangingSpread()
    script(theirs, "their.pt")
    words = ["--spread", "std", "--data", "data", "--quiet", *QUICK]
    said = harden("policy", "import", "their.pt", "--out", "mine", *words).output
    assert said.startswith("distilled")
    obs = found_obs()
    with torch.no_grad():
        wanted_mean, wanted = theirs(obs)
        mean, std = load_policy("mine").policy(obs)
    assert float((mean - wanted_mean).square().mean().sqrt()) < 0.1
    error = float((std - wanted).square().mean().sqrt())
    assert error < 0.3 * float(wanted.std(0).mean()), "far better than one spread for all"


@pytest.mark.parametrize("axes", [1, 2])
def test_a_torchscript_policy_that_takes_one_observation_at_a_time(folder: Path, axes: int) -> None:
    theirs = actor()
    script(OneAtATime(theirs, axes), "their.pt")
    source = open_torchscript(Path("their.pt"), Reading(), BOUNDS, torch.zeros(9, 8))
    assert source.adopted is None, "it refuses what our architecture takes"
    obs = torch.randn(20, 8)
    torch.testing.assert_close(source.run(obs)[0], theirs(obs), atol=1e-5, rtol=0)
    # gradients flow through it as through a batch
    leaf = obs.clone().requires_grad_()
    source.run(leaf)[0].sum().backward()
    wanted = obs.clone().requires_grad_()
    theirs(wanted).sum().backward()
    torch.testing.assert_close(leaf.grad, wanted.grad)


def test_a_torchscript_policy_in_double_precision(folder: Path) -> None:
    theirs = actor()
    script(copy.deepcopy(theirs).double(), "their.pt")
    said = harden("policy", "import", "their.pt", "--out", "mine", "--data", "data", *QUICK).output
    assert "taken over exactly" in said
    obs = torch.randn(20, 8)
    torch.testing.assert_close(load_policy("mine").policy.mean(obs), theirs(obs), atol=1e-5, rtol=0)


def test_what_a_torchscript_policy_asserts_is_said_in_one_line(folder: Path) -> None:
    script(OneAtATime(actor(), 3), "their.pt")
    said = refused("policy", "import", "their.pt", "--out", "mine", "--data", "data", "--quiet")
    assert "their.pt can't be run on observations" in said
    assert "one at a time, please" in said
    assert not Path("mine").exists()


def test_a_policy_of_another_size_or_none_at_all_is_refused(folder: Path) -> None:
    script(nn.Linear(5, 2), "small.pt")
    script(nn.Sequential(nn.Linear(8, 3), nn.Tanh()), "three.pt")
    script(Sampled(), "drawn.pt")
    words = ["--out", "mine", "--data", "data", "--quiet"]
    assert "can't be run on observations" in refused("policy", "import", "small.pt", *words)
    assert "the task has 2 actions" in refused("policy", "import", "three.pt", *words)
    assert "draws its actions" in refused("policy", "import", "drawn.pt", *words)
    save_file({"a.weight": torch.zeros(2, 8), "norm.running_mean": torch.zeros(8)}, "odd.safetensors")
    assert "its names are not" in refused("policy", "import", "odd.safetensors", *words)
    for squash in ("tanh", "none"):
        save_file({"0.weight": torch.zeros(16, 8), "2.weight": torch.zeros(3, 16)}, "three.safetensors")
        said = ["--activation", "relu", "--squash", squash]
        assert "gives 3 actions; the task has 2" in refused(
            "policy", "import", "three.safetensors", *said, *words
        )
    save_file({"0.weight": torch.full((2, 8), torch.nan)}, "nan.safetensors")
    assert "holds NaN" in refused("policy", "import", "nan.safetensors", *words)
    Path("policy.bin").write_bytes(b"")
    assert "does not say its format" in refused("policy", "import", "policy.bin", *words)
    assert not Path("mine").exists()


@pytest.mark.parametrize("name", ["policy.onnx", "policy.pt", "policy.safetensors"])
@pytest.mark.parametrize("kind", ["missing", "empty", "truncated", "foreign", "pickled"])
def test_a_damaged_file_is_refused(folder: Path, name: str, kind: str) -> None:
    path = Path(name)
    if kind == "truncated":
        to = next(to for to, file in FILES.items() if file == name)
        harden("policy", "export", str(RELEASED), "--to", to, "--out", name)
        path.write_bytes(path.read_bytes()[:3000])
    elif kind == "pickled":
        torch.save({"trunk.0.weight": torch.zeros(2, 8)}, path)
    elif kind != "missing":
        path.write_bytes(b"" if kind == "empty" else b"hello, robot" * 99)
    said = refused("policy", "import", name, "--out", "mine", "--data", "data")
    assert name in said
    if kind == "pickled" and path.suffix == ".pt":
        assert "safetensors.torch.save_file" in said
    assert not Path("mine").exists()


@pytest.mark.parametrize("kind", FILES)
def test_spoiled_bytes_give_a_policy_or_one_of_our_errors(folder: Path, kind: str) -> None:
    # without a simulation, or what is no MLP any more would be distilled
    path, config = Path(FILES[kind]), load_config(Path("bare.toml"))
    harden("policy", "export", str(RELEASED), "--to", kind, "--out", FILES[kind])
    whole, refusals = path.read_bytes(), 0
    for seed in range(40):
        draw, spoiled = random.Random(seed), bytearray(whole)
        for _ in range(draw.choice([1, 3, 20])):
            # mostly in the headers: a byte of a weight is only another weight
            place = draw.randrange(3000 if draw.random() < 0.7 else len(whole))
            if draw.random() < 0.7:
                spoiled[place % len(spoiled)] = draw.randrange(256)
            else:
                del spoiled[place : place + draw.randrange(1, 50)]
        path.write_bytes(spoiled)
        try:
            report = Reporter(True)
            import_policy(config, path, Path(f"out-{seed}"), report=report).work()
        except HardenError:
            refusals += 1
            assert not Path(f"out-{seed}").exists()
    # a digest is in our safetensors alone: there no other weight passes for the policy's
    assert refusals == 40 if kind == "safetensors" else 0 < refusals < 40


def with_weights_beside(location: str, length: int = 8 * 24 * 4, offset: int = 0) -> None:
    """Write their.onnx, whose first weights lie somewhere else."""
    write_own_onnx(actor(), "whole.onnx")
    model = onnx.load("whole.onnx")
    tensor = next(item for item in model.graph.initializer if list(item.dims) == [24, 8])
    onnx.external_data_helper.set_external_data(tensor, location, offset=offset, length=length)
    tensor.ClearField("raw_data")
    Path("their.onnx").write_bytes(model.SerializeToString())


def test_onnx_weights_beside_the_file_are_read(folder: Path) -> None:
    theirs = actor()
    # as it comes: PyTorch writes their.onnx.data
    torch.onnx.export(theirs, (torch.zeros(1, 8),), "their.onnx", verbose=False)
    assert Path("their.onnx.data").stat().st_size > 0
    harden("policy", "import", "their.onnx", "--out", "mine")
    obs = torch.randn(20, 8)
    torch.testing.assert_close(load_policy("mine").policy.mean(obs), theirs(obs), atol=1e-5, rtol=0)
    first = open_policy("their.onnx", CONFIG, Reporter(True)).manifest["policy_digest"]
    content = bytearray(Path("their.onnx.data").read_bytes())
    content[:4] = np.float32(3).tobytes()
    Path("their.onnx.data").write_bytes(content)
    assert open_policy("their.onnx", CONFIG, Reporter(True)).manifest["policy_digest"] != first


@pytest.mark.parametrize("location", ["{}/weights.bin", "../weights.bin", "link", "", ".", "missing", "data"])
def test_onnx_weights_in_another_folder_are_refused_before_they_are_followed(
    folder: Path, location: str
) -> None:
    outside = folder.parent / "weights.bin"
    outside.write_bytes(bytes(9999))
    Path("link").symlink_to(outside)
    with_weights_beside(location.format(folder.parent))
    said = refused("policy", "import", "their.onnx", "--out", "mine")
    assert location.format(folder.parent) in said
    # as a constant inside of a node, too
    model = onnx.load("their.onnx", load_external_data=False)
    tensor = next(item for item in model.graph.initializer if item.external_data)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["unused"], value=tensor))
    model.graph.initializer.remove(tensor)
    Path("their.onnx").write_bytes(model.SerializeToString())
    assert location.format(folder.parent) in refused("policy", "import", "their.onnx", "--out", "mine")


@pytest.mark.parametrize("part", [{"length": 9999}, {"offset": -4}, {"length": -4}, {"offset": 10**30}])
def test_onnx_weights_beyond_the_end_of_their_file_are_refused(folder: Path, part: dict[str, int]) -> None:
    Path("weights.bin").write_bytes(bytes(8 * 24 * 4))
    with_weights_beside("weights.bin", **part)
    said = refused("policy", "import", "their.onnx", "--out", "mine")
    assert "their.onnx" in said
    assert "'0.weight'" in said


def test_what_harden_wrote_into_a_file_is_checked_too(folder: Path) -> None:
    policy = load_policy(RELEASED).policy
    fine, path = policy.architecture, Path("spoiled.safetensors")
    for architecture in (
        fine | {"low": [1, 1], "high": [-1, -1]},
        fine | {"low": [-1] * 3},
        {"low": [-1, -1], "high": [1, 1]},
        7,
        fine | {"low": [-(10**400), -1]},
        fine | {"high": [1e39, 1]},
        fine | {"max_std": 10**400},
        fine | {"init_std": -1},
        fine | {"min_std": 0.6, "max_std": 0.5},
    ):
        write_state_dict(path, policy, {"kind": "exported-policy", "policy": architecture})
        assert str(path) in refused("policy", "import", str(path), "--out", "mine")
    assert not Path("mine").exists()


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.int64])
def test_weights_of_types_that_no_policy_has_are_refused(folder: Path, kind: torch.dtype) -> None:
    save_file({n: v.to(kind) for n, v in actor().state_dict().items()}, "odd.safetensors")
    words = ["--activation", "relu", "--squash", "tanh", "--out", "mine"]
    assert str(kind).removeprefix("torch.") in refused("policy", "import", "odd.safetensors", *words)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_policy_in_another_precision_is_asked_in_it(folder: Path, kind: torch.dtype) -> None:
    theirs, obs = actor(), found_obs()[:100]
    script(copy.deepcopy(theirs).to(kind), "their.pt")
    policies = [open_policy("their.pt", CONFIG, Reporter(True)).policy]
    if kind != torch.bfloat16:
        given = torch.zeros(1, 8, dtype=kind)
        torch.onnx.export(copy.deepcopy(theirs).to(kind), (given,), "their.onnx", verbose=False)
        policies.append(open_policy("their.onnx", CONFIG, Reporter(True)).policy)
    for policy in policies:
        with torch.no_grad():
            torch.testing.assert_close(policy.mean(obs), theirs(obs), atol=0.02, rtol=0)


class Behind(nn.Module):
    """An actor of our architecture with something more, which small observations do not show."""

    def __init__(self, net: nn.Module, more: str) -> None:
        super().__init__()
        self.net, self.more = net, more
        self.register_buffer("deviation", torch.linspace(0.5, 2, 8))

    def forward(self, obs: Tensor) -> Tensor:
        """Return the action."""
        if self.more == "clip":
            return self.net(obs.clamp(-2.5, 2.5))
        if self.more == "normaliser":
            return self.net((obs / self.deviation).clamp(-6, 6))
        if self.more == "shield":
            return self.net(obs) * (obs[:, :1].abs() < 2.5)
        if self.more == "fade":
            return self.net(obs) - 0.3 * nn.functional.relu(obs[:, :2] - 2.5)
        if self.more == "dead zone":
            return self.net(obs + nn.functional.relu(obs.abs() - 2.5))
        return self.net(obs).clamp(-0.9999, 0.9999)


MORE = ["clip", "normaliser", "shield", "fade", "dead zone", "output clip"]


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("name", ["their.onnx", "their.pt"])
def test_a_file_that_holds_more_than_an_mlp_is_asked_itself(folder: Path, name: str, more: str) -> None:
    theirs = Behind(actor(), more)
    with torch.no_grad():
        theirs.net[-2].weight.mul_(8)
    if name.endswith("onnx"):
        write_own_onnx(theirs, name)
    else:
        torch.jit.save(torch.jit.trace(theirs, torch.zeros(2, 8)), name)
    assert "--data" in refused("policy", "import", name, "--out", "mine", "-p", "bare.toml")
    policy = open_policy(name, CONFIG, Reporter(True)).policy
    assert isinstance(policy, OpaquePolicy)
    obs = 8 * torch.randn(200, 8)
    with torch.no_grad():
        wanted = theirs(obs).clamp(-1, 1)
        assert not torch.allclose(wanted, theirs.net(obs), atol=1e-5, rtol=0), "there is something to lose"
        torch.testing.assert_close(policy.mean(obs), wanted, atol=1e-5, rtol=0)
    assert policy.differentiable == name.endswith("pt")
    if policy.differentiable:
        leaf = obs.clone().requires_grad_()
        (wanted_slope,) = torch.autograd.grad(theirs(leaf).clamp(-1, 1).sum(), leaf)
        (slope,) = torch.autograd.grad(policy.mean(leaf).sum(), leaf)
        torch.testing.assert_close(slope, wanted_slope, atol=1e-4, rtol=1e-4)


def test_no_extra_node_of_an_onnx_file_is_left_over(folder: Path) -> None:
    write_own_onnx(actor(), "plain.onnx")
    obs = torch.randn(50, 8)
    assert open_onnx(Path("plain.onnx"), Reading(), BOUNDS, obs).adopted is not None
    for at in range(5):
        for operation in ("Abs", "Relu", "Tanh", "Neg", "Sin"):
            model = onnx.load("plain.onnx")
            nodes, value = model.graph.node, model.graph.node[at].output[0]
            # named anew where it comes out, so that all that followed takes what the extra node gives
            nodes[at].output[0] = "before"
            nodes.insert(at + 1, onnx.helper.make_node(operation, ["before"], [value]))
            onnx.save(model, "changed.onnx")
            source = open_onnx(Path("changed.onnx"), Reading(), BOUNDS, obs)
            assert source.adopted is None, f"{operation} after node {at}"
    assert source.run(obs)[0].shape == (50, 2)


def test_weights_that_act_otherwise_on_visited_states_are_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = actor()
    write_own_onnx(nn.Sequential(nn.Hardtanh(-0.05, 0.05), *net), "their.onnx")
    # a mistake of ours: the clip is overlooked, and no state is tried that shows it
    layers = [Linear(layer.weight, layer.bias) for layer in net[::2]]
    monkeypatch.setattr(
        "harden.policies.onnx_file._adopted", lambda model, bounds: make_policy(layers, bounds)
    )
    monkeypatch.setattr("harden.policies.open.probe_observations", lambda size: 0.04 * torch.rand(50, size))
    assert not isinstance(open_policy("their.onnx", CONFIG, Reporter(True)).policy, OpaquePolicy)
    evaluation = harden_package.evaluate("their.onnx", "random", episodes=1)
    assert evaluation["policy"]["how"].startswith("asked for actions only")


def test_actions_that_are_clipped_are_no_secret(folder: Path) -> None:
    class Newtons(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = actor()

        def forward(self, obs: Tensor) -> Tensor:
            return 40 * self.net(obs)

    write_own_onnx(Newtons(), "their.onnx")
    words = ["--out", "mine", "--data", "data", "--quiet", *QUICK]
    said = harden("policy", "import", "their.onnx", *words).output
    assert "warning" in said
    assert "[-1, 1]" in said
    assert "clipped" in load_policy("mine").manifest["imported"]["clipped"]


def test_a_distillation_that_is_far_off_is_a_failure(folder: Path) -> None:
    class Wild(nn.Module):
        def forward(self, obs: Tensor) -> Tensor:
            return torch.sin(900 * obs[:, :2])

    script(Wild(), "their.pt")
    said = refused("policy", "import", "their.pt", "--out", "mine", "--data", "data", "--quiet", *QUICK)
    assert "% of the action range" in said
    assert not Path("mine").exists()


class Remembers(nn.Module):
    """A policy that stacks its last observation by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(1, 8))
        self.net = nn.Linear(16, 2)

    def forward(self, obs: Tensor) -> Tensor:
        """Return the action."""
        stacked = torch.cat((obs, self.last.expand(obs.shape[0], 8)), 1)
        self.last = obs[-1:]
        return torch.tanh(self.net(stacked))


class Recurrent(nn.Module):
    """A policy whose state goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(8, 6), nn.Linear(6, 2)

    def forward(self, obs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return action and state."""
        state = self.cell(obs, state)
        return torch.tanh(self.head(state)), state


def test_recurrent_and_stacked_policies_are_called_so(folder: Path) -> None:
    script(Remembers(), "remembers.pt")
    script(Recurrent(), "recurrent.pt")
    given = (torch.zeros(1, 8), torch.zeros(1, 6))
    torch.onnx.export(Recurrent(), given, "recurrent.onnx", verbose=False)
    stacked_onnx("stacked.onnx", [1, 4, 8])
    stacked_onnx("flat.onnx", [1, 32])
    for name in ("remembers.pt", "recurrent.pt", "recurrent.onnx", "stacked.onnx", "flat.onnx"):
        said = refused("policy", "import", name, "--out", "mine", "--data", "data", "--quiet")
        assert ("recurrent" if "re" in name else "stacked") in said
        assert "one observation alone" in said


def stacked_onnx(path: str, shape: list[int | str] | None, features: int = 8, kind: Any = np.float32) -> None:
    """Write an ONNX policy with an input of some shape: tanh of the sum of its coordinates."""
    of = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    size = shape[-1] if shape and isinstance(shape[-1], int) else features
    weight = onnx.numpy_helper.from_array(np.full((size, 2), 0.1, kind), "w")
    make = onnx.helper.make_node
    nodes = [make("MatMul", ["x", "w"], ["h"]), make("Tanh", ["h"], ["y"])]
    ends = [onnx.helper.make_tensor_value_info(n, of, s) for n, s in (("x", shape), ("y", None))]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


@pytest.mark.parametrize(
    "shape",
    [["b", 8], ["b", "n"], [1, 8], [1, "n"], [8], ["n"], [7, 8], ["b", 1, 8], [1, 1, 8], ["b", "t", 8], None],
)
def test_an_onnx_policy_takes_observations_in_whatever_shape(folder: Path, shape: Any) -> None:
    stacked_onnx("their.onnx", shape)
    obs = torch.randn(20, 8)
    policy = open_policy("their.onnx", CONFIG, Reporter(True)).policy
    wanted = torch.tanh(0.1 * obs.sum(1, keepdim=True)).expand(-1, 2)
    torch.testing.assert_close(policy.mean(obs), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "shape", [[1, 7], ["b", 7], [7], [1, 4, 8], ["b", 4, 8], [4, 4, 8], [1, 16], [2, 3, 8, 8]]
)
def test_an_onnx_policy_of_other_shapes_is_refused_in_one_line(folder: Path, shape: Any) -> None:
    stacked_onnx("their.onnx", shape)
    for words in (
        ["policy", "import", "their.onnx", "--out", "mine"],
        ["evaluate", "--policy", "their.onnx"],
    ):
        said = refused(*words)
        assert "their.onnx" in said
        assert str(shape[-1]) in said


def odd_onnx(path: str, nodes: list[Any], *weights: Any, result: int = onnx.TensorProto.FLOAT) -> None:
    """Write an ONNX file that takes observations of 8 coordinates."""
    ends = [("x", onnx.TensorProto.FLOAT, ["b", 8]), ("y", result, None)]
    infos = [onnx.helper.make_tensor_value_info(*end) for end in ends]
    held = [onnx.numpy_helper.from_array(value, name) for name, value in weights]
    graph = onnx.helper.make_graph(nodes, "g", infos[:1], infos[1:], held)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def test_an_onnx_file_without_an_end_or_a_limit_is_stopped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harden.policies.foreign.SECONDS", 1)
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kinds, anything = onnx.TensorProto, ["b", 2]
    body = onnx.helper.make_graph(
        [make("Identity", ["go"], ["on"]), make("Identity", ["v"], ["w"])],
        "body",
        [info("i", kinds.INT64, []), info("go", kinds.BOOL, []), info("v", kinds.FLOAT, anything)],
        [info("on", kinds.BOOL, []), info("w", kinds.FLOAT, anything)],
    )
    weight, go = ("m", np.zeros((8, 2), "f4")), ("t", np.array(True))
    product = make("MatMul", ["x", "m"], ["h"])
    odd_onnx("endless.onnx", [product, make("Loop", ["", "t", "h"], ["y"], body=body)], weight, go)
    huge = [make("ConstantOfShape", ["s"], ["z"]), make("ReduceSum", ["z"], ["r"], keepdims=0)]
    size = ("s", np.array([2**40]))
    odd_onnx("huge.onnx", [*huge, product, make("Add", ["h", "r"], ["y"])], weight, size)
    # as large as what is asked for, and no more than a loader may fold
    wide = [make("Shape", ["x"], ["n"]), make("Mul", ["n", "s"], ["k"]), make("Expand", ["e", "k"], ["y"])]
    odd_onnx("wide.onnx", wide, ("e", np.zeros((1, 1), "f4")), ("s", np.array([1, 2**32])))
    for name in ("endless.onnx", "huge.onnx", "wide.onnx"):
        began = time.monotonic()
        assert name in refused("policy", "import", name, "--out", "mine")
        assert time.monotonic() - began < 20


class Endless(nn.Module):
    """A policy that does not end where an observation is above 0.9."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return two actions, or nothing."""
        while bool((obs > 0.9).any()):
            obs = obs + 1
        return obs[:, :2]


class Hungry(nn.Module):
    """A policy that takes 8 GiB."""

    def forward(self, obs: Tensor) -> Tensor:
        """Return two actions."""
        return torch.zeros(2147483648).sum() + obs[:, :2]


def test_a_program_without_an_end_or_a_limit_is_stopped_before_it_runs_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harden.policies.foreign.SECONDS", 3)
    monkeypatch.setattr("harden.policies.foreign.call_limited", call_limited)
    script(Endless(), "endless.pt")
    script(Hungry(), "hungry.pt")
    for name in ("endless.pt", "hungry.pt"):
        for words in (
            ["policy", "import", name, "--out", "mine", "--data", "data", "--quiet"],
            ["evaluate", "--policy", name, "--quiet"],
        ):
            assert name in refused(*words)
    assert not Path("mine").exists()


def test_an_onnx_file_that_gives_no_numbers_is_refused(folder: Path) -> None:
    make, kinds, weight = onnx.helper.make_node, onnx.TensorProto, ("m", np.ones((8, 2), "f4"))
    product = make("MatMul", ["x", "m"], ["h"])
    odd_onnx("classes.onnx", [product, make("ArgMax", ["h"], ["y"], axis=1)], weight, result=kinds.INT64)
    odd_onnx("truth.onnx", [product, make("Greater", ["h", "h"], ["y"])], weight, result=kinds.BOOL)
    odd_onnx("logarithm.onnx", [product, make("Log", ["h"], ["y"])], weight)
    odd_onnx("none.onnx", [product, make("ReduceSum", ["h"], ["y"], keepdims=0)], weight)
    for name in ("classes.onnx", "truth.onnx", "logarithm.onnx", "none.onnx"):
        assert name in refused("policy", "import", name, "--out", "mine", "--data", "data")


def test_nothing_but_the_file_is_written_by_an_export(folder: Path) -> None:
    for name in ("home", "temporary", "made"):
        Path(name).mkdir()
    places = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "PYTHONPATH": str(ROOT)}
    # of fonts, which whatever imports matplotlib keeps
    places["MPLCONFIGDIR"] = str(folder / "fonts")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("ORT_", "XDG_"))}
    words = ["policy", "export", str(RELEASED), "--to", "onnx", "--out", "made/policy.onnx"]
    command = [sys.executable, "-m", "harden", *words]
    subprocess.run(command, check=True, env=inherited | places, capture_output=True)
    assert not [*Path("home").rglob("*"), *Path("temporary").rglob("*")]
    assert [path.name for path in Path("made").iterdir()] == ["policy.onnx"]


def test_a_policy_that_is_there_stays(folder: Path) -> None:
    harden("policy", "export", str(RELEASED), "--to", "safetensors", "--out", "policy.safetensors")
    harden("policy", "import", "policy.safetensors", "--out", "mine")
    before = Path("mine/policy.safetensors").read_bytes()
    script(actor(), "their.pt")
    assert "--overwrite" in refused("policy", "import", "their.pt", "--out", "mine", "--quiet")
    assert Path("mine/policy.safetensors").read_bytes() == before
    harden("policy", "import", "their.pt", "--out", "mine", "--quiet", "--overwrite")
    assert Path("mine/policy.safetensors").read_bytes() != before


def test_info_says_what_a_folder_holds(folder: Path) -> None:
    said = harden("policy", "info", str(RELEASED)).output
    loaded: LoadedPolicy = load_policy(RELEASED)
    count = sum(weights.numel() for weights in loaded.policy.parameters())
    for text in (
        "8 x 128 x 128 x 2",
        f"{count:,} parameters",
        "ball-circle",
        "cvpo",
        "2 of reward, 1 of cost",
    ):
        assert text in said
    for digest in ("policy_digest", "critics_digest"):
        assert loaded.manifest[digest] in said
    save_policy(Path("bare"), loaded.policy, None, {})
    assert "fit-critics" in harden("policy", "info", "bare").output
    assert "nowhere is missing" in refused("policy", "info", "nowhere")
