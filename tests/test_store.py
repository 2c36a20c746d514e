"""The store by round trip, by damage, and by being killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule

from harden.config.tasks import TASKS
from harden.data.dataset import Dataset, DatasetWriter, open_dataset
from harden.data.edit import repair
from harden.data.manifest import installed
from harden.data.shard import read_shard
from harden.errors import DamagedFileError, HardenError, InputError, MissingInputError, StorageError
from harden.training.trainer import fit, make_trainer
from harden.types import Transitions
from support.damage import DAMAGE
from support.transitions import HOW, TASK, make, same


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A data set of three shards, 4 + 3 + 5 rows."""
    with DatasetWriter(tmp_path / "set", TASK) as writer:
        for lengths, start in (([3, 1], 0), ([3], 4), ([2, 3], 7)):
            writer.append(make(lengths, start), **HOW)
    return tmp_path / "set"


def test_round_trip_and_reads_across_shards(stored: Path) -> None:
    dataset = open_dataset(stored, TASK)
    everything = make([3, 1, 3, 2, 3])
    assert same(dataset.read(0, 12), everything)
    for first, last in ((0, 1), (2, 9), (4, 7), (11, 12)):
        assert same(dataset.read(first, last), Transitions(*(column[first:last] for column in everything)))
    assert same(dataset.recent(6), Transitions(*(column[6:] for column in everything)))
    assert len(dataset.recent(99)) == len(everything)
    assert dataset.verify() == []


def test_manifest_and_attributes_are_as_designed(stored: Path) -> None:
    manifest = json.loads((stored / "manifest.json").read_text())
    assert [shard["transitions"] for shard in manifest["shards"]] == [4, 3, 5]
    assert manifest["shards"][0]["reward"] == 60.0
    assert manifest["shards"][0]["episodes"] == 2
    with h5py.File(stored / "shard-00000.h5") as file:
        assert file.attrs["env_id"] == "SafetyBallCircle-v0"
        assert file.attrs["horizon"] == 200
        assert file.attrs["behaviour"] == "policy-sample"
        assert file["observations"].dtype == np.float32
        assert file["terminals"].dtype == bool
        assert file["next_observations"].shape == (4, 8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4), st.booleans())
def test_any_episodes_come_back(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[int]], end: bool
) -> None:
    path = tmp_path_factory.mktemp("set")
    start, written = 0, []
    with DatasetWriter(path, TASK) as writer:
        for lengths in shards:
            written.append(make(lengths, start, end))
            writer.append(written[-1], **HOW)
            start += sum(lengths)
    dataset = Dataset(path)
    whole = Transitions(*(torch.cat(columns) for columns in zip(*written, strict=True)))
    assert same(dataset.read(0, start), whole)
    assert dataset.info.episodes == sum(len(lengths) for lengths in shards)


def test_a_single_file_is_a_data_set(stored: Path) -> None:
    dataset = open_dataset(stored / "shard-00001.h5", TASK)
    assert same(dataset.read(0, 3), make([3], 4))
    assert dataset.info.shards[0].behaviour == "policy-sample"


def test_a_foreign_file_without_attributes_is_a_data_set(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.h5", "w") as file:
        data = make([3, 2])
        names = ("observations", "actions", "rewards", "costs", "next_observations", "terminals", "timeouts")
        for name, column in zip(names, data, strict=True):
            file[name] = column.numpy()
    dataset = open_dataset(tmp_path / "d.h5", TASK)
    assert dataset.info.shards[0].behaviour == "imported"
    assert same(dataset.recent(9), data)


def test_a_shard_that_a_crash_kept_from_the_manifest_is_taken_in(stored: Path) -> None:
    manifest = json.loads((stored / "manifest.json").read_text())
    manifest["shards"].pop()
    (stored / "manifest.json").write_text(json.dumps(manifest))
    (stored / f".harden-{7:016}.tmp").write_bytes(b"half")
    assert len(Dataset(stored)) == 7
    with DatasetWriter(stored, TASK) as writer:
        assert writer.info.transitions == 12
    assert len(Dataset(stored)) == 12
    assert not list(stored.glob(".*.tmp"))


_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from harden.data.dataset import DatasetWriter
from support.transitions import HOW, TASK, make
with DatasetWriter(Path(sys.argv[1]), TASK) as writer:
    while True:
        writer.append(make([3, 2]), **HOW)
        print(writer.info.transitions, flush=True)
"""


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_kill_9_loses_nothing_acknowledged(tmp_path: Path, delay: float) -> None:
    script = _WRITER.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    said = process.stdout.read().split()
    process.wait()
    acknowledged = int(said[-1]) if said else 5
    with DatasetWriter(tmp_path, TASK) as writer:
        assert writer.info.transitions >= acknowledged
        writer.append(make([1]), **HOW)
    assert Dataset(tmp_path).verify() == []


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_a_full_disk_stops_and_damages_nothing(
    stored: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with DatasetWriter(stored, TASK) as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, where.split(".")[-1], full)
            with pytest.raises(StorageError, match="no room left"):
                writer.append(make([4]), **HOW)
        assert len(Dataset(stored)) == 12
        assert Dataset(stored).verify() == []
        assert not list(stored.glob(".*.tmp"))
        writer.append(make([4]), **HOW)
    assert len(Dataset(stored)) == 16


_LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from harden.cli import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "words",
    [
        "collect --episodes 6 --set collect.workers=0 --out set",
        "data export set --to dsrl --out out/all.h5",
        "data export set --to minari --out out/all-v0",
        "data merge set --out out/all",
    ],
)
def test_a_process_without_room_ends_with_one_line(stored: Path, words: str) -> None:
    # each file may have so many bytes: no clean error of a patched function, but HDF5's own in all its places
    with DatasetWriter(stored, TASK) as writer:
        writer.append(make([200] * 3, 12), **HOW)
    before = Dataset(stored).info
    command = [sys.executable, "-c", _LIMITED, "40000", *words.split()]
    done = subprocess.run(command, cwd=stored.parent, capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode in (1, 2), done.stderr
    assert len(errors) == 1
    assert "no room left on the disk" in errors[0]
    assert not any(alarm in done.stderr for alarm in ("Traceback", "Exception", "Errno", "HDF5"))
    assert Dataset(stored).info == before
    assert Dataset(stored).verify() == []
    assert not [
        path
        for path in stored.parent.rglob("*")
        if path.name.endswith((".tmp", ".h5", ".hdf5")) and path.parent != stored
    ]
    assert not list(stored.parent.rglob(".*.tmp"))


class _Job(LightningModule):
    """Logs each step, and learns nothing."""

    def training_step(self, batch: torch.Tensor, index: int) -> None:
        self.logger.experiment.log_metrics({"batch": float(batch)}, index)
        self.logger.save()

    def configure_optimizers(self) -> None:
        return None


@pytest.mark.parametrize("where", ["store", "log"])
def test_a_log_without_room_is_one_line_and_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def source() -> Iterator[torch.Tensor]:
        yield torch.zeros(())
        monkeypatch.setattr("lightning.fabric.loggers.csv_logs._ExperimentWriter.save", full)
        if where == "store":
            raise StorageError("no room left on the disk while writing a shard")
        yield torch.ones(())

    trainer = make_trainer(tmp_path, torch.device("cpu"), "policy", 0)
    with pytest.raises(
        StorageError, match="writing a shard" if where == "store" else "writing .*logs/policy"
    ):
        fit(trainer, _Job(), source())


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="can't write"):
        DatasetWriter(tmp_path / "file" / "set", TASK)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("behaviour", "mc"),
        ("reward", 61.0),
        ("cost", 3),
        ("episodes", 1),
        ("transitions", 3),
        ("seed", 4),
        ("policy_digest", "abd"),
        ("sha256", "0" * 64),
    ],
)
def test_a_changed_entry_of_the_manifest_is_found_and_mended(stored: Path, field: str, value: object) -> None:
    before = (stored / "manifest.json").read_text()
    manifest = json.loads(before)
    manifest["shards"][0][field] = value
    (stored / "manifest.json").write_text(json.dumps(manifest))
    (problem,) = Dataset(stored).verify()
    assert "shard-00000.h5" in problem
    if field == "sha256":
        assert "checksum" in problem
        return
    assert f"{field} " in problem
    assert f"the manifest lists {value!r}" in problem
    repair(stored)
    assert (stored / "manifest.json").read_text() == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizon", 201),
        ("env_id", "SafetyBallCircle-v1"),
        ("obs_dim", 9),
        ("act_dim", 1),
    ],
)
def test_a_changed_kind_of_the_manifest_is_found(stored: Path, field: str, value: object) -> None:
    before = (stored / "manifest.json").read_text()
    (stored / "manifest.json").write_text(json.dumps(json.loads(before) | {field: value}))
    problems = Dataset(stored).verify()
    assert len(problems) == 3
    assert all(field in problem and str(value) in problem for problem in problems)
    # every shard has the checksum that the manifest lists: none of them is set aside for it
    with pytest.raises(InputError, match=rf"manifest.*{field}"):
        repair(stored)
    assert len(list(stored.glob("shard-*.h5"))) == 3
    (stored / "manifest.json").unlink()
    done = repair(stored)
    assert (done.aside, done.lost, done.taken_in) == ([], [], [])
    assert (stored / "manifest.json").read_text() == before


def test_sums_that_another_order_rounds_otherwise_are_the_same(stored: Path) -> None:
    manifest = json.loads((stored / "manifest.json").read_text())
    manifest["shards"][0]["reward"] *= 1 + 1e-14
    (stored / "manifest.json").write_text(json.dumps(manifest))
    assert Dataset(stored).verify() == []


@pytest.mark.parametrize("name", ["shard-00001.h5", "other.h5"])
def test_a_single_file_has_a_checksum_where_the_manifest_beside_it_lists_it(stored: Path, name: str) -> None:
    listed = name == "shard-00001.h5"
    (stored / "shard-00001.h5").rename(stored / name)
    dataset = Dataset(stored / name)
    assert dataset.has_manifest == listed
    assert dataset.verify() == dataset.unlisted() == []


def test_shards_that_are_not_listed_or_lie_elsewhere_are_said(stored: Path) -> None:
    assert Dataset(stored).unlisted() == []
    shutil.copy(stored / "shard-00002.h5", stored / "shard-00009.h5")
    (said,) = Dataset(stored).unlisted()
    assert "shard-00009.h5 is not listed in the manifest" in said
    assert Dataset(stored).verify() == []
    (stored / "shard-00009.h5").unlink()
    (stored / "shard-00001.h5").rename(stored.parent / "elsewhere.h5")
    (stored / "shard-00001.h5").symlink_to(stored.parent / "elsewhere.h5")
    (said,) = Dataset(stored).verify()
    assert "shard-00001.h5 is a link" in said
    assert len(repair(stored).aside) == 1
    assert Dataset(stored).verify() == []
    assert (stored.parent / "elsewhere.h5").is_file()


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_clear_line(stored: Path, kind: str) -> None:
    path = stored / "shard-00000.h5"
    DAMAGE[kind](path)
    for read in (lambda: read_shard(path), lambda: Dataset(stored).read(0, 12)):
        with pytest.raises(InputError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert "shard-00000.h5" in str(caught.value)
        assert caught.value.exit_code == 2
    assert Dataset(stored).verify()
    assert same(Dataset(stored).read(4, 12), make([3, 2, 3], 4))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format_version": 9}', "null", "[" * 100_000])
def test_a_broken_manifest_is_refused(stored: Path, text: str) -> None:
    (stored / "manifest.json").write_text(text)
    with pytest.raises(DamagedFileError):
        Dataset(stored)


def test_data_of_another_task_is_refused(stored: Path) -> None:
    with pytest.raises(InputError, match=r"horizon 200.*has 300|env_id"):
        open_dataset(stored, TASKS["car-circle"])
    with pytest.raises(InputError, match=r"obs_dim 8.*has 33"):
        open_dataset(stored, TASKS["ant-run"])
    with pytest.raises(InputError, match=r"horizon 200, task 'ball-circle' has 150"):
        open_dataset(stored, TASK._replace(horizon=150))
    with pytest.raises(InputError):
        DatasetWriter(stored, TASKS["ant-run"])


def test_missing_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="harden collect"):
        open_dataset(tmp_path / "none")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d._replace(rewards=d.rewards * float("nan")),
        lambda d: d._replace(costs=d.costs - 5),
        lambda d: d._replace(terminals=d.timeouts.clone()),
        lambda d: d._replace(timeouts=torch.zeros_like(d.timeouts)),
        lambda d: d._replace(obs=d.obs[:, :3]),
    ],
)
def test_what_may_not_be_stored_is_not(tmp_path: Path, spoil: object) -> None:
    with DatasetWriter(tmp_path, TASK) as writer, pytest.raises(HardenError):
        writer.append(spoil(make([3])), **HOW)  # type: ignore[operator]
    assert not list(tmp_path.glob("*.h5"))


def test_a_library_that_is_not_installed_has_no_version() -> None:
    assert list(installed("harden", "a-library-that-nobody-wrote", "h5py")) == ["harden", "h5py"]
