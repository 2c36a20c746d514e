"""Policies out to a robot and in from others: equal actions, or one line that says why not."""

from __future__ import annotations

import builtins
import copy
import json
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_bad_input import refused
from test_pipeline import harden
from torch import Tensor, nn

from harden.checkpoint import LoadedPolicy, load_policy, save_policy
from harden.data import DatasetWriter
from harden.errors import HardenError
from harden.exchange import export as export_module
from harden.exchange.torchscript import open_torchscript
from harden.nets import GaussianPolicy
from harden.pipeline_file import find_pipeline, load_config
from harden.progress import Reporter
from harden.stages.import_policy import import_policy
from harden.tasks import TASKS
from harden.types import Transitions

ROOT = Path(__file__).parents[1]
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
    return tmp_path


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
    if kind == "onnx":
        assert float(back.policy(obs)[1].detach().std()) < 1e-6, "an action alone brings no spread"
        assert "networks.init_std" in said
    else:
        assert back.about["policy_digest"] == original.about["policy_digest"]
    assert back.critics is None
    assert back.about["imported"]["exact"] is True
    assert back.about["variant"] == "imported"
    assert len(back.about["inputs"]["file"]) == 64


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
    act = export_module._reopen(kind, Path(FILES[kind]), policy)
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


def test_the_lines_in_the_readme_run_a_policy_with_onnxruntime_alone(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
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
    plain = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("onnx", "onnxscript", "onnxruntime"):
            raise ImportError(name)
        return plain(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
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
    assert "--data" in refused("policy", "import", *words, "--out", "mine")
    said = harden("policy", "import", *words, "--out", "mine", "--data", "data", *QUICK).output
    assert "distilled" in said
    found = load_policy("mine")
    assert found.about["imported"]["error"] < 0.1
    obs = found_obs()
    wanted = theirs(obs).clamp(-1, 1)
    error = (found.policy.mean(obs) - wanted).square().mean().sqrt()
    assert float(error.detach()) < 0.1 < 0.3 < float(wanted.detach().std()), "far better than a constant"


def found_obs() -> Tensor:
    """Return the data set's observations."""
    from harden.data import open_dataset

    return open_dataset(Path("data")).recent(1000).obs


def test_a_spread_of_its_own_is_kept_and_has_to_be_named(folder: Path) -> None:
    theirs = WithSpread(-1.2)
    script(theirs, "their.pt")
    assert "--spread std|log-std|none" in refused("policy", "import", "their.pt", "--out", "mine", "--quiet")
    said = harden(
        "policy", "import", "their.pt", "--out", "mine", "--spread", "log-std", "--data", "data"
    ).output
    assert "spread the file's" in said
    obs = torch.randn(50, 8)
    mean, std = load_policy("mine").policy(obs)
    torch.testing.assert_close(mean, theirs(obs)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.full_like(std, float(np.exp(-1.2))), atol=1e-5, rtol=0)
    script(WithSpread(-9.0), "narrow.pt")
    said = harden(
        "policy", "import", "narrow.pt", "--out", "floor", "--spread", "log-std", "--data", "data"
    ).output
    assert "kept inside our floor and ceiling" in said
    assert float(load_policy("floor").policy(obs)[1].detach().min()) >= 0.1


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
    said = harden("policy", "import", "their.pt", "--out", "mine", "--data", "data", *QUICK).output
    assert "taken over exactly" in said
    obs = torch.randn(20, 8)
    torch.testing.assert_close(load_policy("mine").policy.mean(obs), theirs(obs), atol=1e-5, rtol=0)
    # gradients flow through it as through a batch
    source = open_torchscript(Path("their.pt"), None)
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
    assert "another action each time" in refused("policy", "import", "drawn.pt", *words)
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
    assert ("safetensors.torch.save_file" in said) == (kind == "pickled" and path.suffix == ".pt")
    assert not Path("mine").exists()


@pytest.mark.parametrize("kind", FILES)
def test_spoiled_bytes_give_a_policy_or_one_of_our_errors(folder: Path, kind: str) -> None:
    path, config = Path(FILES[kind]), load_config(find_pipeline(Path("ball-circle")))
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
            import_policy(config, path, Path(f"out-{seed}"), report=Reporter(True))
        except HardenError:
            refusals += 1
            assert not Path(f"out-{seed}").exists()
    assert 0 < refusals < 40


def test_onnx_weights_outside_the_file_are_refused_before_they_are_followed(folder: Path) -> None:
    harden("policy", "export", str(RELEASED), "--to", "onnx", "--out", "policy.onnx")
    model = onnx.load("policy.onnx")
    tensor = model.graph.initializer[0]
    Path("weights.bin").write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location="weights.bin")
    tensor.ClearField("raw_data")
    Path("outside.onnx").write_bytes(model.SerializeToString())
    assert "keeps its numbers in another file" in refused("policy", "import", "outside.onnx", "--out", "mine")
    # as a constant inside a node, too
    other = onnx.load("policy.onnx")
    node = onnx.helper.make_node("Constant", [], ["unused"], value=tensor)
    other.graph.node.insert(0, node)
    Path("node.onnx").write_bytes(other.SerializeToString())
    assert "keeps its numbers in another file" in refused("policy", "import", "node.onnx", "--out", "mine")


def test_what_harden_wrote_into_a_file_is_checked_too(folder: Path) -> None:
    harden("policy", "export", str(RELEASED), "--to", "safetensors", "--out", "policy.safetensors")
    state = load_file("policy.safetensors")
    for policy in (
        {"low": [1, 1], "high": [-1, -1]},
        {"low": [-1] * 3},
        {"low": [-1, -1], "high": [1, 1]},
        7,
    ):
        save_file(state, "spoiled.safetensors", {"about": json.dumps({"policy": policy})})
        assert "damaged" in refused("policy", "import", "spoiled.safetensors", "--out", "mine")


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
        assert loaded.about[digest] in said
    save_policy(Path("bare"), loaded.policy, None, {})
    assert "fit-critics" in harden("policy", "info", "bare").output
    assert "policy folder nowhere is missing" in refused("policy", "info", "nowhere")
