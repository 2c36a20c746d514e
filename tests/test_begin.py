"""How a run begins: where nothing is, or in place of what was there, which goes not a moment too early."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from test_bad_input import refused
from test_pipeline import SETTINGS, harden

from harden.data.store import FolderLock
from harden.errors import StorageError
from harden.stages import run as run_stage


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

    def commit(*given: object) -> None:
        raise StorageError("no room left on the disk")

    monkeypatch.setattr(run_stage, "commit", commit)
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
    data = {path: path.stat().st_ino for path in Path("datasets/ball-circle").glob("*.h5")}
    harden("train", *SETTINGS, "--overwrite")
    assert all(path.stat().st_ino != node for path, node in data.items()), "its data are its own"
    assert [path.name for path in trained.rglob(".*")] == [".lock"]


def test_what_a_killed_process_had_moved_aside_comes_back(trained: Path) -> None:
    before = whole(trained)
    Path("datasets/ball-circle").rename("datasets/.ball-circle.123.old")
    Path("checkpoints/ball-circle").rename("checkpoints/.ball-circle.123.old")
    assert "holds an earlier run" in refused("train", *SETTINGS)
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
