"""Two processes on this machine (gloo): they end where one does, and agree on all that they hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_pipeline import SETTINGS, harden, weights

from harden.fit import ranks

WORDS = [*SETTINGS, "--quiet"]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run a command in a process of its own: Lightning begins the second one by running it again."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "harden.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )


def close(a: Path, b: Path) -> None:
    """Check that two runs ended in the same state, but for the order that sums were taken in."""
    one, two = weights(a), weights(b)
    names = [name for name in one if name.startswith(("policy.", "average.", "critics.", "beta", "dual."))]
    assert one.keys() == two.keys()
    assert {"beta", "beta_robust", "dual.eta", "dual.lam"} <= set(names)
    for name in names:
        torch.testing.assert_close(
            two[name], one[name], rtol=2e-3, atol=2e-4, msg=lambda said, name=name: f"{name}: {said}"
        )


def test_rows_that_cannot_be_split_are_refused_and_so_is_a_variant_without_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = harden("train", *SETTINGS, "--devices", "5", code=2).output
    assert "train.states = 24 rows can't be split over 5 devices" in said
    assert (
        "leave --devices out"
        in harden("train", *SETTINGS, "--variant", "ppol", "--devices", "2", code=2).output
    )
    assert not list(tmp_path.iterdir())


def test_alone_all_rows_are_ones_own() -> None:
    value = torch.ones(2, requires_grad=True)
    assert not ranks.average(value).requires_grad
    assert torch.equal(ranks.average(value), value)
    ranks.require_agreement([value])
    ranks.wait()
    assert (ranks.rank(), ranks.count(), ranks.is_helper(1)) == (0, 1, False)


@pytest.mark.slow
def test_training_on_two_devices_ends_where_one_does(tmp_path: Path) -> None:
    """Each refresh compares multipliers, dual and weights of both to the bit."""
    # one refresh: the simulator makes much of a last digit in the roll-outs of a second one
    words = ["train", *WORDS, "--variant", "cvpo", "--set", "train.env_steps=400"]
    alone = run(tmp_path / "alone", *words)
    both = run(tmp_path / "both", *words, "--devices", "2")
    assert (alone.returncode, both.returncode) == (0, 0), both.stderr
    assert both.stdout.count("trained cvpo") == 1, "only the first process speaks"
    close(tmp_path / "alone/checkpoints/ball-circle", tmp_path / "both/checkpoints/ball-circle")


@pytest.mark.slow
def test_under_attack_two_devices_agree_and_a_run_goes_on_with_one(tmp_path: Path) -> None:
    # a bound that is passed at once: multipliers that are zero agree whatever the rows were
    words = [*WORDS, "--set", "mstep.kl_robust_mean=1e-7", "--set", "mstep.kl_robust_std=1e-9"]
    done = run(tmp_path, "train", *words, "--devices", "2")
    assert done.returncode == 0, done.stderr
    state = weights(tmp_path / "checkpoints/ball-circle")
    assert float(state["beta_robust"].min()) > 0
    assert "dual.lam" in state
    again = run(tmp_path, "train", *words, "--resume")
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_the_stages_by_hand_on_two_devices(tmp_path: Path) -> None:
    for folder, devices in (("alone", "1"), ("both", "2")):
        place, plain = tmp_path / folder, [*WORDS, "--set", "variant=cvpo"]
        for words in (
            ["collect", *plain, "--episodes", "2"],
            ["fit-critics", *plain, "--steps", "20", "--devices", devices],
            ["e-step", *plain, "--states", "48"],
            ["fit-policy", *plain, "--steps", "20", "--devices", devices],
        ):
            done = run(place, *words)
            assert done.returncode == 0, done.stderr
    close(tmp_path / "alone/checkpoints/ball-circle", tmp_path / "both/checkpoints/ball-circle")


PARTS = """
import sys, torch, torch.distributed as dist
from harden.errors import DivergedError
from harden.fit import ranks
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
assert float(ranks.average(torch.tensor(1.0 + 2 * rank))) == 2.0
ranks.require_agreement([torch.tensor([1.0, 2.0])])
try:
    ranks.require_agreement([torch.tensor([1.0, 2.0 + 1e-9 * rank], dtype=torch.float64)])
except DivergedError:
    print("they differ")
"""


@pytest.mark.slow
def test_processes_that_differ_in_the_last_digit_are_stopped(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PARTS]
    both = [
        subprocess.Popen([*words, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    assert [one.communicate(timeout=120)[0] for one in both] == ["they differ\n"] * 2
