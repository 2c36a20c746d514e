"""The walk-through of docs/your-own-data.md, run end to end as it is written, in small."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from harden.config.file import load_config
from harden.data.dataset import open_dataset
from harden.nets.saved import load_policy
from support.commands import SMALL, harden

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your-own-data.md").read_text()
(PIPELINE,) = re.findall(r"```toml\n(.*?)```", PAGE, re.S)
RELEASED = ROOT / "checkpoints/released/ball-circle/cvpo"
# sizes alone: everything else is the page's
SIZES = {
    key: value
    for key, value in SMALL.items()
    if key.startswith(("train.", "critics.", "evaluate.", "world."))
}
SIZES |= {"offline.refreshes": "2", "offline.world_steps": "600", "offline.length": "20"}
# what is learned in seconds is safe for nobody
SIZES |= {"world.hidden": "[64]", "world.batch": "256", "cost_limit": "200", "offline.calibrated": "1e6"}
SIZES |= {"imitation.steps": "200", "estep.particles": "4"}
SIZES |= {"evaluate.episodes": "1", "evaluate.attack_steps": "2", "evaluate.restarts": "1"}


def commands() -> list[list[str]]:
    """Return the page's commands, one list of words each."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S) for line in block.splitlines()]
    return [shlex.split(line) for line in lines]


def test_the_pages_pipeline_is_the_measured_one(tmp_path: Path) -> None:
    (tmp_path / "robot.toml").write_text(PIPELINE)
    page, measured = (
        load_config(path).model_dump(exclude={"task"})
        for path in (tmp_path / "robot.toml", ROOT / "pipelines/offline.toml")
    )
    assert page == measured


def test_the_page_from_files_to_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wide = ["--set", "collect.min_std=0.4", "--set", "collect.correlation=0.8"]
    harden("collect", "--episodes", "10", "--policy", str(RELEASED), "--out", "theirs", "--quiet", *wide)
    harden("data", "export", "theirs", "--to", "dsrl", "--out", "logs.hdf5")
    harden("policy", "export", str(RELEASED), "--to", "torchscript", "--out", "actor.pt")
    Path("robot.toml").write_text(PIPELINE)
    said = []
    for program, *words in commands():
        assert program == "harden"
        small = (
            [w for key, value in SIZES.items() for w in ("--set", f"{key}={value}")] if "-p" in words else []
        )
        said.append(harden(*words, *small).output)
    assert any("taken over exactly" in one for one in said)
    before = open_dataset(Path("theirs")).info
    assert open_dataset(Path("logs")).info.transitions == before.transitions == 2000
    # nothing was collected
    assert not Path("datasets").exists()
    made = load_policy("checkpoints/robot/policy")
    assert made.manifest["task"] == "my-robot"
    assert made.manifest["origin"]["imported"]["exact"] is True
    onnxruntime = pytest.importorskip("onnxruntime")
    obs = open_dataset(Path("logs")).recent(50).obs.numpy()
    session = onnxruntime.InferenceSession("robot.onnx", providers=["CPUExecutionProvider"])
    (actions,) = session.run(["action"], {"observation": obs})
    np.testing.assert_allclose(actions, made.act(obs), atol=1e-5)
    page = Path("report.html").read_text()
    assert "Never simulated." in page
    assert "these are its first simulated episodes" in page
    assert "Ada Lovelace" in page
    found = json.loads(Path("after.json").read_text())
    assert [entry["attack"] for entry in found["results"]] == ["natural", "random", "mc", "mr", "mad"]
    from harden.storage.files import digest_file

    for file in ("robot.onnx", "after.json", "imagined.json"):
        assert digest_file(Path(file)) in page
