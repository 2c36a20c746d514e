"""Each check of an evaluation fires on a policy or critics made to trip it, and not on sound ones."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

import pytest
import torch

from harden.attacks import ATTACKS, PaperStrength, Strength
from harden.config.attacks import parse_attacks
from harden.config.tasks import TASKS
from harden.envs.vector import VectorEnv
from harden.evaluation.checks import Checked, check, strongest
from harden.evaluation.entries import Trial
from harden.evaluation.trials import Victim, evaluate_policy, flat_share
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import LoadedPolicy, load_policy
from harden.policies.foreign import ForeignPolicy, OpaquePolicy

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
TASK = TASKS["ball-circle"]
here = partial(VectorEnv, TASK, workers=0)


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
    tried = evaluate_policy(victim, TASK, parse_attacks(attacks), trials, simulate=here)
    return {(one["check"], one["attack"]) for one in check(tried.entries).warnings}


STRENGTH = Strength(5, 1, queries=17)


def test_nothing_speaks_against_attacks_on_a_policy_with_sound_critics(vanilla: LoadedPolicy) -> None:
    strength = Strength(20, 2, starts="corners")
    sound = fired(vanilla.policy, vanilla.critics, "random,mc", (0.02, strength), (0.05, strength))
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
        # five steps from one start
        ("weak-search", "mc-independent"),
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


@pytest.mark.parametrize(("attack", "weak"), [("mc", {"restarts": 1}), ("black-box", {"queries": 2})])
def test_an_attack_that_still_gains_from_more_starts_or_queries_is_told(
    attack: str, weak: dict, vanilla: LoadedPolicy
) -> None:
    """On a staircase nothing is climbed: each start is one look more."""
    strong = Strength(1, 40, queries=200)
    settings = (0.05, strong._replace(**weak)), (0.05, strong)
    assert ("no-plateau", attack) in fired(staircase(vanilla.policy), vanilla.critics, attack, *settings)


def staircase(policy: GaussianPolicy) -> OpaquePolicy:
    """Return the policy behind sensors that round: it has gradients, and they are nothing everywhere."""
    source = ForeignPolicy(
        "callable", lambda obs: (policy.mean(torch.round(obs / 0.02) * 0.02), None), differentiable=True
    )
    return OpaquePolicy(source, 8, *policy.bounds)


def test_a_gradient_that_is_hidden_is_told_by_a_search_that_needs_none(vanilla: LoadedPolicy) -> None:
    attacks, strength = "mc,black-box", Strength(5, 1, queries=100)
    found = fired(staircase(vanilla.policy), vanilla.critics, attacks, (0.05, strength))
    assert found == {("vanishing-gradient", "mc"), ("weak-search", "mc"), ("hidden-gradient", "black-box")}


def test_a_point_of_a_curve_is_not_taken_for_the_attack(vanilla: LoadedPolicy) -> None:
    """A single weak step that black-box beats says nothing against an attack of twenty."""
    weak, strong = (Strength(steps, 1, queries=200) for steps in (1, 20))
    trials = [Trial(5, 0.05, strength, "mean", 0) for strength in (weak._replace(step_share=0.01), strong)]
    victim = Victim(vanilla.policy, vanilla.critics)
    entries = evaluate_policy(victim, TASK, parse_attacks("mc,black-box"), trials, simulate=here).entries
    assert [one["attack"] for one in strongest(entries)] == ["natural", "black-box", "mc"]
    _, first, black_box, second = entries
    assert first["cost"]["mean"] < black_box["cost"]["mean"]
    found = check(entries)
    assert "hidden-gradient" not in {one["check"] for one in found.warnings}
    assert (found.made["hidden-gradient"], found.made["no-plateau"]) == (1, 1)
    assert found.made["weaker-than-noise"] == 0, "nothing to compare"
    assert found.made["falling-cost"] == 3, "each with no attack"
    assert second["steps"] == 20


def test_an_attack_that_learned_from_harmless_episodes_is_told(vanilla: LoadedPolicy) -> None:
    victim = Victim(vanilla.policy, vanilla.critics, vanilla.critics, learned={0.05: vanilla.critics})
    trial = Trial(2, 0.05, STRENGTH, "mean", 0)
    tried = evaluate_policy(victim, TASK, parse_attacks("mc,learned,mc-independent"), [trial], simulate=here)
    about = {
        "learned": [{"epsilon": 0.05, "costs": [0.0, 0.0], "cost_seen": 0.0}],
        "independent_critics": {"cost_seen": 2.5},
    }
    found = check(tried.entries, about)
    assert [one["attack"] for one in found.warnings if one["check"] == "saw-no-cost"] == ["learned"]
    assert found.made["saw-no-cost"] == 2
    fitted = check(tried.entries, {"critics": {"cost_seen": 0.0}}).warnings
    assert [one["attack"] for one in fitted if one["check"] == "saw-no-cost"] == ["mc"]


def test_a_second_opinion_that_is_weak_is_told_with_the_reason(vanilla: LoadedPolicy) -> None:
    """Two queries are no search, and an adversary that learned nothing is none."""
    flat = scaled(vanilla.critics, 0.0)
    victim = Victim(vanilla.policy, vanilla.critics, learned={0.05: flat})
    trial = Trial(5, 0.05, Strength(5, 1, queries=2), "mean", 0)
    tried = evaluate_policy(victim, TASK, parse_attacks("mc,black-box,learned"), [trial], simulate=here)
    found = check(tried.entries)
    short = {w["attack"]: w["message"] for w in found.warnings if w["check"] == "falls-short"}
    assert set(short) == {"black-box", "learned"}
    assert found.made["falls-short"] == 2
    # by how much it is behind
    assert "95 % interval" in short["learned"]


@pytest.mark.parametrize(("share", "expected"), [(0.02, []), (0.3, ["mc", "mc-independent"])])
def test_critics_that_were_fitted_with_a_bad_copy_of_the_policy_are_told(
    share: float, expected: list[str], vanilla: LoadedPolicy
) -> None:
    victim = Victim(vanilla.policy, vanilla.critics, vanilla.critics)
    trial = Trial(2, 0.05, STRENGTH, "mean", 0)
    tried = evaluate_policy(victim, TASK, parse_attacks("random,mc,mc-independent"), [trial], simulate=here)
    made = {"critics": {"surrogate_share": share}, "independent_critics": {"surrogate_share": share}}
    found = check(tried.entries, made)
    assert [w["attack"] for w in found.warnings if w["check"] == "poor-copy"] == expected
    assert found.made["poor-copy"] == 2
    assert check(tried.entries).made["poor-copy"] == 0


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


def test_where_nothing_costs_anything_attacks_are_judged_by_what_they_climb() -> None:
    """No episode tells a good attack from a bad one on a policy that holds; blind guesses do."""
    hardened = load_policy(RELEASED.parent / "safer-long")
    victim = Victim(hardened.policy, hardened.critics)

    def found(strength: Strength) -> Checked:
        trial = Trial(5, 0.05, strength, "mean", 0)
        return check(
            evaluate_policy(victim, TASK, parse_attacks("random,mc"), [trial], simulate=here).entries
        )

    weak, strong = found(Strength(5, 1)), found(Strength(20, 5, starts="corners"))
    for said in (weak, strong):
        assert (said.made["weaker-than-noise"], said.made["falling-cost"]) == (0, 0)
        assert said.made["weak-search"] == 1
    assert [one["check"] for one in weak.warnings] == ["weak-search"]
    assert strong.warnings == []


def test_an_attack_that_does_less_than_none_is_told_at_a_single_radius(vanilla: LoadedPolicy) -> None:
    victim, trial = Victim(vanilla.policy, vanilla.critics), Trial(5, 0.05, STRENGTH, "mean", 0)
    natural, mc = evaluate_policy(victim, TASK, parse_attacks("mc"), [trial], simulate=here).entries
    swapped = [natural | {key: mc[key] for key in ("cost", "per_episode")}]
    swapped.append(mc | {key: natural[key] for key in ("cost", "per_episode")})
    assert ("falling-cost", "mc") in {(one["check"], one["attack"]) for one in check(swapped).warnings}
    assert "falling-cost" not in {one["check"] for one in check([natural, mc]).warnings}
    curve = [*swapped, swapped[1] | {"epsilon": 0.1}]
    assert {w["epsilon"] for w in check(curve).warnings} == {0.05, 0.1}, "each says which point it is of"
    efforts = [*swapped, swapped[1] | {"steps": 50, "restarts": 4}]
    assert {(w["steps"], w["restarts"]) for w in check(efforts).warnings} >= {(5, 1), (50, 4)}
