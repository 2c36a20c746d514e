"""The benchmark: its plan, its ledger, its executors on real runs, its numbers and its page."""

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

from harden.benchmark import executors, figures, plan
from harden.benchmark import job as one_run
from harden.benchmark.claims import claims
from harden.benchmark.figures import Cell, Figure, interval
from harden.benchmark.job import job_of, place_of, spec_of
from harden.benchmark.ledger import entry_path, front, read_ledger, write_failure
from harden.benchmark.page import page
from harden.benchmark.tables import TABLES, Budget, digest, jobs, make_job
from harden.config.file import find_pipeline, load_config
from harden.config.pipeline import PipelineConfig, make_config
from harden.config.variants import VARIANTS
from harden.errors import DamagedFileError, InputError, OtherConfigurationError, StorageError
from harden.storage.files import write_json
from harden.training.run import load_run
from harden.training.workspace import Workspace
from support.commands import SMALL, harden
from support.sweep import SWEEP, TINY, WORDS

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
        entry = front(job) | {"status": "finished"}
        del entry["config"]["estep"]["limit_end"]
        write_json(entry_path(tmp_path, job), entry)
        assert plan.what_is_left([job], tmp_path).done == 1
        entry["config"]["mstep"]["kl_mean"] = 0.5
        write_json(entry_path(tmp_path, job), entry)
        assert plan.what_is_left([job], tmp_path).todo == [job]

    def test_a_failure_is_not_tried_again_unasked_and_never_hides_a_finished_run(
        self, tmp_path: Path
    ) -> None:
        job = make_job("ball-circle", "cvpo", 0, Budget())
        path = entry_path(tmp_path, job)
        write_failure(path, job, "no reason")
        assert plan.what_is_left([job], tmp_path) == ([], [(job, "no reason")], 0)
        assert plan.what_is_left([job], tmp_path, again=True).todo == [job]
        write_json(path, front(job) | {"status": "finished"})
        write_failure(path, job, "another")
        assert plan.what_is_left([job], tmp_path, again=True) == ([], [], 1)

    def test_what_is_left_takes_as_long_as_its_kin_took(self, tmp_path: Path) -> None:
        job = make_job("ball-circle", "cvpo", 0, Budget())
        trained = {"env_steps": 1000.0, "wall_time_s": 20.0}
        done = {"status": "finished", "trained": trained, "evaluation_s": 100.0}
        write_json(entry_path(tmp_path, job), front(job) | done)
        later = make_job("ball-circle", "cvpo", 1, Budget(env_steps=50_000))
        clock = plan.Clock(tmp_path)
        assert clock.seconds(later) == pytest.approx(50_000 * 0.02 + 100)
        stranger = make_job("ball-circle", "ppol", 1, Budget())
        assert clock.seconds(stranger) is None
        assert clock.total([later, later, stranger], 2) == "about 18 min, and 1 of unknown length"

    def test_a_measured_refresh_is_a_full_one_made_smaller(self) -> None:
        full = make_job("ball-circle", "adv-ppol", 0, Budget(paper=True)).config
        few = plan.small(full)
        share = few.train.episodes / full.train.episodes
        assert share < 0.1
        assert few.train.rounds == pytest.approx(full.train.rounds * share, abs=1)
        assert few.ppo.actor_steps == pytest.approx(full.ppo.actor_steps * share, abs=1)
        assert few.adversary.steps == full.adversary.steps == 200
        assert few.refreshes == 3


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
        patch.setattr(executors.subprocess, "Popen", start)
        said = harden(*SWEEP, code=1).output
    assert killed[0].returncode == -9
    return root, said


@pytest.mark.parametrize(("cost", "doubled"), [(5.0, True), (5.1, False)])
def test_twice_the_effort_is_for_what_the_first_left_within_the_limit(
    cost: float, doubled: bool, monkeypatch
) -> None:
    asked = []

    def evaluate(config: PipelineConfig, *_: object) -> dict[str, Any]:
        asked.append(config.evaluate.attack_steps)
        episode = {"reward": 1.0, "cost": cost, "length": 200}
        return {"results": [{"cost": {"mean": cost}, "per_episode": [episode]}]}

    monkeypatch.setattr(one_run, "open_evaluate", lambda config, *_, **__: config)
    monkeypatch.setattr(one_run, "evaluate", evaluate)
    found = one_run.tried(make_config({"task": "ball-circle"}), Path("policy"))
    assert list(found) == ["pgd", *["pgd-doubled"] * doubled, "paper", "paper-no-stop"]
    assert len(asked) == len(found)


@pytest.mark.parametrize("error", [InputError, StorageError, DamagedFileError, OtherConfigurationError])
def test_only_a_run_of_another_configuration_is_begun_anew(
    tmp_path: Path, monkeypatch, error: type[InputError]
) -> None:
    """A full disk, a lock or a damaged file is written down, and what was trained stays."""
    asked: list[bool] = []

    def open_train(config: PipelineConfig, place: object, *, overwrite: bool = False, **_: object) -> Any:
        asked.append(overwrite)
        if not overwrite:
            raise error("it is so")
        row = dict.fromkeys(one_run.CURVE, 1.0)
        return SimpleNamespace(history=[row])

    monkeypatch.setattr(one_run, "open_train", open_train)
    monkeypatch.setattr(one_run, "train", lambda run, _: run)
    job = make_job("ball-circle", "cvpo", 0, Budget())
    place = place_of(spec_of(job, tmp_path, tmp_path))
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
        assert "0 of 2 runs are done; left: 2 runs, an unknown time" in said
        assert "ball-circle cvpo seed 0: finished in" in said
        assert "left: 0 runs, nothing" in said
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
        assert re.search(r"cvpo seed 1 \(tiny\): \d+ min", said), (
            "as its kin took, however busy the machine is"
        )
        assert files(root / "benchmarks") == before

    def test_the_page_is_made_of_it(self, swept: tuple[Path, str], monkeypatch) -> None:
        root, _ = swept
        monkeypatch.chdir(root)
        harden("benchmark", "--render")
        text = (root / "docs/results.md").read_text()
        assert "## ball-circle, tiny" in text
        assert "cvpo | 800 | 0 |" in text
        assert "622 ± 103 / 0.00 ± 0.00 | 556 ± 102 / 20.91 ± 13.31" in text
        assert "- failed: ball-circle ppol seed 0:" in text
        for name in ("figure2", "costs"):
            picture = f"benchmark-ball-circle-tiny-{name}.png"
            assert f"]({picture})" in text
            assert (root / "docs" / picture).read_bytes().startswith(b"\x89PNG")

    def test_a_task_that_the_paper_does_not_have_gets_its_section(
        self, swept: tuple[Path, str], tmp_path: Path
    ) -> None:
        (tmp_path / "drone-run").mkdir()
        for entry in read_ledger(swept[0] / "benchmarks/results/ledger").values():
            if entry["variant"] == "cvpo":
                write_json(tmp_path / "drone-run/cvpo.json", entry | {"task": "drone-run"})
        text = page(tmp_path, tmp_path / "no-notes.md")
        assert "## drone-run, tiny" in text
        assert "cvpo | 800 | 0 |" in text
        assert "- drone-run:" not in text, "nothing of the paper is missing there"

    def test_what_has_not_run_can_be_timed(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        words = ["benchmark", "table5", "--task", "ball-circle", "--variant", "adv-cvpo", "--seeds", "0,1"]
        said = harden(*words, *WORDS, "--measure").output
        assert "ball-circle/adv-cvpo/reduced:" in said
        assert "left: 2 runs, about 1 min" in said
        assert not list((tmp_path / "benchmarks").rglob("*seed*")), "timing is no run"

    def test_a_worker_that_is_lost_each_time_is_written_down(self, tmp_path: Path, monkeypatch) -> None:
        monkeypatch.setattr(executors.sys, "executable", "/bin/false")
        job = make_job("ball-circle", "cvpo", 0, Budget())
        assert plan.sweep([job], tmp_path / "ledger", tmp_path / "work", "local", 1, print) == 1
        (entry,) = read_ledger(tmp_path / "ledger").values()
        assert "lost 3 times (last: exit code 1)" in entry["reason"]


def cells(**rows: tuple[float, float, float]) -> dict[str, dict[str, Cell]]:
    """Return cells of rows given as natural reward, and attacked reward and cost."""

    def cell(reward: float, cost: float) -> Cell:
        return Cell(Figure(reward, reward, reward), Figure(cost, cost, cost))

    return {
        row.replace("_", "-"): {"natural": cell(natural, 0.0), "mc": cell(reward, cost)}
        for row, (natural, reward, cost) in rows.items()
    }


class TestFigures:
    """Means, intervals, marks and stars."""

    def test_the_interval_of_one_run_is_its_episodes_and_of_several_their_spread(self) -> None:
        draw = np.random.default_rng(1)
        one = draw.normal(10, 2, 400)
        found = interval([one])
        assert found.mean == pytest.approx(one.mean())
        assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
        constant = [np.full(50, value) for value in (0.0, 4.0)]
        assert interval(constant) == (2.0, 0.0, 4.0)

    def test_a_row_fails_below_a_tenth_of_vanilla(self) -> None:
        found = cells(cvpo=(600, 600, 20), safer=(61, 61, 1), adv_cvpo=(59, 59, 0))
        assert figures.failing(found) == {"adv-cvpo"}
        assert figures.failing({row: found[row] for row in ("safer", "adv-cvpo")}) == set()

    def test_two_lowest_costs_are_marked_more_reward_first_and_no_failing_row(self) -> None:
        found = cells(
            cvpo=(600, 600, 20),
            adv_cvpo=(1, 1, 0),
            safer=(500, 500, 0.5),
            ppol=(500, 400, 0.5),
            x=(500, 450, 0.5),
        )
        assert figures.shaded(found, "mc") == {"safer", "x"}

    def test_the_papers_averages_are_those_of_its_columns(self) -> None:
        numbers = figures.published()
        rows = {key[:2] for key in numbers if key[2] == "average"}
        # Table 5 has 7 rows for each task, Table 6 one and Table 8 three of its own
        assert len(rows) == 4 * (7 + 1 + 3)
        for task, row in rows:
            for name in ("reward", "cost"):
                parts = [getattr(numbers[task, row, column], name) for column in ("natural", "mc", "mr")]
                assert getattr(numbers[task, row, "average"], name) == pytest.approx(np.mean(parts), abs=0.01)
        assert numbers["drone-run-paper", "safer", "average"][::2] == (208.14, 0.44), "Table 6 misprints it"
        assert numbers["ball-circle", "safer", "worst"][::2] == (552.51, 1.72)

    def test_runs_of_other_settings_are_not_averaged(self, swept: tuple[Path, str]) -> None:
        (entry,) = (
            e for e in read_ledger(swept[0] / "benchmarks/results/ledger").values() if e["variant"] == "cvpo"
        )
        old = copy.deepcopy(entry) | {"digest": "old", "date": "2000-01-01", "seed": 1}
        found = figures.groups([entry, old])["ball-circle", "tiny"]["cvpo"]
        assert [e["seed"] for e in found.entries] == [0]
        both = figures.groups([entry, copy.deepcopy(entry) | {"seed": 1}])["ball-circle", "tiny"]["cvpo"]
        assert both.seeds == "0, 1"
        columns = both.cells("pgd")
        parts = [columns[name].cost.mean for name in ("natural", "mc", "mr")]
        assert columns["average"].cost.mean == pytest.approx(np.mean(parts))

    def test_a_run_that_was_tried_from_inside_the_ball_is_told_apart(self, swept: tuple[Path, str]) -> None:
        entry = next(iter(read_ledger(swept[0] / "benchmarks/results/ledger").values()))
        assert not figures.tried_from_inside([entry], "pgd")
        assert not figures.tried_from_inside([entry], "paper"), "that one carries its perturbation over"
        old = copy.deepcopy(entry)
        del old["trials"]["pgd"][1]["starts"]
        assert figures.tried_from_inside([entry, old], "pgd")

    def test_claims_say_what_holds_and_what_has_not_run(self, swept: tuple[Path, str]) -> None:
        (entry,) = (
            e for e in read_ledger(swept[0] / "benchmarks/results/ledger").values() if e["variant"] == "cvpo"
        )
        for one in entry["trials"]["pgd"]:
            one["by_episode"] = {"reward": [500.0], "cost": [0.0]}
        costly, dear = copy.deepcopy(entry), copy.deepcopy(entry)
        for one in costly["trials"]["pgd"][1:]:
            one["by_episode"]["cost"] = [40.0]
        dear["trained"]["cumulative_cost"] = 2 * entry["trained"]["cumulative_cost"] + 1
        rows = {"cvpo": costly, "safer": entry, "adv-ppol": dear, "safer-no-kl": costly}
        groups = {row: figures.Group(row, [found]) for row, found in rows.items()}
        said = {claim: verdict for claim, verdict, _ in claims(groups, "pgd")}
        assert said["vanilla CVPO is unsafe under attack"].startswith(
            "yes: up to 40.0 an episode under attack"
        )
        assert said["safer is safe under attack"].startswith("yes: up to 0.0")
        assert said["adv-ppol costs more in training than safer"].startswith("yes")
        assert said["safer-no-kl is worse than safer"].startswith("yes")
        assert said["safer-no-mle is worse than safer"] == "not run yet: safer-no-mle"
        # a mean within the limit is not enough for a plain yes
        near = copy.deepcopy(entry)
        for one in near["trials"]["pgd"]:
            one["by_episode"] = {"reward": [500.0] * 10, "cost": [0.0] * 6 + [10.0] * 4}
        groups["safer"] = figures.Group("safer", [near])
        doubtful = {claim: verdict for claim, verdict, _ in claims(groups, "pgd")}
        assert doubtful["safer is safe under attack"].startswith("on average only: up to 4.0")
        assert "40 % of the episodes" in doubtful["safer is safe under attack"]
        # a further seed of safer alone, a bad one, is no comparison with a row that has not run it
        bad = copy.deepcopy(costly) | {"seed": 1}
        groups["safer"] = figures.Group("safer", [entry, bad])
        again = {claim: verdict for claim, verdict, _ in claims(groups, "pgd")}
        assert again["safer-no-kl is worse than safer"] == said["safer-no-kl is worse than safer"]
        assert again["safer is safe under attack"].startswith("no")


def test_a_ledger_that_is_not_there_makes_no_page(tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    words = ["--render", "--ledger", str(tmp_path / "none"), "--out", str(out)]
    said = harden("benchmark", *words, code=2).output
    assert "none is no folder; name one that is there with --ledger" in said
    assert not out.exists()


def test_an_empty_ledger_has_a_page(tmp_path: Path) -> None:
    text = page(tmp_path, tmp_path / "notes.md")
    assert "- ball-circle: cvpo, safer" in text


def test_an_adversary_that_a_variant_never_meets_makes_no_other_run_of_it() -> None:
    def of(variant: str, **adversary: float) -> str:
        return digest(make_config({"task": "ant-run", "variant": variant, "adversary": adversary}))

    for variant, row in VARIANTS.items():
        assert (of(variant, ramp_start=0.5) != of(variant)) is row.adversarial, variant
        # roll-outs under noise have its radius
        noisy = row.behaviour == "policy-noise"
        assert (of(variant, epsilon=0.01) != of(variant)) is (row.adversarial or noisy), variant
