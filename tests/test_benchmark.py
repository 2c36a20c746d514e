"""The benchmark: its plan, its ledger, its sweep of real runs, its numbers and its page."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harden.benchmark import job as one_run
from harden.benchmark import sweep
from harden.benchmark.job import job_of, spec_of, workspace_of
from harden.benchmark.ledger import entry_path, finished, heading, read_ledger, write_failure
from harden.benchmark.page import groups, numbers, page, published
from harden.benchmark.tables import TABLES, Budget, digest, jobs, make_job
from harden.config.file import find_pipeline, load_config
from harden.config.pipeline import PipelineConfig, make_config
from harden.config.variants import VARIANTS
from harden.errors import DamagedFileError, InputError, OtherConfigurationError, StorageError
from harden.stages.ready import Ready
from harden.storage.files import write_json
from harden.training.run import load_run
from harden.training.workspace import Workspace
from support.commands import SMALL, harden

TINY = SMALL | {
    "train.env_steps": "800",
    "evaluate.episodes": "1",
    "evaluate.attack_steps": "1",
    # no on-policy run survives this, and no other run has it
    "ppo.value_learning_rate": "1e9",
}
WORDS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
SWEEP = ["benchmark", "table5", "--task", "ball-circle", "--variant", "cvpo,ppol", "--seeds", "0", *WORDS]
SWEEP += ["--label", "tiny", "--workers", "2"]
KEYS = tuple(f"{key}={value}" for key, value in TINY.items())


def files(root: Path) -> dict[str, int]:
    """Return each file of a ledger with the time of its last change."""
    return {path.name: path.stat().st_mtime_ns for path in root.rglob("*.json")}


class TestPlan:
    """Which runs there are."""

    def test_every_table_needs_its_methods_and_no_run_is_there_twice(self) -> None:
        found = jobs(list(TABLES), ["ball-circle"], [], [0], Budget())
        assert len({job.key for job in found}) == len(found)
        rows = {job.row for job in found}
        named = {row for names in TABLES.values() for row in names}
        assert rows == named | {f"safer-xi-{xi}" for xi in ("0.03", "0.07", "0.09", "0.11")}
        safer = next(job.config for job in found if job.row == "safer")
        for job in found:
            assert job.config.seed == 0
            if job.row.startswith("safer-xi-"):
                assert f"{job.config.mstep.kl_robust_mean:g}" == job.row.removeprefix("safer-xi-")
                bounds = {"kl_robust_mean", "kl_robust_std"}
                swept, whole = job.config.model_dump(), safer.model_dump()
                assert {key for key in whole["mstep"] if swept["mstep"][key] != whole["mstep"][key]} == bounds
                assert swept["mstep"]["kl_robust_weight"] == 0.5, "the bound that is swept has to be in force"

    def test_the_widest_comes_first(self) -> None:
        found = jobs(["table6"], ["car-circle", "ball-circle"], [], [0, 1, 2], Budget())
        order = list(dict.fromkeys((job.task, job.seed) for job in found))
        expected = [(task, seed) for seed in (0, 1, 2) for task in ("ball-circle", "car-circle")]
        assert order == expected

    def test_on_policy_rows_have_an_equal_budget_and_the_paper_its_own(self) -> None:
        def steps(budget: Budget) -> dict[str, int]:
            found = jobs(["figure2"], ["ball-circle"], [], [0], budget)
            return {job.row: job.config.train.env_steps for job in found}

        reduced = steps(Budget())
        assert len({reduced[row] for row in ("ppol", "sa-ppol", "sa-ppol-mc", "adv-ppol")}) == 1
        assert steps(Budget(paper=True))["adv-ppol"] == 300 * 45_000
        assert set(steps(Budget(env_steps=7000)).values()) == {7000}
        assert Budget(env_steps=7000).label == "reduced, 7,000 steps"
        assert Budget(keys=("collect.workers=1",)).label == "reduced", "it changes no result"
        assert Budget(keys=("collect.workers=1", "estep.particles=8")).label == "reduced, 1 keys changed"

    def test_a_choice_without_runs_is_refused(self) -> None:
        with pytest.raises(InputError, match="no run is left"):
            jobs(["table6"], ["ball-circle"], ["ppol"], [0], Budget())
        said = harden("benchmark", "table5", "--task", "moon-walk", code=2).output
        assert "'moon-walk' is not in the paper's tables" in said
        assert "no table is named" in harden("benchmark", code=2).output

    def test_a_job_survives_the_way_to_its_worker(self, tmp_path: Path) -> None:
        job = make_job("car-circle", "safer-no-kl", 3, Budget())
        spec = json.loads(json.dumps(spec_of(job, tmp_path, tmp_path)))
        assert job_of(spec) == job


class TestLedger:
    """What a run is known by."""

    def test_a_run_is_known_by_its_configuration_but_not_by_how_it_was_done(self) -> None:
        plain, other = (
            make_job("ball-circle", "cvpo", 0, Budget(keys=keys))
            for keys in ((), ("critics.gamma_cost=0.9",))
        )
        busy = make_job("ball-circle", "cvpo", 0, Budget(keys=("collect.workers=2",)))
        assert plain.key == busy.key
        assert plain.key != other.key

    def test_a_key_that_came_since_makes_no_run_a_stranger(self, tmp_path: Path) -> None:
        job = make_job("ball-circle", "cvpo", 0, Budget())
        entry = heading(job) | {"status": "finished"}
        del entry["config"]["estep"]["limit_end"]
        write_json(entry_path(tmp_path, job), entry)
        assert sweep.what_is_left([job], tmp_path).done == 1
        entry["config"]["mstep"]["kl_mean"] = 0.5
        write_json(entry_path(tmp_path, job), entry)
        assert sweep.what_is_left([job], tmp_path).todo == [job]

    def test_a_failure_is_not_tried_again_unasked_and_never_hides_a_finished_run(
        self, tmp_path: Path
    ) -> None:
        job = make_job("ball-circle", "cvpo", 0, Budget())
        path = entry_path(tmp_path, job)
        write_failure(path, job, "no reason")
        assert sweep.what_is_left([job], tmp_path) == ([], [(job, "no reason")], 0)
        assert sweep.what_is_left([job], tmp_path, again=True).todo == [job]
        write_json(path, heading(job) | {"status": "finished"})
        write_failure(path, job, "another")
        assert sweep.what_is_left([job], tmp_path, again=True) == ([], [], 1)

    def test_what_is_left_takes_as_long_as_its_kin_took(self, tmp_path: Path) -> None:
        job = make_job("ball-circle", "cvpo", 0, Budget())
        trained = {"env_steps": 1000.0, "wall_time_s": 20.0}
        done = {"status": "finished", "trained": trained, "evaluation_s": 100.0}
        write_json(entry_path(tmp_path, job), heading(job) | done)
        later = make_job("ball-circle", "cvpo", 1, Budget(env_steps=50_000))
        entries = finished(tmp_path)
        assert sweep.minutes(later, entries) == pytest.approx((50_000 * 0.02 + 100) / 60)
        stranger = make_job("ball-circle", "ppol", 1, Budget())
        assert sweep.minutes(stranger, entries) is None
        assert sweep.length([later, later, stranger], tmp_path, 2) == "about 18 min, 1 of unknown length"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep of two real runs: one whose process is killed once, and one that diverges."""
    root = tmp_path_factory.mktemp("sweep")
    plain, killed = subprocess.Popen, []

    def start(words: list[str], **how: Any) -> subprocess.Popen:
        process = plain(words, **how)
        if not killed and "harden.benchmark.job" in words:
            killed.append(process)
            process.kill()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sweep.subprocess, "Popen", start)
        said = harden(*SWEEP, code=1).output
    assert killed[0].returncode == -9
    return root, said


@pytest.mark.parametrize(("cost", "doubled"), [(5.0, True), (5.1, False)])
def test_twice_the_effort_is_for_what_the_first_left_within_the_limit(
    cost: float, doubled: bool, monkeypatch
) -> None:
    asked = []

    def evaluate(config: PipelineConfig, *_: object, breaking: list[str]) -> Ready[dict[str, Any]]:
        asked.append(config.evaluate.attack_steps)
        episode = {"reward": 1.0, "cost": cost, "length": 200}
        found = {"results": [{"cost": {"mean": cost}, "per_episode": [episode]}]}
        radii = {"breaking_radius": [{"attack": name, "steps": asked[-1]} for name in breaking]}
        return Ready(lambda: found | radii, [], [])

    monkeypatch.setattr(one_run, "evaluate", evaluate)
    found, radii = one_run.tried(make_config({"task": "ball-circle"}), Path("policy"))
    assert radii == [{"attack": "mc", "steps": 50}], "once, with the effort that leads"
    assert list(found) == ["pgd", *["pgd-doubled"] * doubled, "paper", "paper-no-stop"]
    assert len(asked) == len(found)


@pytest.mark.parametrize("error", [InputError, StorageError, DamagedFileError, OtherConfigurationError])
def test_only_a_run_of_another_configuration_is_begun_anew(
    tmp_path: Path, monkeypatch, error: type[InputError]
) -> None:
    """A full disk, a lock or a damaged file is written down, and what was trained stays."""
    asked: list[bool] = []

    def train(config: PipelineConfig, place: object, *, overwrite: bool = False, **_: object) -> Any:
        asked.append(overwrite)
        if not overwrite:
            raise error("it is so")
        row = dict.fromkeys(one_run.CURVE, 1.0)
        return Ready(lambda: SimpleNamespace(history=[row]), [], [])

    monkeypatch.setattr(one_run, "train", train)
    job = make_job("ball-circle", "cvpo", 0, Budget())
    place = workspace_of(spec_of(job, tmp_path, tmp_path))
    if error is OtherConfigurationError:
        one_run._learn(job.config, place)
    else:
        with pytest.raises(error):
            one_run._learn(job.config, place)
    assert asked == [False, True][: 1 + (error is OtherConfigurationError)]


def test_a_run_made_with_another_configuration_says_so_by_its_class(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = [f"{key}={value}" for key, value in SMALL.items()]
    harden("train", *(word for key in keys for word in ("--set", key)))
    for key in ("critics.gamma_cost=0.9", "networks.policy_hidden=[8]"):
        config = load_config(find_pipeline(Path("pipelines/ball-circle.toml")), [*keys, key])
        with pytest.raises(OtherConfigurationError):
            load_run(config, Workspace.named("ball-circle"), torch.device("cpu"))


class TestSweep:
    """Real runs through the command line."""

    def test_a_lost_worker_is_replaced_and_a_failure_sinks_nothing(self, swept: tuple[Path, str]) -> None:
        root, said = swept
        entries = {
            entry["variant"]: entry for entry in read_ledger(root / "benchmarks/results/ledger").values()
        }
        assert entries["cvpo"]["status"] == "finished"
        assert entries["ppol"]["status"] == "failed"
        # where it shows first, in the loss or in an action, is the rounding's
        assert "diverged" in entries["ppol"]["reason"]
        assert "0 of 2 runs are done; left: 2 runs, 2 of unknown length" in said
        assert "ball-circle cvpo seed 0: finished" in said
        assert "left: 0 runs" in said
        assert "1 of 2 runs failed" in said

    def test_a_finished_run_has_its_curve_and_its_trials(self, swept: tuple[Path, str]) -> None:
        (entry,) = (
            e for e in read_ledger(swept[0] / "benchmarks/results/ledger").values() if e["variant"] == "cvpo"
        )
        assert entry["trained"]["env_steps"] == 800
        curve = entry["trained"]["curve"]
        assert curve["env_steps"] == [400, 800]
        assert len(curve["lam"]) == len(curve["q_cost"]) == 2
        assert entry["budget"] == "tiny"
        for name, steps in (("pgd", 1), ("pgd-doubled", 2), ("paper", 1), ("paper-no-stop", 1)):
            natural, mc, mr = entry["trials"][name]
            assert [natural["attack"], mc["attack"], mr["attack"]] == ["natural", "mc", "mr"]
            assert mc["steps"] == mr["steps"] == steps
            assert mc["reward"]["mean"] == pytest.approx(np.mean(mc["by_episode"]["reward"]), abs=1e-3)

    def test_called_again_it_repeats_nothing(self, swept: tuple[Path, str], monkeypatch) -> None:
        root, _ = swept
        monkeypatch.chdir(root)
        before = files(root / "benchmarks")
        said = harden(*SWEEP).output
        assert "1 of 2 runs are done; left: 0 runs" in said
        assert "failed before: ball-circle ppol seed 0" in said
        assert "left: 1 runs" in harden(*SWEEP, "--retry-failed", "--dry-run").output
        # another seed is another run, whose length is known by now
        said = harden(*SWEEP[:7], "0,1", *SWEEP[8:], "--dry-run").output
        assert re.search(r"cvpo seed 1 \(tiny\): about \d+ min", said), "as its kin took"
        assert files(root / "benchmarks") == before

    def test_the_page_is_made_of_it(self, swept: tuple[Path, str], monkeypatch) -> None:
        root, _ = swept
        monkeypatch.chdir(root)
        harden("benchmark", "--render")
        text = (root / "docs/results.md").read_text()
        assert "## ball-circle, tiny" in text
        assert "cvpo | 0 | 800 |" in text
        assert "622 ± 103 / 0.0 ± 0.0 | 556 ± 102 / 20.9 ± 13.3" in text
        assert "- failed: ball-circle ppol seed 0:" in text
        picture = "benchmark-ball-circle-tiny-figure2.png"
        assert f"]({picture})" in text
        assert (root / "docs" / picture).read_bytes().startswith(b"\x89PNG")

    def test_a_task_that_the_paper_does_not_have_gets_its_section(
        self, swept: tuple[Path, str], tmp_path: Path
    ) -> None:
        (tmp_path / "drone-run").mkdir()
        for entry in read_ledger(swept[0] / "benchmarks/results/ledger").values():
            if entry["variant"] == "cvpo":
                write_json(tmp_path / "drone-run/cvpo.json", entry | {"task": "drone-run"})
        text = page(tmp_path)
        assert "## drone-run, tiny" in text
        assert "cvpo | 0 | 800 |" in text
        assert "- drone-run:" not in text, "nothing of the paper is missing there"

    def test_a_worker_that_is_lost_each_time_is_written_down(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(sweep.sys, "executable", "/bin/false")
        job = make_job("ball-circle", "cvpo", 0, Budget())
        assert sweep.sweep([job], tmp_path / "ledger", tmp_path / "work", 1, print) == 1
        (entry,) = read_ledger(tmp_path / "ledger").values()
        assert "lost 3 times" in entry["reason"]


class TestNumbers:
    """The paper's numbers and ours."""

    def test_the_papers_averages_are_those_of_its_columns(self) -> None:
        theirs = published()
        rows = {key[:2] for key in theirs if key[2] == "average"}
        # Table 5 has 7 rows for each task, Table 6 one and Table 8 three of its own
        assert len(rows) == 4 * (7 + 1 + 3)
        for task, row in rows:
            for name in ("reward", "cost"):
                parts = [getattr(theirs[task, row, column], name) for column in ("natural", "mc", "mr")]
                assert getattr(theirs[task, row, "average"], name) == pytest.approx(np.mean(parts), abs=0.01)
        assert theirs["drone-run-paper", "safer", "average"][::2] == (208.14, 0.44), "Table 6 misprints it"
        assert theirs["ball-circle", "safer", "worst"][::2] == (552.51, 1.72)

    def test_ours_are_means_of_episodes_and_then_of_seeds(self) -> None:
        """By hand, from two runs of two episodes; the paper's kind of attack shares the natural episodes."""

        def run(*costs: float) -> dict[str, Any]:
            tried = [{"by_episode": {"reward": [1.0, 3.0], "cost": [0.0, 2 * cost]}} for cost in costs]
            return {"trials": {"pgd": tried, "paper": [{}, *tried[1:]]}}

        both = [run(0.0, 3.0, 6.0), run(0.0, 5.0, 4.0)]
        assert numbers(both, "mc") == (2.0, 0.0, 4.0, pytest.approx(2**0.5))
        assert numbers(both, "average") == (2.0, 0.0, 3.0, 0.0)
        assert numbers(both, "worst", "paper") == (2.0, 0.0, 5.5, pytest.approx(0.5**0.5))
        assert str(numbers(both[:1], "mr")) == "2 / 6.0"
        assert numbers(both, "average", "pgd-doubled") is None

    def test_a_row_fails_below_a_tenth_of_vanilla(self, swept: tuple[Path, str], tmp_path: Path) -> None:
        (entry,) = finished(swept[0] / "benchmarks/results/ledger")
        for variant, reward in (("cvpo", 600.0), ("safer", 61.0), ("adv-cvpo", 59.0)):
            changed = copy.deepcopy(entry) | {"variant": variant, "row": variant}
            changed["config"]["variant"] = variant
            changed["trials"]["pgd"][0]["by_episode"]["reward"] = [reward]
            write_json(tmp_path / "ball-circle" / f"{variant}.json", changed)
        text = page(tmp_path)
        assert [name in text for name in ("★adv-cvpo", "★safer", "★cvpo")] == [True, False, False]

    def test_runs_of_other_settings_are_not_averaged(self, swept: tuple[Path, str]) -> None:
        (entry,) = finished(swept[0] / "benchmarks/results/ledger")
        old = copy.deepcopy(entry) | {"digest": "old", "date": "2000-01-01", "seed": 1}
        found = groups([entry, old])["ball-circle", "tiny"]["cvpo"]
        assert [e["seed"] for e in found] == [0]
        both = groups([copy.deepcopy(entry) | {"seed": 1}, entry])["ball-circle", "tiny"]["cvpo"]
        assert [e["seed"] for e in both] == [0, 1]


def test_a_ledger_that_is_not_there_makes_no_page(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    words = ["--render", "--ledger", str(tmp_path / "none"), "--out", str(out)]
    said = harden("benchmark", *words, code=2).output
    assert "none is no folder; name one that is there with --ledger" in said
    assert not out.exists()


def test_an_empty_ledger_has_a_page(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "- ball-circle: cvpo, safer" in text


def test_an_adversary_that_a_variant_never_meets_makes_no_other_run_of_it() -> None:
    def of(variant: str, **adversary: float) -> str:
        return digest(make_config({"task": "ant-run", "variant": variant, "adversary": adversary}))

    for variant, row in VARIANTS.items():
        assert (of(variant, ramp_start=0.5) != of(variant)) is row.adversarial, variant
        # roll-outs under noise have its radius
        noisy = row.behaviour == "policy-noise"
        assert (of(variant, epsilon=0.01) != of(variant)) is (row.adversarial or noisy), variant
