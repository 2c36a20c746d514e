"""How a run begins and is gone on with: nothing that was there goes a moment too early, or for nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from harden.errors import InputError, StorageError
from harden.storage.folders import FolderLock
from harden.training import run as run_stage
from harden.training.workspace import Workspace
from support.commands import SETTINGS, harden, refused, stages

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/safer/"


def whole(folder: Path) -> dict[Path, bytes]:
    """Return every file below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a run and its data set."""
    monkeypatch.chdir(tmp_path)
    harden("train", *SETTINGS)
    return tmp_path


def test_on_a_full_disk_the_earlier_run_stands(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = whole(trained)

    def commit(*given: object, **changes: object) -> None:
        raise StorageError("no room left on the disk")

    monkeypatch.setattr(run_stage.Run, "commit", commit)
    assert "no room" in refused("train", *SETTINGS, "--overwrite")
    assert whole(trained) == before


@pytest.mark.parametrize("which", ["datasets", "checkpoints"])
def test_where_one_folder_may_not_go_neither_does(
    trained: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    before, plain = whole(trained), os.replace

    def replace(old: Path, new: Path) -> None:
        if Path(old).parent.name == which and not Path(old).name.startswith("."):
            raise PermissionError(errno.EACCES, "not yours", str(old))
        plain(old, new)

    monkeypatch.setattr(os, "replace", replace)
    assert "can't write" in refused("train", *SETTINGS, "--overwrite")
    assert whole(trained) == before


def test_data_that_another_process_writes_are_not_discarded(trained: Path) -> None:
    with FolderLock(Path("datasets/ball-circle")):
        before = whole(trained)
        assert "is being written by another process" in refused("train", *SETTINGS, "--overwrite")
    assert whole(trained) == before


def test_a_new_run_in_place_of_an_old_one_leaves_nothing_behind(trained: Path) -> None:
    olds = [Path(folder) / "ball-circle/of-the-old-one" for folder in ("datasets", "checkpoints")]
    for old in olds:
        old.touch()
    harden("train", *SETTINGS, "--overwrite")
    assert not any(old.exists() for old in olds)
    assert [path.name for path in trained.rglob(".*")] == [".lock"]


def test_what_a_killed_process_had_moved_aside_comes_back(trained: Path) -> None:
    before = whole(trained)
    Path("datasets/ball-circle").rename("datasets/.ball-circle.123.old")
    Path("checkpoints/ball-circle").rename("checkpoints/.ball-circle.123.old")
    moved = whole(trained)
    assert "holds an earlier run" in refused("train", *SETTINGS)
    assert whole(trained) == moved, "a refusal changes nothing"
    harden("train", *SETTINGS, "--resume")
    assert whole(trained) == before


def test_where_the_new_run_stands_the_old_one_goes(trained: Path) -> None:
    shutil.copytree("checkpoints/ball-circle", "checkpoints/.ball-circle.123.old")
    Path("datasets/ball-circle").rename("datasets/.ball-circle.123.old")
    harden("train", *SETTINGS, "--resume")
    assert not list(Path("datasets").rglob("*.h5")), "the old data go with the old run"
    assert not list(trained.rglob("*.old"))


@pytest.mark.parametrize("word", ["--overwrite", "--init=nowhere"])
def test_a_run_is_resumed_or_begun_anew_and_not_both(trained: Path, word: str) -> None:
    before = whole(trained)
    assert "--resume goes on from what is stored" in refused("train", *SETTINGS, "--resume", word)
    assert whole(trained) == before


def test_data_without_a_run_are_not_taken_for_one(trained: Path) -> None:
    shutil.rmtree("checkpoints")
    before = whole(trained)
    said = refused("train", *SETTINGS)
    assert "datasets/ball-circle holds data, and no run goes with them" in said
    assert "harden train --offline --data datasets/ball-circle" in said
    assert whole(trained) == before


def test_an_empty_data_folder_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with FolderLock(Path("datasets/ball-circle")):
        pass
    harden("train", *SETTINGS)


def test_stages_by_hand_leave_a_run_that_can_be_resumed(trained: Path) -> None:
    harden("collect", *SETTINGS, "--episodes", "1")
    harden("fit-critics", *SETTINGS, "--steps", "1", "--set", "critics.polyak=0.9")
    harden("e-step", *SETTINGS, "--particles", "5", "--set", "estep.lam_max=4.0")
    harden("fit-policy", *SETTINGS, "--steps", "1")
    run = json.loads(Path("checkpoints/ball-circle/config.json").read_text())
    assert (run["estep"]["lam_max"], run["critics"]["polyak"]) == (3.0, 0.95), "the run's own"
    said = refused("train", *SETTINGS, "--resume", "--set", "estep.lam_max=4.0")
    assert "was made with another 'estep.lam_max' (3.0, here 4.0)" in said
    harden("train", *SETTINGS, "--resume")


@pytest.mark.parametrize("key", ["variant=cvpo", "networks.policy_hidden=[8]"])
@pytest.mark.parametrize("stage", ["fit-critics", "e-step", "collect"])
def test_a_state_is_not_gone_on_with_as_something_else(trained: Path, stage: str, key: str) -> None:
    before = whole(trained)
    said = refused(stage, *SETTINGS, "--set", key)
    assert f"was made with another '{key.split('=')[0].split('.')[0]}'" in said
    assert whole(trained) == before


@pytest.mark.parametrize("words", [["fit-critics", "--steps", "1"], ["collect", "--episodes", "1"]])
def test_folders_that_a_kill_left_behind_the_state_are_renewed(trained: Path, words: list[str]) -> None:
    harden("fit-policy", *SETTINGS, "--steps", "1")
    folder = Path("checkpoints/ball-circle")
    shutil.copytree(folder / "policy", "behind")
    harden("fit-policy", *SETTINGS, "--steps", "1")
    due = (folder / "policy/policy.safetensors").read_bytes()
    shutil.rmtree(folder / "policy")
    shutil.copytree("behind", folder / "policy")
    harden("train", *SETTINGS, "--resume")
    assert (folder / "policy/policy.safetensors").read_bytes() == due
    shutil.rmtree(folder / "policy")
    shutil.copytree("behind", folder / "policy")
    harden(words[0], *SETTINGS, *words[1:])
    # another policy than the one before is somebody's, and stays
    shutil.rmtree(folder / "policy")
    shutil.copytree(RELEASED, folder / "policy")
    said = refused("e-step", *SETTINGS)
    assert "do not belong together; go on from the state with: harden train -p ball-circle --resume" in said


def test_status_looks_at_the_state(trained: Path) -> None:
    state = Path("checkpoints/ball-circle/state.safetensors")
    state.write_bytes(state.read_bytes()[:1000])
    said = harden("status", *SETTINGS).output
    assert stages(said)["fit-policy"] == "stale"
    assert "is not a model file of harden" in said


@pytest.mark.parametrize(
    ("policy", "task"), [("ball-circle/safer", "car-circle"), ("drone-run/safer", "drone-run-paper")]
)
def test_a_policy_of_another_task_with_equal_sizes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, task: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(RELEASED.parents[1] / policy)
    for words in (["evaluate", "--policy", folder, "--episodes", "1"], ["train", "--init", folder]):
        said = refused(*words, "-p", task)
        assert f"is of task '{policy.split('/')[0]}'" in said
        assert f"not of '{task}'" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "-p", "a\n", "a b"])
def test_a_pipelines_name_is_a_plain_one(name: str, tmp_path: Path) -> None:
    """Its folders would be those of all others, hidden, or elsewhere."""
    with pytest.raises(InputError):
        Workspace.named(name, tmp_path)


@pytest.mark.parametrize("file", ["..toml", "...toml", "..", ".toml", ".hidden.toml", "a b.toml"])
def test_a_file_without_a_plain_name_discards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("checkpoints/other", "datasets/other"):
        Path(folder).mkdir(parents=True)
        Path(folder, "precious").write_text("precious")
    if file != "..":
        Path(file).write_text("")
    before = whole(tmp_path)
    refused("train", "-p", f"./{file}", *SETTINGS, "--overwrite")
    assert whole(tmp_path) == before


def test_a_run_that_goes_on_with_other_threads_says_so(trained: Path) -> None:
    config = json.loads(Path("checkpoints/ball-circle/policy/manifest.json").read_text())
    assert config["versions"]["threads"] == "1"
    try:
        said = harden("train", *SETTINGS, "--resume", "--threads", "2").output
    finally:
        torch.set_num_threads(1)
    (line,) = [line for line in said.splitlines() if "warning" in line and "threads" in line]
    assert "--threads 1" in line


def test_an_input_that_does_not_fit_the_pipeline_that_nobody_named_says_which_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(RELEASED.parents[1] / "car-circle/safer")
    words = ["evaluate", "--policy", folder, "--episodes", "1"]
    assert "no -p was given" in refused(*words)
    assert "ball-circle" in refused(*words)
    assert "no -p was given" not in refused(*words, "-p", "ball-circle")
