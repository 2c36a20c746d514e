"""The walk-through of docs/your-own-policy.md, run as it is written, in small."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from harden.data.dataset import open_dataset
from harden.nets.saved import load_policy
from support.commands import SETTINGS, harden, refused

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/your-own-policy.md").read_text()
FILES = ROOT / "tests/fixtures/policies"
# sizes alone: everything else is the page's
SIZES = SETTINGS + [
    word
    for key in (
        "evaluate.episodes=1",
        "evaluate.attack_steps=2",
        "evaluate.restarts=1",
        "evaluate.independent_episodes=10",
        "imitation.steps=800",
        "networks.policy_hidden=[32]",
        "collect.episodes=10",
    )
    for word in ("--set", key)
]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read zips in this process: a child takes seconds to start, and test_policy_files.py has one."""
    monkeypatch.setattr("harden.policies.sb3.call_limited", lambda path, read: read(path))


def test_the_page_from_a_zip_to_a_hardened_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "pipelines", "pipelines")
    shutil.copyfile(FILES / "sb3-ppo.zip", "actor.zip")
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    said = []
    for program, *words in (shlex.split(line) for line in block.splitlines()):
        assert program == "harden"
        said.append(harden(*words, *SIZES).output)
    assert "VecNormalize" in said[0]
    assert "with gradients" in said[0]
    logged = open_dataset(Path("logs"))
    assert logged.info.episodes == 10
    # fit-critics distilled on the logs, train in episodes of the policy's own
    assert "held-out episodes of logs" in said[3]
    assert "held-out episodes of its own" in said[4]
    assert "over ten episodes the original has reward" in said[4]
    made = load_policy("checkpoints/ball-circle/policy").manifest["origin"]
    imported = made["imported"]
    assert not imported["exact"]
    assert imported["share"] < 0.1
    assert imported["original"]["reward"] != imported["copy"]["reward"]
    assert made["inputs"]["file"]
    evaluation = json.loads(Path("checkpoints/ball-circle/evaluation.json").read_text())
    assert [entry["attack"] for entry in evaluation["results"]] == ["natural", "mc", "random"]


def test_weights_are_taken_over_where_that_is_exact_and_a_file_is_named_by_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sb3-sac.zip", "sb3-ppo.zip"):
        shutil.copyfile(FILES / name, name)
    small = [*SETTINGS, "--quiet"]
    harden("collect", "--policy", "sb3-sac.zip", "--episodes", "3", *small)
    harden("fit-critics", "--policy", "sb3-sac.zip", *small)
    harden("e-step", "--policy", "sb3-sac.zip", "--states", "24", *small)
    attacked = ["collect", "--behaviour", "mc", "--allow-attacked-collection"]
    for command in (["e-step", "--states", "24"], ["fit-policy"], attacked):
        assert "sb3-ppo.zip" in refused(*command, "--policy", "sb3-ppo.zip", *small)
    assert "do not belong together" in refused("fit-critics", "--policy", "sb3-ppo.zip", *small)
    from harden.config.file import find_pipeline, load_config
    from harden.policies.open import open_policy
    from harden.progress import QUIET

    theirs = open_policy("sb3-sac.zip", load_config(find_pipeline(Path("ball-circle"))), QUIET).policy
    ours, obs = load_policy("checkpoints/ball-circle/policy"), torch.randn(20, 8)
    assert ours.manifest["imported"]["exact"]
    torch.testing.assert_close(ours.policy.mean(obs), theirs.mean(obs))
