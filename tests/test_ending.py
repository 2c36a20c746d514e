"""What a run ends with: critics of the published policy, and what has to be known of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harden.config.file import find_pipeline, load_config
from harden.config.pipeline import make_config
from harden.method.learner import new_learner
from harden.method.schedules import scheduled
from harden.nets.saved import load_policy, module_digest
from harden.stages import train as stage
from harden.storage.folders import FolderLock
from harden.training import loop
from harden.training.ending import left_open
from harden.training.keeping import collapse, consider
from harden.training.record import RunRecord
from harden.training.state import load_state
from harden.training.supply import RollOuts
from support.commands import SETTINGS, harden, refused, stages, stop_after
from support.learners import CPU

WORDS = ["train", *SETTINGS, "--quiet"]


pytestmark = pytest.mark.usefixtures("folder")


def test_the_published_policy_has_critics_of_its_own(folder: Path) -> None:
    published = Path("checkpoints/ball-circle/policy")
    harden(*WORDS, "--set", "train.final_critic_steps=0")
    before = load_policy(published)
    harden(*WORDS, "--overwrite")
    after = load_policy(published)
    assert before.critics is not None
    assert after.critics is not None
    assert module_digest(after.policy) == module_digest(before.policy), "only critics learn at the end"
    assert module_digest(after.critics) != module_digest(before.critics)
    assert set(stages(harden("status", *SETTINGS).output).values()) == {"done", "missing"}
    harden(*WORDS, "--resume")
    again = load_policy(published)
    assert again.critics is not None
    assert module_digest(again.critics) == module_digest(after.critics), "a run ends once"


def test_less_than_half_of_the_reward_or_a_cost_above_the_limit_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harden(*WORDS)
    given = Path("checkpoints/ball-circle/policy").rename(folder / "given")
    tries = iter(({"reward": 100.0, "cost": 1.0}, {"reward": 10.0, "cost": 9.0}))
    for module in (stage, stage.finish_run.__globals__):
        where = module if isinstance(module, dict) else vars(module)
        monkeypatch.setitem(where, "try_policy", lambda *_: next(tries))
    monkeypatch.setitem(stage.finish_run.__globals__, "imagined_cost", lambda *_: 0.0)
    told = harden(*WORDS, "--overwrite", "--init", str(given)).output.splitlines()[-2:]
    assert all(line.startswith("warning:") for line in told)
    assert "10 %" in told[0] or "10%" in told[0]
    assert "9.0" in told[1]
    assert "limit of 5" in told[1]
    said = harden("status", *SETTINGS).output
    assert stages(said)["fit-policy"] == "done"
    assert "limit of 5" in said


def test_what_the_world_model_expects_under_attack_above_the_limit_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def expected(*given: object) -> float:
        asked.append(given[-1])
        return 7.25

    monkeypatch.setitem(stage.finish_run.__globals__, "imagined_cost", expected)
    told = harden(*WORDS, "--set", "variant=safer-model").output
    assert asked == [0.05], "at the full radius"
    assert any("7.2" in line and "limit of 5" in line for line in told.splitlines()[-3:])


def rewards(*values: float, **more: object) -> RunRecord:
    """Return the record of a run whose roll-outs had these rewards."""
    return RunRecord(history=[{"refresh": i, "reward": r} for i, r in enumerate(values, 1)], **more)


def test_a_training_that_collapses_is_told_by_its_roll_outs() -> None:
    config = make_config({"task": "ball-circle"})
    keeps = make_config({"task": "ball-circle", "train": {"keep": 0.8}})
    given = {"start": {"reward": 500.0, "cost": 0.0}}
    assert collapse(config, rewards(100, 49, 49, **given)) == "", "two refreshes may be chance"
    assert collapse(config, rewards(100, 49, 51, 49, 49, **given)) == ""
    assert "for 3 refreshes" in collapse(config, rewards(100, 49, 48, 47, **given))
    assert "50% of the 100.0 that training began with, in the last 47.0" in collapse(
        config, rewards(100, 49, 48, 47, **given)
    )
    assert collapse(config, rewards(100, 70, 70, 70, **given)) == ""
    assert "80%" in collapse(keeps, rewards(100, 70, 70, 70, **given))
    # from scratch nothing is earned at first
    assert "400.0 that training had in refresh 2" in collapse(config, rewards(9, 400, 150, 20, 20))
    assert collapse(config, rewards(-9, -90, -90, -90)) == ""
    assert collapse(config, RunRecord()) == ""


def test_a_collapse_is_said_when_it_happens_and_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harden.training.keeping._REFRESHES", 1)
    brought = iter([100.0, 40.0, 40.0, 40.0, 40.0])
    row = RollOuts.row
    monkeypatch.setattr(RollOuts, "row", lambda *args: row(*args) | {"reward": next(brought)})
    loud = [word for word in WORDS if word != "--quiet"]
    done = harden(*loud)
    lines = done.stderr.splitlines()
    (warned,) = (index for index, line in enumerate(lines) if "training had in refresh 1" in line)
    assert "refresh 2/" in lines[warned - 1]
    assert all(" left" in line for line in lines if line.startswith("refresh "))
    assert any("training had in refresh 1" in line for line in done.stdout.splitlines()[-3:])


def test_status_says_how_far_a_run_is_and_whether_it_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harden.training.loop.train", stop_after(loop.train, 1))
    harden(*WORDS, code=130)
    row = next(line for line in harden("status", *SETTINGS).output.splitlines() if line.startswith("run "))
    assert row.split()[1] == "resumable"
    assert "3 of 3" in row
    assert "train -p ball-circle --resume" in row
    with FolderLock(Path("datasets/ball-circle")):
        assert stages(harden("status", *SETTINGS).output)["run"] == "running"
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    harden(*WORDS, "--resume")
    assert stages(harden("status", *SETTINGS).output)["run"] == "done"


def test_what_the_last_refresh_left_open_is_told() -> None:
    config = make_config({"task": "ball-circle", "train": {"rounds": 50}})
    terms = scheduled(config, 0)
    quiet = {"q_cost": terms.kappa * 0.9, "lam_exact": terms.lam_max, "converged": 1.0}
    assert left_open(config, 0, [quiet] * 3) == []
    met = {"kl_robust_mean": terms.mstep.kl_robust_mean * 2, "beta_robust_mean": 0.1}
    assert left_open(config, 0, [quiet | met]) == [], "a multiplier below its ceiling still rises"
    costly = quiet | {"q_cost": terms.kappa * 1.3}
    assert left_open(config, 0, [costly | {"lam_exact": terms.lam_max * 0.5}]) == []
    (cost,) = left_open(config, 0, [quiet, costly])
    assert f"{terms.kappa:.3g}" in cost
    assert "estep.lam_max" in cost
    at_ceiling = {"kl_robust_mean": terms.mstep.kl_robust_mean * 4, "beta_robust_mean": 1.0}
    (penalty,) = left_open(config, 0, [quiet | at_ceiling])
    assert "4.0" in penalty
    assert "mstep.kl_robust_weight" in penalty
    (early,) = left_open(config, 0, [quiet | {"converged": 0.9}, quiet])
    assert early.startswith("5 of 100")


def test_an_e_step_that_no_weights_meet_says_what_to_do(folder: Path) -> None:
    harden("collect", *SETTINGS, "--episodes", "2")
    harden("fit-critics", *SETTINGS, "--steps", "2")
    words = [
        "--set",
        "cost_limit=0.001",
        "--set",
        "estep.limit_start=0.001",
        "--set",
        "by_hand.kl_estep=1e-6",
    ]
    said = harden("e-step", *SETTINGS, *words, "--states", "50").output
    assert ("infeasible" in said) == ("by_hand.kl_estep" in said)


def test_the_safest_policy_above_the_floor_is_kept() -> None:
    learner = new_learner(make_config({"networks": {"policy_hidden": [4], "critic_hidden": [4]}}), CPU)

    def figures(reward: float, attacked_cost: float, cost: float = 0.0) -> dict[str, float]:
        return {"reward": reward, "cost": cost, "attacked_cost": attacked_cost}

    safest = None
    assert consider(learner, figures(79.0, 0.0), safest, 80.0) is None
    assert learner.safest is None
    for candidate, kept in (
        (figures(80.0, 9.0), True),
        (figures(500.0, 9.5), False),
        (figures(90.0, 9.0), True),
        (figures(90.0, 9.0, cost=1.0), False),
        (figures(81.0, 2.0), True),
        (figures(10.0, 0.0), False),
    ):
        with torch.no_grad():
            next(learner.average.parameters()).add_(1.0)
        before, safest = safest, consider(learner, candidate, safest, 80.0)
        assert safest is (candidate if kept else before)
        assert learner.safest is not None
        same = torch.equal(next(learner.safest.parameters()), next(learner.average.parameters()))
        assert same == kept


@pytest.mark.parametrize("variant", ["safer", "safer-model"])
def test_a_run_publishes_the_policy_that_it_kept(
    folder: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    harden(*WORDS)
    given = Path("checkpoints/ball-circle/policy").rename(folder / "given")
    words = [*WORDS, "--overwrite", "--set", f"variant={variant}", "--set", "train.keep=0.0"]
    # of a reward below zero the floor lies below it
    monkeypatch.setitem(vars(stage), "try_policy", lambda *_: {"reward": -1000.0, "cost": 0.0})
    harden(*words, "--init", str(given))
    published = load_policy("checkpoints/ball-circle/policy")
    safest = published.manifest["safest"]
    assert safest["refresh"] == 3
    assert safest["attacked_cost"] >= 0
    assert published.manifest["kept"].startswith("safest")
    config = load_config(find_pipeline(Path("ball-circle")), [word for word in words if "=" in word])
    learner, _ = load_state(Path("checkpoints/ball-circle/state.safetensors"), config, CPU)
    assert module_digest(learner.safest) == module_digest(published.policy)


def test_a_floor_that_no_policy_reaches_is_told_and_one_of_nothing_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harden(*WORDS)
    given = Path("checkpoints/ball-circle/policy").rename(folder / "given")
    monkeypatch.setitem(vars(stage), "try_policy", lambda *_: {"reward": 1e6, "cost": 0.0})
    keep = ["--set", "train.keep=0.9"]
    told = harden(*WORDS, "--overwrite", "--init", str(given), *keep).output
    assert "train.keep" in told
    assert "1000000.0" in told
    assert "safest" not in load_policy("checkpoints/ball-circle/policy").manifest
    assert "--init" in refused(*WORDS, "--overwrite", *keep)
