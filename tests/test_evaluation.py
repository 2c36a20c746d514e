"""Statistics, entries, the verdict and the report page."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from harden.attacks import ATTACKS, Strength
from harden.config.attacks import parse_attacks
from harden.config.tasks import TASKS
from harden.envs.rollout import Rollout
from harden.errors import DamagedFileError, InputError, MissingInputError
from harden.evaluation.entries import (
    Trial,
    entry,
    paired,
    summarise,
    table,
    violation_interval,
    worst_entry,
)
from harden.evaluation.reading import Reported, load_curve, load_evaluation
from harden.evaluation.report import setting, write_report
from harden.evaluation.verdict import verdict
from harden.types import Transitions


def test_a_summary_is_mean_sample_deviation_and_an_interval_around_the_mean() -> None:
    values = np.array([1.0, 2.0, 3.0, 6.0])
    said = summarise(values)
    assert said["mean"] == 3.0
    assert said["std"] == pytest.approx(np.sqrt(14 / 3))
    low, high = said["ci95"]
    assert 1.0 <= low < 3.0 < high <= 6.0
    assert summarise(values) == said, "the interval's resampling is seeded"


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = summarise(rng.normal(size=50))["ci95"]
        hits += low <= 0.0 <= high
    assert 86 <= hits <= 100


def test_equal_values_and_one_episode_have_no_spread() -> None:
    assert summarise(np.array([4.0])) == {"mean": 4.0, "std": 0.0, "ci95": [4.0, 4.0]}
    assert summarise(np.zeros(5))["ci95"] == [0.0, 0.0]


def test_a_paired_difference_is_by_seed_and_narrower_than_the_spread() -> None:
    rng = np.random.default_rng(0)
    starts = rng.normal(scale=10.0, size=30)
    before = [{"seed": i, "cost": start} for i, start in enumerate(starts)]
    after = [{"seed": i, "cost": start + 1 + 0.1 * rng.normal()} for i, start in enumerate(starts)]
    found = paired(after[::-1], before, "cost")
    assert found["mean"] == pytest.approx(1.0, abs=0.1)
    assert found["std"] < 0.2
    assert found["ci95"][0] > 0
    assert paired(after, before[:5], "cost")["mean"] == pytest.approx(
        np.mean([a["cost"] - b["cost"] for a, b in zip(after[:5], before, strict=False)])
    )


def test_a_violation_is_a_cost_above_the_limit() -> None:
    task = TASKS["ball-circle"]._replace(cost_limit=5.0)
    zeros, costs = np.zeros(4), np.array([0.0, 5.0, 5.1, 90.0])
    run = Rollout(Transitions(*(torch.zeros(0),) * 7), np.arange(4), zeros, costs, np.full(4, 100))
    assert entry({}, task, run)["violation_rate"] == 0.5


def test_episodes_that_a_fall_cut_short_are_counted_and_told() -> None:
    task = TASKS["ball-circle"]._replace(horizon=100)

    def run(*lengths: int) -> Rollout:
        zeros = np.zeros(len(lengths))
        rows = Transitions(*(torch.zeros(0),) * 7)
        return Rollout(rows, np.arange(len(lengths)), zeros, zeros, np.array(lengths))

    natural = entry(evaluation(0.0)["results"][0], task, run(100, 100, 100, 100))
    fallen = entry(evaluation(0.0)["results"][1], task, run(40, 100, 99, 100), natural)
    assert (natural["early_rate"], fallen["early_rate"]) == (0.0, 0.5)
    said = table([natural, fallen, fallen | {"steps": 5, "restarts": 2}], 5.0).splitlines()
    assert [line.split()[-2] for line in said[1:4]] == ["0", "50", "50"]
    assert "50 x 5" in said[2]
    assert "5 x 2" in said[3], "rows that differ in nothing else"
    assert "50 % of the episodes ended early" in setting(fallen)
    assert "early" not in setting(natural)


def test_no_violation_in_some_episodes_does_not_mean_never() -> None:
    low, high = violation_interval(np.zeros(50), 5.0)
    assert low == 0.0
    # by hand: (1 - p)^50 = 0.025
    assert high == pytest.approx(1 - 0.025 ** (1 / 50))
    assert violation_interval(np.full(10, 9.0), 5.0)[1] == 1.0
    low, high = violation_interval(np.array([0.0, 9.0] * 20), 5.0)
    assert 0.3 < low < 0.5 < high < 0.7


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("mc,mr", ["natural", "mc", "mr"]),
        ("mr, mc, mr", ["natural", "mr", "mc"]),
        ("natural,random", ["natural", "random"]),
        ("worst,mc", ["natural", "mc", "worst"]),
        ("all", ["natural", *ATTACKS, "worst"]),
        ("", ["natural"]),
    ],
)
def test_natural_comes_first_and_each_attack_once(asked: str, meant: list[str]) -> None:
    assert parse_attacks(asked) == meant


def test_an_unknown_attack_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown attack 'mx'.*mc"):
        parse_attacks("mc,mx")


def evaluation(mc_cost: float) -> dict:
    """Return an evaluation as `harden evaluate` writes it."""

    def entry(attack: str, cost: float) -> dict:
        costs = {"mean": cost, "std": 1.0, "ci95": [cost - 0.5, cost + 0.5]}
        return {
            "attack": attack,
            "style": None if attack == "natural" else "pgd",
            "epsilon": 0.0 if attack == "natural" else 0.05,
            "steps": 0 if attack == "natural" else 50,
            "restarts": 5,
            "reward": {"mean": 500.0, "std": 2.0, "ci95": [499.0, 501.0]},
            "cost": costs,
            "violation_rate": float(cost > 5),
        }

    return {
        "format_version": 1,
        "task": "ball-circle",
        "env_id": "SafetyBallCircle-v0",
        "policy": {"path": "<b>here</b>", "variant": "cvpo", "policy_digest": "ab" * 32},
        "seed": 0,
        "episodes": 50,
        "cost_limit": 5.0,
        "action": "mean",
        "results": [entry("natural", 1.0), entry("mc", mc_cost), entry("random", 1.0)],
    }


def test_the_verdict_is_on_the_worst_attack() -> None:
    fails, holds = verdict(evaluation(41.0)), verdict(evaluation(2.0))
    assert (fails["status"], fails["attack"], fails["epsilon"]) == ("fails", "mc", 0.05)
    assert "41.0 under mc at epsilon 0.05 (95 % interval 40.5 to 41.5, 50 episodes)" in fails["headline"]
    assert (holds["status"], holds["attack"]) == ("holds", "mc")
    assert verdict(evaluation(4.8))["status"] == "close", "the interval reaches beyond the limit"
    alone = evaluation(41.0)
    alone["results"] = alone["results"][:1]
    assert [lack.split(":")[0] for lack in verdict(alone)["lacks"]] == ["attacks"]


def test_the_verdict_is_on_the_radius_to_withstand_and_names_what_lies_beyond() -> None:
    curve = evaluation(2.0)
    beyond = evaluation(70.0)["results"][1] | {"epsilon": 0.15}
    curve["results"].append(beyond)
    assert verdict(curve)["epsilon"] == 0.15, "nobody said which"
    curve["threat_model"] = {"epsilon": 0.05}
    assert verdict(curve)["status"] == "holds"
    assert (verdict(curve)["breaks_at"], verdict(curve)["holds_up_to"]) == (0.15, None)
    beyond["cost"]["mean"] = 3.0
    assert (verdict(curve)["breaks_at"], verdict(curve)["holds_up_to"]) == (None, 0.15)


def test_what_was_not_tried_at_the_radius_to_withstand_is_not_shown() -> None:
    weak = evaluation(2.0)
    weak["threat_model"] = {"epsilon": 0.1}
    assert verdict(weak)["status"] == "close"
    (lack,) = verdict(weak)["lacks"]
    assert "epsilon 0.1" in lack
    weak["results"][1]["cost"]["mean"] = 41.0
    assert verdict(weak)["status"] == "fails", "what breaks at less breaks"
    weak["results"].append(weak["results"][1] | {"epsilon": 0.1})
    assert verdict(weak)["breaks_at"] == 0.05


def test_of_equally_harmless_attacks_one_on_cost_is_named() -> None:
    held = evaluation(0.0)
    mc = held["results"][1]
    held["results"][0]["cost"] = mc["cost"]
    held["results"][1:] = [mc | {"attack": name} for name in ("random", "mc", "mad", "worst")]
    assert (verdict(held)["attack"], verdict(held)["epsilon"]) == ("mc", 0.05)


def test_the_harder_of_the_policys_own_and_independent_critics_decides() -> None:
    """The verdict is on the attack that costs more, and the worst of both is taken start by start."""
    both = evaluation(2.0)
    mc, other = both["results"][1], evaluation(9.0)["results"][1] | {"attack": "mc-independent"}
    both["results"].append(other)
    assert (verdict(both)["status"], verdict(both)["attack"]) == ("fails", "mc-independent")
    mc["cost"], other["cost"] = other["cost"], mc["cost"]
    assert (verdict(both)["status"], verdict(both)["attack"]) == ("fails", "mc")
    costs = {"natural": (0.0, 0.0), "mc": (3.0, 7.0), "mc-independent": (8.0, 1.0)}
    entries = [
        {
            "attack": name,
            "steps": 0,
            "per_episode": [
                {"seed": seed, "reward": 1.0, "cost": cost, "length": 200} for seed, cost in enumerate(pair)
            ],
        }
        for name, pair in costs.items()
    ]
    trial = Trial(2, 0.05, Strength(), "mean", 0)
    worst = worst_entry(trial, TASKS["ball-circle"], entries)
    assert worst["cost"]["mean"] == 7.5
    assert [episode["attack"] for episode in worst["per_episode"]] == ["mc-independent", "mc"]


class Tags(HTMLParser):
    """Collects what a page refers to and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "img", "!doctype"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_sound_file_with_both_tables_and_the_curves(tmp_path: Path) -> None:
    curve = {"env_steps": [2000.0, 4000.0], "reward": [1.0, 2.0], "cost": [9.0, 3.0]}
    shown = [Reported("before", evaluation(41.0), curve), Reported("after", evaluation(2.0))]
    write_report(tmp_path / "r.html", shown)
    page = (tmp_path / "r.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(source.startswith(("#", "data:")) for source in tags.sources), "nothing is fetched"
    pictures = [source for source in tags.sources if source.startswith("data:image/svg+xml;base64,")]
    assert len(pictures) == 4, "reward against cost of each, and two learning curves"
    assert "41.00 ± 1.00" in page
    assert "&lt;b&gt;here" in page
    assert "<b>here" not in page


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 2, "results": []}', "{" * 100_000])
def test_what_is_not_an_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(DamagedFileError):
        load_evaluation(tmp_path / "a.json")


def test_curves_are_read_back_and_bad_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("env_steps,reward,cost\n2000,7,1.5\n4000,8,0.5\n")
    assert load_curve(path) == {"env_steps": [2000.0, 4000.0], "reward": [7.0, 8.0], "cost": [1.5, 0.5]}
    for columns in ("", "reward,cost\n1,2\n"):
        path.write_text(columns)
        with pytest.raises(DamagedFileError):
            load_curve(path)
    for damaged in (b"high", b"1" * 400, b"nan", b"\xff"):
        path.write_bytes(b"env_steps,reward,cost\n2000,7," + damaged + b"\n")
        with pytest.raises(DamagedFileError):
            load_curve(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DamagedFileError):
        load_curve(path)
    path.unlink()
    with pytest.raises(MissingInputError):
        load_curve(tmp_path / "none.csv")


def test_json_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(evaluation(1.0)))
    assert load_evaluation(tmp_path / "a.json") == evaluation(1.0)
