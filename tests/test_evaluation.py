"""Statistics, calibration of critics, and the report page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harden.errors import DamagedFileError, InputError, MissingInputError
from harden.evaluation.attacked import parse_attacks
from harden.evaluation.calibration import calibrate
from harden.evaluation.report import load_curve, load_evaluation, verdict, write_report
from harden.evaluation.statistics import summarise, violation_rate
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


def test_a_violation_is_a_cost_above_the_limit() -> None:
    assert violation_rate(np.array([0.0, 5.0, 5.1, 90.0]), 5.0) == 0.5


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("mc,mr", ["natural", "mc", "mr"]),
        ("mr, mc, mr", ["natural", "mr", "mc"]),
        ("natural,random", ["natural", "random"]),
        ("all", ["natural", "random", "mc", "mr"]),
        ("", ["natural"]),
    ],
)
def test_natural_comes_first_and_each_attack_once(asked: str, meant: list[str]) -> None:
    assert parse_attacks(asked) == meant


def test_an_unknown_attack_lists_the_known() -> None:
    with pytest.raises(InputError, match=r"unknown attack 'mx'.*mc"):
        parse_attacks("mc,mx")


def episodes(length: int, count: int, terminal: bool) -> Transitions:
    """Return episodes whose observation is the step's number and whose reward is always 1."""
    rows = length * count
    step = (torch.arange(rows) % length).float()
    ends = step == length - 1
    none = torch.zeros(rows, dtype=torch.bool)
    obs = step.unsqueeze(1)
    costs = (step > length // 2).float()
    return Transitions(
        obs,
        torch.zeros(rows, 1),
        torch.ones(rows),
        costs,
        obs,
        ends if terminal else none,
        none if terminal else ends,
    )


def critics(reward: float, cost: float, length: int) -> SimpleNamespace:
    """Return critics that know the answer, up to a factor."""
    gamma = 0.5

    def left(obs: torch.Tensor) -> torch.Tensor:
        return length - obs[:, 0]

    def q_cost(obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        wait = (length // 2 + 1 - obs[:, 0]).clamp(min=0)
        return cost * gamma**wait * (1 - gamma ** (left(obs) - wait)) / (1 - gamma)

    return SimpleNamespace(
        q_reward=lambda obs, actions: reward * (1 - gamma ** left(obs)) / (1 - gamma), q_cost=q_cost
    )


def test_critics_that_are_right_are_called_right_and_a_bias_is_seen() -> None:
    data = episodes(20, 3, terminal=True)
    right = calibrate(critics(1.0, 1.0, 20), data, 0.5)
    assert right["rows"] == 60
    assert abs(right["reward"]["bias"]) < 1e-6
    assert right["reward"]["rank_correlation"] == pytest.approx(1.0, abs=1e-3)
    assert right["cost"]["rank_correlation"] == pytest.approx(1.0, abs=1e-3)
    wrong = calibrate(critics(1.5, -0.5, 20), data, 0.5)
    assert wrong["reward"]["bias"] == pytest.approx(0.5, abs=1e-5)
    assert wrong["cost"]["bias"] == pytest.approx(-1.5, abs=1e-5)
    assert wrong["cost"]["rank_correlation"] == pytest.approx(-1.0, abs=1e-3)


def test_rows_whose_future_the_time_limit_cut_are_left_out() -> None:
    # 0.5 ** 6 is below 2 %: the last five rows of each episode do not count
    assert calibrate(critics(1.0, 1.0, 20), episodes(20, 3, terminal=False), 0.5)["rows"] == 3 * 15


def evaluation(mc_cost: float) -> dict:
    """Return an evaluation as `harden evaluate` writes it."""

    def entry(attack: str, cost: float) -> dict:
        costs = {"mean": cost, "std": 1.0, "ci95": [cost - 0.5, cost + 0.5]}
        return {
            "attack": attack,
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
        "results": [entry("natural", 1.0), entry("mc", mc_cost)],
    }


def test_the_verdict_is_on_the_worst_attack() -> None:
    assert "41.0 under mc, exceeds the limit of 5" in verdict(evaluation(41.0))
    assert "2.0 under mc, stays within" in verdict(evaluation(2.0))


class Tags(HTMLParser):
    """Collects what a page refers to and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_sound_file_with_both_tables_and_the_curves(tmp_path: Path) -> None:
    curve = {"env_steps": [2000.0, 4000.0], "reward": [1.0, 2.0], "cost": [9.0, 3.0]}
    write_report(
        tmp_path / "r.html", [("before", evaluation(41.0)), ("after", evaluation(2.0))], [("run", curve)]
    )
    page = (tmp_path / "r.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert len(tags.sources) == 1
    assert page.count("<table>") == 2
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
    path.write_text("env_steps,cost\n2000,1.5\n4000,0.5\n")
    assert load_curve(path) == {"env_steps": [2000.0, 4000.0], "cost": [1.5, 0.5]}
    path.write_text("env_steps,cost\n2000,high\n")
    with pytest.raises(DamagedFileError):
        load_curve(path)
    with pytest.raises(MissingInputError):
        load_curve(tmp_path / "none.csv")


def test_json_round_trip(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(evaluation(1.0)))
    assert load_evaluation(tmp_path / "a.json") == evaluation(1.0)
