"""Whatever bytes a reader is given, only harden's own errors come out of it, in one line each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from harden.config.pipeline import make_config
from harden.data import (
    Dataset,
    DatasetWriter,
    ImportOptions,
    TargetsHeader,
    export_data,
    parse_columns,
    read_log,
    read_targets,
    write_targets,
)
from harden.data.convert import detect_format
from harden.errors import HardenError
from harden.method.learner import new_learner
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import load_policy, save_policy
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
    "lerobot": 10_000,
}
EXAMPLES = Path(__file__).parent / "fixtures/logs"
MAPS = {
    "robomimic": "obs=obs/*,action=actions,reward=rewards,cost=costs,next_obs=next_obs/*",
    "csv": "obs=o_*,action=a_*,reward=r,cost=speeding,episode=ep",
}
MAPS["parquet"] = MAPS["csv"] + ",step=t,terminal=crashed"
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
        if kind == "lerobot":
            shutil.copytree(EXAMPLES / "lerobot-2", folder / "lerobot")
            self.file = folder / "lerobot/meta/info.json"
            return lambda: _convert(folder / "lerobot", "lerobot")
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
