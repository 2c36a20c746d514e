"""The long ones, on real simulation: `make test-slow` keeps their last result in tests/slow-results.json."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

from harden.data.dataset import open_dataset
from support.commands import harden

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "checkpoints/released/ball-circle/cvpo"

pytestmark = pytest.mark.slow


def test_critics_agree_with_the_returns_of_held_out_rollouts(folder: Path) -> None:
    script = ROOT / "benchmarks/critics.py"
    subprocess.run([sys.executable, script, "--json", "critics.json"], check=True)
    judged = json.loads((folder / "critics.json").read_text())["policies"]
    # the released policy's episodes cost 0.7: there is a Q_r to judge, and of Q_c only that it is small
    for released, reckless in zip(judged["released"], judged["reckless"], strict=True):
        for found in (released["reward"], reckless["reward"], reckless["cost"]):
            assert found["rank_correlation"] >= 0.8
            assert abs(found["bias"]) < 0.2
        assert 0 <= released["cost"]["mean_q"] < 0.5


def tried(policy: Path, name: str) -> dict[str, tuple[float, float]]:
    """Evaluate a policy as the demo does; returns reward and cost by attack."""
    pipeline = str(ROOT / "pipelines/quickstart.toml")
    harden(
        "evaluate",
        "-p",
        pipeline,
        "--policy",
        str(policy),
        "--attack",
        "random,mc,mr",
        "--json",
        f"{name}.json",
    )
    results = json.loads(Path(f"{name}.json").read_text())["results"]
    return {entry["attack"]: (entry["reward"]["mean"], entry["cost"]["mean"]) for entry in results}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_vanilla_policy_is_hardened_from_benign_data(folder: Path, seed: int) -> None:
    before = tried(RELEASED, "before")
    assert before["natural"][1] <= 5
    assert before["mc"][1] >= 30
    harden(
        "train", "-p", str(ROOT / "pipelines/quickstart.toml"), "--init", str(RELEASED), "--seed", str(seed)
    )
    data = open_dataset(folder / "datasets/quickstart")
    assert {shard.behaviour for shard in data.info.shards} == {"policy-sample"}
    assert data.verify() == []
    after = tried(folder / "checkpoints/quickstart/policy", "after")
    assert after["mc"][1] <= 5
    assert after["mr"][1] <= 5
    assert after["natural"][0] >= 0.6 * before["natural"][0]


def test_every_stage_by_hand_at_its_default_size(folder: Path) -> None:
    (folder / "plain.toml").write_text('task = "ball-circle"\n')
    pipeline = ["-p", "plain.toml"]
    harden("collect", *pipeline, "--episodes", "100")
    harden("fit-critics", *pipeline)
    harden("e-step", *pipeline)
    with h5py.File(folder / "checkpoints/plain/targets.h5") as file:
        assert file["actions"].shape == (20_000, 16, 2)
        weights = torch.tensor(file["weights"][:])
    torch.testing.assert_close(weights.sum(1), torch.ones(20_000), rtol=0, atol=1e-5)
    harden("fit-policy", *pipeline, "--steps", "200")
    harden("evaluate", *pipeline, "--episodes", "2", "--attack", "all", "--attack-steps", "5")
    rows = harden("status", *pipeline).output.splitlines()
    assert [row.split()[1] for row in rows] == ["done"] * 5


def test_attacks_are_far_faster_than_one_state_at_a_time_and_find_as_much(folder: Path) -> None:
    words = ["--only", "attack", "--json", "bench.json"]
    subprocess.run([sys.executable, ROOT / "benchmarks/bench.py", *words], check=True)
    found = json.loads((folder / "bench.json").read_text())
    for row in found["rows"]:
        assert row["ratio"] <= (0.7 if "plain PGD" in row["name"] else 0.05), row
    shares = [
        way
        for policy in found["facts"]["attack"]["share_of_the_best_gain"].values()
        for way in policy.values()
    ]
    for way in ("plain", "settling"):
        assert sum(share[way] for share in shares) / len(shares) >= 0.98
    assert sum(share["settling"] - share["plain"] for share in shares) / len(shares) >= -0.002


def test_ppo_lagrangian_learns_the_task_within_the_cost_limit(folder: Path) -> None:
    words = ["-p", str(ROOT / "pipelines/ball-circle.toml"), "--set", "variant=ppol"]
    # the attackers' critics need not be good here; it takes off after 40,000 steps, or 160,000
    words += ["--set", "train.env_steps=420000", "--set", "train.rounds=10"]
    harden("train", *words)
    harden("evaluate", *words, "--attack", "", "--json", "ppol.json")
    (natural,) = json.loads(Path("ppol.json").read_text())["results"]
    assert natural["reward"]["mean"] >= 500
    assert natural["cost"]["mean"] <= 5


def test_the_three_journeys_of_a_person_come_to_their_ends(folder: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tests/journeys.py", folder], check=True)


def test_two_rounds_by_hand_halve_the_cost_under_attack(folder: Path) -> None:
    """As a person runs the stages: fifty episodes of a vanilla policy, then two rounds of usual sizes."""
    given = str(ROOT / "checkpoints/released/ball-circle/cvpo")
    pipeline = ["-p", str(ROOT / "pipelines/ball-circle.toml")]
    trial = ["--attack", "mc", "--episodes", "50", "--json"]
    harden("evaluate", *pipeline, "--policy", given, *trial, "before.json")
    harden("collect", *pipeline, "--policy", given, "--episodes", "50")
    for start in (["--policy", given], []):
        harden("fit-critics", *pipeline, *start)
        harden("e-step", *pipeline, "--states", "20000")
        harden("fit-policy", *pipeline, "--steps", "1000")
    harden("evaluate", *pipeline, *trial, "after.json")
    before, after = (json.loads(Path(name).read_text())["results"] for name in ("before.json", "after.json"))
    assert after[1]["cost"]["mean"] <= before[1]["cost"]["mean"] / 2
    assert after[0]["reward"]["mean"] >= 0.7 * before[0]["reward"]["mean"]
