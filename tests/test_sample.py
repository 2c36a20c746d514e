"""The small data set that a clone brings: it is whole, and the stages run on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harden.config.tasks import TASKS
from harden.data.dataset import open_dataset
from harden.data.targets import read_targets
from support.commands import harden

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "datasets/sample"
RELEASED = ROOT / "checkpoints/released/ball-circle/cvpo"


def test_the_sample_is_whole_and_small() -> None:
    dataset = open_dataset(SAMPLE, TASKS["ball-circle"])
    assert dataset.verify() == dataset.unlisted() == []
    assert not dataset.info.attacked
    assert [shard.behaviour for shard in dataset.info.shards] == ["policy-sample", "policy-mean"]
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 300_000


def test_critics_and_targets_are_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harden("fit-critics", "--data", str(SAMPLE), "--policy", str(RELEASED), "--steps", "2")
    harden("e-step", "--data", str(SAMPLE), "--states", "50", "--particles", "4", "--out", "targets.h5")
    targets, header = read_targets(Path("targets.h5"))
    assert targets.actions.shape == (50, 4, 2)
    assert header.data_digest == open_dataset(SAMPLE).info.digest
