"""The breaking radius: the search, and what evaluate, the report and the benchmark's page say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harden.attacks import ATTACKS, Strength
from harden.benchmark.page import breaks_at
from harden.config.pipeline import make_config
from harden.config.tasks import TASKS
from harden.errors import InputError
from harden.evaluation import radius
from harden.evaluation.entries import Trial
from harden.evaluation.radius import breaking_radius, radius_words
from harden.evaluation.reading import load_evaluation, load_runs
from harden.evaluation.report import write_report
from harden.evaluation.trials import Victim
from harden.evaluation.verdict import verdict
from harden.nets.saved import load_policy
from harden.progress import QUIET
from harden.stages import attackers
from harden.stages import evaluate as stage
from harden.training.imitation import CPU
from support.commands import harden, refused

ROOT = Path(__file__).parents[1]
RELEASED = ROOT / "checkpoints/released/ball-circle"
TINY = ["--episodes", "2", "--attack-steps", "1", "--restarts", "1", "--set", "collect.workers=0"]
LIMIT, RADIUS = 5.0, 0.1


class Cost:
    """A cost by radius that remembers what it was asked."""

    def __init__(self, function) -> None:
        self.function, self.asked = function, list[float]()

    def __call__(self, epsilon: float) -> float:
        self.asked.append(epsilon)
        return self.function(epsilon)


@pytest.mark.parametrize("true", [0.002, 0.037, 0.0999, 0.1, 0.13, 0.31, 0.3999])
def test_of_a_cost_that_grows_the_place_is_found(true: float) -> None:
    cost = Cost(lambda epsilon: 100 * epsilon - 100 * true + LIMIT)
    found = breaking_radius(cost, LIMIT, RADIUS, {0.0: 0.0})
    assert found.epsilon is not None
    assert found.below is not None
    assert found.below <= true <= found.epsilon + 1e-12
    assert found.epsilon - found.below <= 0.05 * RADIUS * (1 + 1e-6)
    assert found.costs[found.below] <= LIMIT < found.costs[found.epsilon]
    assert len(cost.asked) == len(set(cost.asked)) == len(found.costs) - 1
    assert len(cost.asked) <= 9


def test_of_a_cost_that_rises_and_falls_a_place_is_found_where_it_passes() -> None:
    def cost(epsilon: float) -> float:
        # above the limit between 0.032 and 0.05, and from 0.16 on
        return 9.0 if 0.032 < epsilon < 0.05 or epsilon >= 0.16 else 1.0

    blind = breaking_radius(cost, LIMIT, RADIUS, {0.0: 1.0})
    assert blind.epsilon == pytest.approx(0.16, abs=0.05 * RADIUS)
    assert blind.below is not None
    assert cost(blind.below) == 1.0
    # a radius that was measured on the way is passed over by no search
    asked = Cost(cost)
    seen = breaking_radius(asked, LIMIT, RADIUS, {0.0: 1.0, 0.04: 9.0, 0.1: 1.0})
    assert seen.epsilon == pytest.approx(0.032, abs=0.05 * RADIUS)
    assert max(asked.asked) < 0.04


def test_what_is_known_is_not_asked_again() -> None:
    cost = Cost(lambda epsilon: 1000 * epsilon)
    found = breaking_radius(cost, LIMIT, RADIUS, {0.0: 0.0, 0.1: 100.0, 0.0025: 2.5, 0.3: 300.0})
    assert not {0.0, 0.1, 0.0025, 0.2, 0.4} & set(cost.asked)
    assert found.epsilon is not None
    assert 0.005 < found.epsilon < 0.01
    assert list(found.costs) == sorted(found.costs)


def test_who_breaks_unattacked_breaks_at_0_and_who_never_does_at_none() -> None:
    never = Cost(lambda epsilon: LIMIT)
    assert breaking_radius(never, LIMIT, RADIUS, {0.0: LIMIT + 0.1}) == (0.0, None, {0.0: LIMIT + 0.1})
    assert never.asked == []
    held = breaking_radius(never, LIMIT, RADIUS, {0.0: 0.0})
    assert (held.epsilon, held.below) == (None, 0.4)
    assert never.asked == pytest.approx([0.1, 0.2, 0.4]), "at the limit is within it"
    further = breaking_radius(never, LIMIT, RADIUS, {0.0: 0.0, 1.0: LIMIT})
    assert (further.epsilon, further.below) == (None, 1.0)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[float]]:
    """A folder with evaluations of a vanilla and of a useless policy, what was said, and the radii run."""
    folder, run = tmp_path_factory.mktemp("radius"), list[float]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Path("still.py").write_text("def act(obs):\n    return 0 * obs[:, :2]\n")
        real = radius.actor
        patch.setattr(
            radius,
            "actor",
            lambda name, victim, trial, *more: (run.append(trial.epsilon), real(name, victim, trial, *more))[
                1
            ],
        )
        words = ["--breaking-radius", "--attack", "mc,worst", "--epsilon", "0.025,0.05", *TINY]
        said = harden("evaluate", "--policy", str(RELEASED / "cvpo"), *words, "--json", "a.json").output
        words = ["--breaking-radius", "--attack", "random", *TINY, "--json", "b.json"]
        said += harden("evaluate", "--policy", "still:act", *words).output
    return folder, said, run


def test_a_vanilla_policy_breaks_below_the_tasks_radius_and_one_that_stands_still_nowhere(
    found: tuple[Path, str, list[float]],
) -> None:
    folder, said, run = found
    vanilla, still = (load_evaluation(folder / name) for name in ("a.json", "b.json"))
    (row,) = vanilla["breaking_radius"]
    entries = {(one["attack"], one["epsilon"]): one["cost"]["mean"] for one in vanilla["results"]}
    assert row["attack"] == "mc"
    assert 0 < row["epsilon"] < 0.05
    assert row["cost_below"] <= vanilla["cost_limit"] < row["cost_above"]
    assert row["epsilon"] - row["holds_at"] <= 0.05 * 0.05 * (1 + 1e-6)
    costs = {point["epsilon"]: point["cost"] for point in row["tried"]}
    assert costs[0.0] == entries["natural", 0.0]
    assert (costs[0.025], costs[0.05]) == (entries["mc", 0.025], entries["mc", 0.05])
    (other,) = still["breaking_radius"]
    assert (other["attack"], other["epsilon"], other["cost_above"]) == ("random", None, None)
    assert other["tried_up_to"] == other["holds_at"] == pytest.approx(0.2)
    assert not {0.0, 0.025} & set(run), "the evaluation has measured them"
    assert len(run) == len(row["tried"]) - 3 + 2
    assert "above 0.2" in said
    assert f"{row['epsilon']:.3g}" in said


def test_the_report_shows_it_of_one_policy_and_of_two(
    found: tuple[Path, str, list[float]], tmp_path: Path
) -> None:
    shown = load_runs([found[0] / "a.json", found[0] / "b.json"])
    for compare in (False, True):
        write_report(tmp_path / "r.html", shown, compare)
        page = (tmp_path / "r.html").read_text()
        assert page.count("<caption>Breaking radius") == 2 + compare
        assert "above 0.2" in page
    row = shown[0].evaluation["breaking_radius"][0]
    assert verdict(shown[0].evaluation)["breaks_at"] == row["epsilon"]
    assert verdict(shown[1].evaluation)["holds_up_to"] == pytest.approx(0.2)


def test_a_file_whose_radii_are_none_is_refused_by_its_key(
    found: tuple[Path, str, list[float]], tmp_path: Path
) -> None:
    evaluation = json.loads((found[0] / "a.json").read_text())
    evaluation["breaking_radius"][0]["epsilon"] = "0.05"
    (tmp_path / "c.json").write_text(json.dumps(evaluation))
    assert "breaking_radius.0.epsilon = '0.05'" in refused("report", str(tmp_path / "c.json"))


def test_a_radius_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = str(RELEASED / "cvpo")
    refused("evaluate", "--policy", policy, "--attack", "natural", "--breaking-radius")
    config = make_config({"task": "ball-circle"})
    monkeypatch.setitem(TASKS, "ball-circle", TASKS["ball-circle"]._replace(epsilon=0.0))
    with pytest.raises(InputError, match="is 0"):
        stage.evaluate(config, Path(policy), ["natural", "mc"], breaking=["mc"])


def test_the_benchmarks_page_takes_the_smallest_of_the_seeds() -> None:
    def run(attack: str, epsilon: float | None) -> dict:
        return {"breaking_radius": [{"attack": attack, "epsilon": epsilon, "tried_up_to": 0.2}]}

    assert breaks_at([{}]) == breaks_at([run("mc", 0.07), {}]) == "–"
    assert breaks_at([run("mc", 0.0712), run("mc", 0.06), run("mc", None)]) == "0.06"
    assert breaks_at([run("mc", None)]) == radius_words({"epsilon": None, "tried_up_to": 0.2}) == "above 0.2"
    both = {"breaking_radius": run("mr", 0.01)["breaking_radius"] + run("mc", 0.03)["breaking_radius"]}
    assert (breaks_at([both]), breaks_at([run("mr", 0.0)])) == ("0.03", "0")


@pytest.mark.parametrize(("attack", "makes"), [("critic-free", "search_adversary"), ("learned", "_planned")])
def test_what_is_made_for_one_radius_is_made_for_each_that_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: str, makes: str
) -> None:
    made = list[float]()

    def make(*given: object) -> tuple[str, list[float]]:
        made.append(next(value for value in given if isinstance(value, float)))
        return f"one for {made[-1]}", []

    owner = attackers if makes == "search_adversary" else attackers.Attackers
    monkeypatch.setattr(owner, makes, make)
    loaded = load_policy(RELEASED / "cvpo")
    maker = attackers.Attackers(make_config({"task": "ball-circle"}), loaded, tmp_path, CPU, QUIET)
    victim = Victim(loaded.policy, loaded.critics)
    for epsilon in (0.1, 0.2, 0.2):
        trial = Trial(1, epsilon, Strength(), "mean", 0)
        victim = maker.at(victim, attack, trial)
        assert victim.critics_for(ATTACKS[attack], epsilon) == f"one for {epsilon}"
    assert made == [0.1, 0.2]
    assert maker.at(victim, "mc", trial) is victim
