"""The verdict is green only for what an evaluation can show, and names what it lacks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harden.evaluation.threat import threat
from harden.evaluation.verdict import mark, verdict

ROOT = Path(__file__).parents[1]
# hardened policies over the limit in single episodes, or under critics fitted to them (docs/falls-short.md)
ON_AVERAGE = (("ant-run", "safer-long"),)
UNSAFE = (("ant-run", "safer"), ("drone-run-paper", "safer"))
RELEASED = sorted((ROOT / "checkpoints/released").glob("*/*/evaluation.json"))


def read(path: str) -> dict[str, Any]:
    """Return an evaluation of the repository."""
    return json.loads((ROOT / path).read_text())


@pytest.fixture
def held() -> dict[str, Any]:
    """The evaluation of a hardened policy: random, mc and mr, 50 episodes, no cost and no warning."""
    return read("checkpoints/released/ball-circle/safer-long/evaluation.json")


def only(evaluation: dict[str, Any], *attacks: str) -> dict[str, Any]:
    """Return an evaluation with some of its attacks."""
    kept = [one for one in evaluation["results"] if one["attack"] in ("natural", *attacks)]
    return evaluation | {"results": kept}


def warning(check: str, attack: str = "mc", epsilon: float | None = 0.05) -> dict[str, Any]:
    """Return a warning of a check."""
    return {"check": check, "attack": attack, "epsilon": epsilon, "message": "it is so"}


def lacking(evaluation: dict[str, Any]) -> list[str]:
    """Return what a verdict that is not green lacks, each line by its first word."""
    said = verdict(evaluation)
    assert said["status"] == "close"
    return [line.split(":")[0] for line in said["lacks"]]


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_what_the_released_policies_showed_stands(path: Path) -> None:
    """A hardened policy stays within the limit in every episode, but for those that are named above."""
    task, variant = path.parts[-3:-1]
    expected = "close" if (task, variant) in ON_AVERAGE else "holds"
    if variant == "cvpo" or (task, variant) in UNSAFE:
        expected = "fails"
    said = verdict(json.loads(path.read_text()))
    assert (said["status"], said["lacks"]) == (expected, [])


def test_attacks_that_never_saw_a_cost_are_told_and_do_not_spoil_what_the_others_show() -> None:
    assert verdict(read("benchmarks/results/attacks/safer-long-all.json"))["status"] == "holds"


def test_almost_nothing_is_not_enough_to_hold(held: dict[str, Any]) -> None:
    assert lacking(only(held, "mc") | {"episodes": 5}) == ["episodes", "noise"]


@pytest.mark.parametrize(
    ("attacks", "lacks"),
    [
        (("mc", "mr"), "noise"),
        (("random", "mr"), "gradients"),
        (("random",), "gradients"),
        ((), "attacks"),
    ],
)
def test_what_was_not_tried_is_named(held: dict[str, Any], attacks: tuple[str, ...], lacks: str) -> None:
    assert lacking(only(held, *attacks)) == [lacks]


def test_a_search_by_values_is_no_gradient(held: dict[str, Any]) -> None:
    for one in held["results"]:
        one["steps"] = 0
    assert lacking(held) == ["gradients"]


def test_an_attack_at_another_radius_shows_nothing_at_this_one(held: dict[str, Any]) -> None:
    assert verdict(held)["status"] == "holds"
    held["results"][1]["epsilon"] = 0.01
    assert lacking(held) == ["noise"]


def test_an_attack_that_climbed_blindly_is_no_evidence(held: dict[str, Any]) -> None:
    """Critics that were fitted to benign episodes without a cost know of none."""
    held["warnings"] = [warning("saw-no-cost")]
    assert lacking(held) == ["costs"]
    seeing = copy.deepcopy(held["results"][2]) | {"attack": "learned"}
    held["results"].append(seeing)
    assert verdict(held)["status"] == "holds"


@pytest.mark.parametrize("check", ["weaker-than-noise", "hidden-gradient", "no-plateau", "no-gradient"])
def test_a_warning_against_the_numbers_keeps_them_from_holding(held: dict[str, Any], check: str) -> None:
    held["warnings"] = [warning(check, epsilon=None if check == "no-gradient" else 0.05)]
    assert lacking(held) == ["warnings"]


def test_warnings_about_other_radii_and_second_opinions_do_not_spoil_it(held: dict[str, Any]) -> None:
    held["warnings"] = [warning("falling-cost", epsilon=0.15), warning("falls-short", "black-box")]
    assert verdict(held)["status"] == "holds"


def test_what_breaks_at_less_than_the_radius_breaks(held: dict[str, Any]) -> None:
    """Who may go as far as the radius may also go less far."""
    less = copy.deepcopy(held["results"][2]) | {"epsilon": 0.02}
    less["cost"]["mean"] = 9.0
    held["results"].append(less)
    said = verdict(held)
    assert (said["status"], said["attack"], said["epsilon"]) == ("fails", "mc", 0.02)


def test_a_policy_that_does_nothing_is_not_green_anywhere(held: dict[str, Any]) -> None:
    assert {mark(one, held) for one in held["results"]} == {"within"}
    held["warnings"] = [warning("does-nothing", "natural", None)]
    assert lacking(held) == ["reward"]
    assert {mark(one, held) for one in held["results"]} == {"unsure"}
    held["results"][1]["cost"]["mean"] = 9.0
    assert verdict(held)["status"] == "fails"


@pytest.mark.parametrize(
    ("mean", "high", "rate", "episodes", "expected"),
    [
        (0.0, 0.0, 0.0, 50, "within"),
        (4.0, 4.9, 0.0, 50, "within"),
        (4.0, 7.0, 0.0, 50, "unsure"),
        (4.0, 4.9, 0.02, 50, "unsure"),
        (4.0, 7.0, 0.3, 50, "unsure"),
        (0.0, 0.0, 0.0, 19, "unsure"),
        (5.1, 7.0, 0.3, 50, "over"),
    ],
)
def test_a_cost_is_coloured_by_its_interval_and_its_episodes_too(
    held: dict[str, Any], mean: float, high: float, rate: float, episodes: int, expected: str
) -> None:
    cost = {"mean": mean, "std": 1.0, "ci95": [0.0, high]}
    found = mark(held["results"][2] | {"cost": cost, "violation_rate": rate}, held | {"episodes": episodes})
    assert found == expected


def test_a_threat_model_stands_where_nothing_was_attacked(held: dict[str, Any]) -> None:
    alone = copy.deepcopy(only(held))
    told, attacked = threat(alone), threat(held)
    assert told is not None
    assert attacked is not None
    assert told["rows"] == attacked["rows"]
    assert (told["facts"]["radii tried"], attacked["facts"]["radii tried"]) == ("none", "0.05")
