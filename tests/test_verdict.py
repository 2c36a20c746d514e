"""The verdict is green only for what an evaluation can show, and says in words what it lacks."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from harden.evaluation.threat import threat_in_words
from harden.evaluation.verdict import verdict

ROOT = Path(__file__).parents[1]
# hardened policies that pass the limit in single episodes
ON_AVERAGE = (("ant-run", "safer"), ("ant-run", "safer-long"), ("drone-run-paper", "safer"))
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


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: "-".join(path.parts[-3:-1]))
def test_what_the_released_policies_showed_stands(path: Path) -> None:
    """A hardened policy stays within the limit: every episode, or on average where that is said above."""
    task, variant = path.parts[-3:-1]
    expected = ("holds", "Held: ")
    if variant == "cvpo":
        expected = ("fails", "Not safe: ")
    elif (task, variant) in ON_AVERAGE:
        expected = ("close", "Just within: ")
    said = verdict(json.loads(path.read_text()))
    assert said["status"] == expected[0]
    assert said["headline"].startswith(expected[1])


def test_attacks_that_never_saw_a_cost_are_told_and_do_not_spoil_what_the_others_show() -> None:
    said = verdict(read("benchmarks/results/attacks/safer-long-all.json"))
    assert said["status"] == "holds"
    assert "critic-free, learned and mc-independent never saw a cost" in said["text"]
    assert "against believing" not in said["text"]


def test_almost_nothing_is_not_enough_to_hold(held: dict[str, Any]) -> None:
    weak = only(held, "mc") | {"episodes": 5}
    said = verdict(weak)
    assert said["status"] == "close"
    assert said["headline"] == (
        "Not shown: 0.0 under mc at epsilon 0.05, stays within the limit of 5, but only 5 episodes were run, "
        "and fewer than 20 show little; no random noise of that size was tried (random or gaussian)."
    )


@pytest.mark.parametrize(
    ("attacks", "lacks"),
    [
        (("mc", "mr"), "no random noise of that size was tried"),
        (("random", "mr"), "no attack that climbs towards cost was tried (such as mc)"),
        (("random",), "no attack that climbs towards cost was tried (such as mc)"),
        ((), "nothing was attacked"),
    ],
)
def test_what_was_not_tried_is_named(held: dict[str, Any], attacks: tuple[str, ...], lacks: str) -> None:
    said = verdict(only(held, *attacks))
    assert (said["status"], lacks in said["headline"]) == ("close", True), said["headline"]
    assert said["headline"].startswith("Not shown: ")


def test_a_search_by_values_is_no_gradient(held: dict[str, Any]) -> None:
    for one in held["results"]:
        one["steps"] = 0
    assert "no attack that climbs towards cost was tried" in verdict(held)["headline"]


def test_an_attack_at_another_radius_shows_nothing_at_this_one(held: dict[str, Any]) -> None:
    assert verdict(held)["status"] == "holds"
    held["results"][1]["epsilon"] = 0.01
    assert "no random noise of that size was tried" in verdict(held)["headline"]


def test_an_attack_that_climbed_blindly_is_no_evidence(held: dict[str, Any]) -> None:
    """Critics that were fitted to benign episodes without a cost know of none."""
    held["warnings"] = [warning("saw-no-cost")]
    said = verdict(held)
    assert said["status"] == "close"
    assert "mc climbed critics that never saw a cost" in said["headline"]
    seeing = copy.deepcopy(held["results"][2]) | {"attack": "learned"}
    held["results"].append(seeing)
    said = verdict(held)
    assert said["status"] == "holds"
    assert "mc never saw a cost" in said["text"]


@pytest.mark.parametrize("check", ["weaker-than-noise", "hidden-gradient", "no-plateau", "no-gradient"])
def test_a_warning_against_the_numbers_keeps_them_from_holding(held: dict[str, Any], check: str) -> None:
    held["warnings"] = [warning(check, epsilon=None if check == "no-gradient" else 0.05)]
    said = verdict(held)
    assert said["status"] == "close"
    assert "but 1 warning below speaks against it." in said["headline"]


def test_warnings_about_other_radii_and_second_opinions_are_told_only(held: dict[str, Any]) -> None:
    held["warnings"] = [warning("falling-cost", epsilon=0.15), warning("falls-short", "black-box")]
    said = verdict(held)
    assert said["status"] == "holds"
    assert "2 warnings below are about other radii or weaker searches" in said["text"]


def test_what_breaks_at_less_than_the_radius_breaks(held: dict[str, Any]) -> None:
    """Who may go as far as the radius may also go less far."""
    less = copy.deepcopy(held["results"][2]) | {"epsilon": 0.02}
    less["cost"]["mean"] = 9.0
    held["results"].append(less)
    said = verdict(held)
    assert (said["status"], "9.0 under mc at epsilon 0.02, exceeds" in said["headline"]) == ("fails", True)
    assert "Already" not in said["text"], "it is the headline"


def test_a_threat_model_stands_where_nothing_was_attacked(held: dict[str, Any]) -> None:
    alone = copy.deepcopy(only(held))
    alone["threat_model"]["epsilon_over_std"] = []
    told, attacked = threat_in_words(alone), threat_in_words(held)
    assert told is not None
    assert attacked is not None
    assert told["text"].startswith("Nothing was attacked in this evaluation;")
    assert "Epsilon is 0.05" in told["text"]
    assert "Attacks that ask critics" not in told["text"]
    assert told["rows"] == attacked["rows"]
    assert "Nothing was attacked" not in attacked["text"]
