"""kill -9 at random moments, collecting and training: nothing finished or acknowledged is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harden.data.dataset import open_dataset

NURSERY = Path(__file__).with_name("support") / "nursery.py"


def kill(what: str, folder: Path, times: int) -> dict[str, int]:
    """Kill workers in a folder, over and over; returns what was counted."""
    subprocess.run([sys.executable, str(NURSERY), what, str(times)], cwd=folder, check=True)
    assert open_dataset(folder / "datasets/run").verify() == []
    counts: dict[str, int] = json.loads((folder / "counts.json").read_text())
    assert counts["kills"] == times
    assert counts["acknowledged"] >= times
    if what == "train":
        # a refresh that was collected and not finished is taken up again, not collected once more
        assert counts["refreshes"] <= counts["shards"] <= counts["refreshes"] + 1
        assert counts["refreshes"] >= counts["acknowledged"]
    assert counts["shards"] >= counts["acknowledged"]
    return counts


@pytest.mark.parametrize("what", ["collect", "train"])
def test_a_few_moments(what: str, tmp_path: Path) -> None:
    kill(what, tmp_path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["collect", "train"])
def test_two_hundred_moments(
    what: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("counts", kill(what, tmp_path, 200))
