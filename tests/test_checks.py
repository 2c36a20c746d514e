"""Each check of an evaluation fires on a policy or critics made to trip it, and not on sound ones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from harden.attacks import ATTACKS, PaperStrength, Strength
from harden.checkpoint import LoadedPolicy, load_policy
from harden.evaluation.attacked import Victim, evaluate_policy
from harden.evaluation.checks import check, flat_share
from harden.evaluation.entries import Trial, parse_attacks
from harden.nets import Critics, GaussianPolicy
from harden.tasks import TASKS

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
TASK = TASKS["ball-circle"]


@pytest.fixture(scope="module")
def vanilla() -> LoadedPolicy:
    """The shipped vanilla policy, which attacks push over the limit."""
    return load_policy(RELEASED)


def scaled(critics: Critics, by: float) -> Critics:
    """Return critics whose values are a multiple of the given ones'."""
    other = copy.deepcopy(critics)
    with torch.no_grad():
        other.ensemble.weights[-1].mul_(by)
        other.ensemble.biases[-1].mul_(by)
    return other


def fired(
    policy: GaussianPolicy,
    own: Critics,
    attacks: str,
    *settings: tuple[float, Strength | PaperStrength],
    independent: Critics | None = None,
    episodes: int = 5,
) -> set[tuple[str, str]]:
    """Return the checks that fire, each with its attack."""
    trials = [Trial(episodes, epsilon, strength, "mean", 0) for epsilon, strength in settings]
    victim = Victim(policy, own, independent)
    tried = evaluate_policy(victim, TASK, parse_attacks(attacks), trials, workers=0)
    return {(one["check"], one["attack"]) for one in check(tried.entries)}


STRENGTH = Strength(5, 1, queries=17)


def test_nothing_speaks_against_attacks_on_a_policy_with_sound_critics(vanilla: LoadedPolicy) -> None:
    sound = fired(vanilla.policy, vanilla.critics, "random,mc,mr", (0.02, STRENGTH), (0.05, STRENGTH))
    assert sound == set()


def test_flat_critics_are_told(vanilla: LoadedPolicy) -> None:
    """They give no gradient; noise does more than the attack, and critics that are not flat beat it."""
    flat = scaled(vanilla.critics, 0.0)
    found = fired(
        vanilla.policy,
        flat,
        "random,mc,mc-independent,black-box",
        (0.05, STRENGTH),
        independent=vanilla.critics,
    )
    assert found == {
        ("vanishing-gradient", "mc"),
        ("weaker-than-noise", "mc"),
        ("weaker-than-noise", "black-box"),
        ("hidden-gradient", "mc-independent"),
    }


def test_a_cost_that_falls_as_epsilon_grows_is_told(vanilla: LoadedPolicy) -> None:
    """A policy that believes to be elsewhere breaks the limit by itself, and wrong critics help it."""
    policy = copy.deepcopy(vanilla.policy)
    with torch.no_grad():
        policy.trunk[0].bias += 0.1 * policy.trunk[0].weight[:, 0]
    wrong = scaled(vanilla.critics, -1.0)
    assert ("falling-cost", "mc") in fired(policy, wrong, "mc", (0.001, STRENGTH), (0.05, STRENGTH))


def test_an_attack_that_still_gains_from_more_steps_is_told(vanilla: LoadedPolicy) -> None:
    short, longer = (PaperStrength(steps, rate=2e-3, stop_value=0.0, stop_move=0.0) for steps in (1, 10))
    found = fired(vanilla.policy, vanilla.critics, "mc", (0.05, short), (0.05, longer))
    assert ("no-plateau", "mc") in found


def test_a_second_opinion_that_is_weak_is_told_with_the_reason(vanilla: LoadedPolicy) -> None:
    """Two queries are no search, and an adversary that learned nothing is none."""
    flat = scaled(vanilla.critics, 0.0)
    victim = Victim(vanilla.policy, vanilla.critics, learned={0.05: flat})
    trial = Trial(5, 0.05, Strength(5, 1, queries=2), "mean", 0)
    tried = evaluate_policy(victim, TASK, parse_attacks("mc,black-box,learned"), [trial], workers=0)
    said = check(tried.entries, {"learned": [{"epsilon": 0.05, "costs": [8.0, 9.0]}]})
    short = {one["attack"]: one["message"] for one in said if one["check"] == "falls-short"}
    assert "2 queries a state" in short["black-box"]
    assert "its training reached 8, 9" in short["learned"]
    assert "chance" not in short["learned"]


def test_few_episodes_are_not_compared(vanilla: LoadedPolicy) -> None:
    found = fired(vanilla.policy, scaled(vanilla.critics, 0.0), "random,mc", (0.05, STRENGTH), episodes=2)
    assert found == {("vanishing-gradient", "mc"), ("too-few-episodes", "natural")}


def test_a_policy_that_no_perturbation_moves_is_not_called_flat() -> None:
    policy, critics = GaussianPolicy(4, 2, (16,)), Critics(4, 2, hidden=(16,))
    obs = torch.randn(50, 4)

    def share() -> float:
        draw = torch.Generator().manual_seed(0)
        return flat_share(ATTACKS["mc"], policy, critics, obs, 0.1, "linf", draw)

    policy.mean_head.weight.data.mul_(30)
    assert share() == 0.0
    critics.ensemble.weights[-1].data.zero_()
    assert share() > 0.9
    policy.mean_head.weight.data.zero_()
    assert share() == 0.0
