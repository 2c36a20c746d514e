"""Whatever bytes a reader is given, only harden's own errors come out of it, in one line each."""

from __future__ import annotations

import functools
import importlib
import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx

# a log is read in a fork of this process, which would import it again for each
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet  # noqa: F401
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import nn

from harden.config.file import find_pipeline, load_config
from harden.config.pipeline import make_config
from harden.data.convert import detect_format, export_data, read_log
from harden.data.dataset import Dataset, DatasetWriter
from harden.data.formats.columns import parse_columns
from harden.data.formats.log import ImportOptions
from harden.data.targets import TargetsHeader, read_targets, write_targets
from harden.errors import DamagedFileError, HardenError
from harden.method.learner import new_learner
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import load_policy, save_policy
from harden.policies.foreign import probe_observations
from harden.policies.open import try_foreign
from harden.policies.reading import Reading
from harden.progress import QUIET
from harden.storage.tensor_file import read_tensors, write_tensors
from harden.training.state import load_state, save_state
from harden.types import Targets
from support.mutations import json_mutations, model_mutations, mutations
from support.transitions import DATA, HOW, TASK, make, write_flat

# how many inputs each reader has to stand
INPUTS = {
    "shard": 20_000,
    "manifest": 20_000,
    "targets": 15_000,
    "policy": 5_000,
    "state": 5_000,
    "d4rl": 10_000,
    "minari": 10_000,
    "metadata": 5_000,
    "dsrl": 10_000,
    "robomimic": 10_000,
    "csv": 10_000,
    "parquet": 10_000,
    "npz": 10_000,
    "files": 10_000,
    "names": 10_000,
    "lerobot": 10_000,
    "episode": 10_000,
    "onnx": 10_000,
    "torchscript": 10_000,
    "sb3": 10_000,
    "weights": 10_000,
    "safetensors": 10_000,
}
EXAMPLES = Path(__file__).parent / "fixtures/logs"
POLICIES = {"sb3": "sb3-ppo.zip", "weights": "sb3-sac.zip", "safetensors": "rsl-rl-5.safetensors"}
MAPS = {
    "robomimic": "obs=obs/*,action=actions,reward=rewards,cost=costs,next_obs=next_obs/*",
    "csv": "obs=o_*,action=a_*,reward=r,cost=speeding,episode=ep",
}
MAPS["names"] = "obs=robot/state,action=robot/u,reward=r,cost=c,timeout=last"
MAPS["parquet"] = MAPS["csv"] + ",step=t,terminal=crashed"
BALL = load_config(find_pipeline(Path("ball-circle")))
_BATCH = 1000


def _targets(path: Path) -> None:
    obs, weights = torch.zeros(3, 2), torch.full((3, 2), 0.5)
    values = Targets(obs, torch.zeros(3, 2, 1), weights, torch.zeros(3, 1), torch.ones(3, 1))
    write_targets(path, values, TargetsHeader(*[1.0] * 7, "feasible", 0, 0, "a", "b", "c", "{}", 0.1, True))


def _convert(path: Path, source: str, columns: str = "") -> None:
    detect_format(path)
    read_log(path, source, ImportOptions(parse_columns([columns]), horizon=5, at_horizon="terminal"))


def _everything(path: Path) -> None:
    dataset = Dataset(path)
    dataset.read(0, min(len(dataset), 99))
    dataset.verify()


class Here:
    """A child process for a policy file, in this process: a child takes seconds to start."""

    def __init__(self, path: Path, library: str) -> None:
        self.path = path
        importlib.import_module(library)

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a function makes of the file."""
        return function(self.path, *arguments)

    def close(self) -> None:
        """There is nothing to end."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open policy files in this process."""
    for module in ("foreign", "onnx_file"):
        monkeypatch.setattr(f"harden.policies.{module}.LimitedProcess", Here)


@functools.cache
def _written(kind: str) -> bytes:
    """Return a policy file for ball-circle as its own library writes it."""
    if kind in POLICIES:
        return (EXAMPLES.parent / "policies" / POLICIES[kind]).read_bytes()
    if kind == "torchscript":
        content = io.BytesIO()
        torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(8, 2), nn.Tanh())), content)
        return content.getvalue()
    make, weight = onnx.helper, onnx.numpy_helper.from_array(np.eye(2, 8, dtype=np.float32), "w")
    nodes = [make.make_node("Gemm", ["state", "w"], ["h"], transB=1), make.make_node("Tanh", ["h"], ["a"])]
    ends = (make.make_tensor_value_info(name, 1, ["batch", size]) for name, size in (("state", 8), ("a", 2)))
    graph = make.make_graph(nodes, "g", [next(ends)], [next(ends)], [weight])
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _policy(path: Path, kind: str) -> None:
    try_foreign(path, Reading(kind), BALL, probe_observations(8), QUIET)


def _zipped(path: Path) -> None:
    """Read weights in a zip of their own, whose sums are right: the numbers are what is spoiled."""
    with (
        zipfile.ZipFile(io.BytesIO(_written("weights"))) as whole,
        zipfile.ZipFile(path.with_suffix(".zip"), "w") as copy,
    ):
        for entry in whole.namelist():
            copy.writestr(entry, path.read_bytes() if entry == "policy.pth" else whole.read(entry))
    _policy(path.with_suffix(".zip"), "sb3")


class Reader:
    """A file that a reader takes, and what reads it.

    Args:
        folder: where a whole one is made.
        kind: one of INPUTS.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.file = folder / "file.h5"
        self.read = self._named(folder, kind)
        self.whole = self.file.read_bytes()
        self.read()

    def _named(self, folder: Path, kind: str) -> Callable[[], object]:
        path = self.file
        if kind == "policy":
            save_policy(folder, GaussianPolicy(3, 2, hidden=(4,)), Critics(3, 2, hidden=(4,)), {})
            self.file = folder / "policy.safetensors"
            return lambda: load_policy(folder)
        if kind == "state":
            config = make_config({"networks": {"policy_hidden": [4], "critic_hidden": [4]}})
            device = torch.device("cpu")
            self.file = path = folder / "state.safetensors"
            save_state(path, new_learner(config, device), {"task": config.task})
            return lambda: load_state(path, config, device)
        if kind == "targets":
            _targets(path)
            return lambda: read_targets(path)
        if kind == "d4rl":
            write_flat(path, DATA, without=("next_observations", "timeouts"))
            return lambda: _convert(path, "hdf5")
        example = {"csv": "table.csv", "parquet": "table.parquet", "npz": "arrays/run_8.npz"}
        if kind in (*example, "robomimic"):
            shutil.copyfile(EXAMPLES / example.get(kind, "robomimic.hdf5"), path)
            return lambda: _convert(path, "hdf5" if kind == "robomimic" else kind, MAPS.get(kind, ""))
        if kind in ("lerobot", "episode"):
            shutil.copytree(EXAMPLES / "lerobot-2", folder / "lerobot")
            data = "meta/info.json" if kind == "lerobot" else "data/chunk-000/episode_000001.parquet"
            self.file = folder / "lerobot" / data
            return lambda: _convert(folder / "lerobot", "lerobot")
        if kind == "files":
            shutil.copytree(EXAMPLES / "arrays", folder / "arrays")
            self.file = folder / "arrays/run_9.npz"
            return lambda: _convert(folder / "arrays", "npz")
        if kind == "names":
            with h5py.File(path, "w") as file:
                file["robot/state"], file["robot/u"] = np.eye(6, 3), np.eye(6, 2)
                file["r"], file["c"], file["last"] = np.arange(6.0), np.zeros(6), np.arange(6) % 3 == 2
            return lambda: _convert(path, "hdf5", MAPS[kind])
        if kind == "weights":
            with zipfile.ZipFile(io.BytesIO(_written(kind))) as archive:
                path.write_bytes(archive.read("policy.pth"))
            return lambda: _zipped(path)
        if kind in ("onnx", "torchscript", *POLICIES):
            path.write_bytes(_written(kind))
            return lambda: _policy(path, kind)
        with DatasetWriter(folder / "set", TASK) as writer:
            writer.append(make([2, 1]), **HOW)
            writer.append(make([1], 3), **HOW | {"seed": 4})
        if kind == "shard":
            shutil.copyfile(folder / "set/shard-00000.h5", path)
            return lambda: _everything(path)
        if kind == "dsrl":
            export_data(folder / "set", folder / "all.h5", "dsrl")
            os.rename(folder / "all.h5", path)
            return lambda: _convert(path, "hdf5")
        if kind == "manifest":
            self.file = folder / "set/manifest.json"
            return lambda: _everything(folder / "set")
        export_data(folder / "set", folder / "out-v0", "minari")
        self.file = folder / "out-v0/data" / ("metadata.json" if kind == "metadata" else "main_data.hdf5")
        return lambda: _convert(folder / "out-v0", "minari")

    def try_bytes(self, content: bytes) -> bool:
        """Return whether the reader takes these bytes; anything but our own error fails the test."""
        self.file.write_bytes(content)
        try:
            self.read()
        except HardenError as error:
            if "\n" in str(error):
                raise AssertionError(f"more than one line: {error}") from error
            return False
        return True


def fuzz(folder: Path, kind: str, inputs: int, start: int = 0) -> tuple[int, int]:
    """Give a reader many inputs; returns how many there were and how many it took."""
    folder.mkdir(exist_ok=True)
    reader = Reader(folder, kind)
    strategies = {".json": json_mutations, ".safetensors": model_mutations}
    strategy = strategies.get(reader.file.suffix, mutations)
    count = taken = 0

    @seed(start)
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy(reader.whole))
    def run(content: bytes) -> None:
        nonlocal count, taken
        count += 1
        taken += reader.try_bytes(content)

    run()
    return count, taken


@pytest.mark.parametrize("kind", INPUTS)
def test_a_few_inputs(tmp_path: Path, kind: str) -> None:
    count, taken = fuzz(tmp_path, kind, 60)
    assert count >= 60
    assert taken < count, "some inputs must be bad ones"


def test_a_name_that_is_no_text_makes_an_onnx_file_a_damaged_one(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "onnx")
    reader.file.write_bytes(reader.whole.replace(b"state", b"\xffstat"))
    with pytest.raises(DamagedFileError):
        reader.read()


@pytest.mark.parametrize("kind", ["policy", "state"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden", [10**9]),
        ("hidden", [10**5, 10**5]),
        ("hidden", [4] * 10**5),
        ("obs_dim", 10**10),
        ("act_dim", 10**10),
        ("obs_dim", [0]),
        ("hidden", -3),
    ],
)
def test_no_memory_is_taken_for_more_than_the_stored_weights(
    tmp_path: Path, kind: str, key: str, value: Any
) -> None:
    reader = Reader(tmp_path, kind)
    tensors, about = read_tensors(reader.file, "x")
    for part in ("policy", "critics"):
        changed = about | {part: about[part] | {key: value}}
        write_tensors(reader.file, tensors, changed)
        with pytest.raises(HardenError, match=r"do not fit|not a complete"):
            reader.read()
    if key == "obs_dim":
        write_tensors(reader.file, tensors, about | {"critics": about["critics"] | {"reward_count": 10**9}})
        with pytest.raises(HardenError, match=r"do not fit|not a complete"):
            reader.read()


@pytest.mark.slow
@pytest.mark.parametrize("kind", INPUTS)
def test_its_share_of_a_hundred_thousand_inputs(
    tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    wanted = INPUTS[kind]
    count = taken = batch = 0
    while count < wanted:
        # a seed and a folder each: the folder that is left says in which one a reader hangs
        batch += 1
        more, whole = fuzz(tmp_path / str(batch), kind, min(_BATCH, wanted - count), start=batch)
        count, taken = count + more, taken + whole
        shutil.rmtree(tmp_path / str(batch))
    assert taken < count
    record_property("inputs", {"tried": count, "taken": taken})


def test_the_fuzz_finds_a_reader_that_lets_others_errors_out(tmp_path: Path) -> None:
    reader = Reader(tmp_path, "targets")
    reader.read = lambda: h5py.File(reader.file)["weights"][()]  # as careless as can be
    with pytest.raises(Exception) as caught:  # noqa: PT011
        reader.try_bytes(reader.whole[:100])
    assert not isinstance(caught.value, HardenError)
