"""Statistics, calibration of critics, and the report page."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from harden.attacks import ATTACKS
from harden.config.tasks import TASKS
from harden.envs.rollout import Rollout
from harden.envs.vector import VectorEnv
from harden.errors import DamagedFileError, InputError, MissingInputError
from harden.evaluation.calibration import Branches, branch, calibrate, noise_ceiling
from harden.evaluation.entries import entry, parse_attacks, table
from harden.evaluation.reading import Reported, load_curve, load_evaluation
from harden.evaluation.report import write_report
from harden.evaluation.soundness import soundness
from harden.evaluation.statistics import paired, pooled, summarise, violation_interval, violation_rate
from harden.evaluation.verdict import verdict
from harden.nets import GaussianPolicy
from harden.seeds import episode_seeds, generator
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
    assert violation_rate(np.array([0.0, 5.0, 5.1, 90.0]), 5.0) == 0.5


def test_episodes_that_a_fall_cut_short_are_counted_and_told() -> None:
    task = TASKS["ball-circle"]._replace(horizon=100)

    def run(*lengths: int) -> Rollout:
        zeros = np.zeros(len(lengths))
        rows = Transitions(*(torch.zeros(0),) * 7)
        return Rollout(rows, np.arange(len(lengths)), zeros, zeros, np.array(lengths))

    natural = entry(evaluation(0.0)["results"][0], task, run(100, 100, 100, 100))
    fallen = entry(evaluation(0.0)["results"][1], task, run(40, 100, 99, 100), natural)
    assert (natural["early_rate"], fallen["early_rate"]) == (0.0, 0.5)
    assert "ended before" not in table([natural], 5.0)
    assert "episodes that ended before their time limit: mc 50 %" in table([natural, fallen], 5.0)
    curve = [natural, fallen | {"epsilon": 0.01}, fallen | {"epsilon": 0.02}]
    assert "time limit: mc at 0.01 50 %, mc at 0.02 50 %" in table(curve, 5.0)
    assert "effort" not in table(curve, 5.0)
    harder = [natural, fallen | {"steps": 5, "restarts": 2}, fallen | {"steps": 50, "restarts": 4}]
    said = table(harder, 5.0).splitlines()
    assert "effort" in said[0]
    assert ("5 x 2" in said[2], "50 x 4" in said[3]) == (True, True), "rows that differ in nothing else"
    told = evaluation(0.0)
    early = "episodes that a fall ended, with and without it"
    assert early not in dict(verdict(told)["figures"])
    told["results"][0]["early_rate"], told["results"][1]["early_rate"] = 0.25, 0.5
    told["results"][1]["cost"]["mean"] = 2.0
    assert dict(verdict(told)["figures"])[early] == "50 % and 25 %"


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


def test_branches_share_their_beginning_and_average_their_returns() -> None:
    policy = GaussianPolicy(8, 2, (8,), init_std=0.5)
    task = TASKS["ball-circle"]._replace(horizon=12)
    found = branch(policy, task, (0.5, 0.5), points=4, branches=3, seed=5, workers=0)
    again = branch(policy, task, (0.5, 0.5), points=4, branches=3, seed=5, workers=1)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    assert found.obs.shape == (4, 8)
    # the first point by hand: the same actions up to it, and three ways on from there
    place = generator("cpu", 5, "branch-time")
    time = int(torch.randint(12 - 6, (4,), generator=place)[0])
    draw = generator("cpu", 5, "branch-actions", 0)
    returns = torch.zeros(3, dtype=torch.float64)
    with VectorEnv(task, 3, 0) as envs:
        seeds = episode_seeds(5, "branch", 0, 1).repeat(3)
        obs = torch.from_numpy(envs.reset(np.arange(3), seeds))
        for now in range(12):
            with torch.no_grad():
                actions = policy.sample(obs, draw)
            if now <= time:
                assert torch.equal(obs[0], obs[1])
                actions = actions[:1].repeat(3, 1)
            if now == time:
                assert torch.equal(obs[0], found.obs[0])
                assert torch.equal(actions[0], found.actions[0])
            step = envs.step(np.arange(3), actions.numpy())
            obs = torch.from_numpy(step.obs)
            if now >= time:
                returns += 0.5 ** (now - time) * torch.from_numpy(step.rewards).double()
    torch.testing.assert_close(found.rewards[0], returns, rtol=1e-6, atol=0)


def test_critics_that_are_right_are_called_right_and_a_bias_is_seen() -> None:
    rewards, costs = torch.rand(2, 30, 4, dtype=torch.float64)
    held_out = Branches(torch.rand(30, 1), torch.rand(30, 1), rewards, costs)

    def critics(reward: float, cost: float) -> SimpleNamespace:
        return SimpleNamespace(
            q_reward=lambda obs, actions: reward * rewards.mean(1),
            q_cost=lambda obs, actions: cost * costs.mean(1),
        )

    right = calibrate(critics(1.0, 1.0), held_out)
    assert right["points"] == 30
    assert right["reward"]["bias"] == right["cost"]["bias"] == 0.0
    assert right["reward"]["rank_correlation"] == pytest.approx(1.0)
    wrong = calibrate(critics(1.5, -0.5), held_out)
    assert wrong["reward"]["bias"] == pytest.approx(0.5)
    assert wrong["cost"]["bias"] == pytest.approx(-1.5)
    assert wrong["cost"]["rank_correlation"] == pytest.approx(-1.0)


def test_what_never_costs_anything_leaves_nothing_to_rank() -> None:
    rewards, costs = torch.rand(30, 4, dtype=torch.float64), torch.zeros(30, 4, dtype=torch.float64)
    critics = SimpleNamespace(q_reward=lambda *_: rewards.mean(1), q_cost=lambda *_: torch.rand(30))
    found = calibrate(critics, Branches(torch.rand(30, 1), torch.rand(30, 1), rewards, costs))
    assert found["cost"]["rank_correlation"] is None
    assert found["cost"]["noise_ceiling"] is None
    assert found["cost"]["bias"] is None
    assert found["cost"]["mean_return"] == 0.0
    json.dumps(found, allow_nan=False)


def test_the_noise_ceiling_is_what_true_values_reach() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4000, 1))
    returns = values + 3.0 * rng.normal(size=(4000, 24))
    reached = stats.spearmanr(values[:, 0], returns.mean(1)).statistic
    assert noise_ceiling(returns) == pytest.approx(reached, abs=0.02)
    assert noise_ceiling(np.repeat(values, 2, axis=1)) == pytest.approx(1.0)
    assert noise_ceiling(np.concatenate((values, -values), axis=1)) == 0.0


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
    assert (fails["status"], "41.0 under mc at epsilon 0.05" in fails["headline"]) == ("fails", True)
    assert (holds["status"], "2.0 under mc at epsilon 0.05" in holds["headline"]) == ("holds", True)
    assert verdict(evaluation(4.8))["status"] == "close", "the interval reaches beyond the limit"
    alone = evaluation(41.0)
    alone["results"] = alone["results"][:1]
    assert verdict(alone)["lacks"] == ["nothing was attacked"]


def test_the_verdict_is_on_the_radius_to_withstand_and_names_what_lies_beyond() -> None:
    curve = evaluation(2.0)
    beyond = curve["results"][1] | {"epsilon": 0.15, "cost": {"mean": 70.0}}
    curve["results"].append(beyond)
    assert "70.0 under mc at epsilon 0.15" in verdict(curve)["headline"], "nobody said which"
    curve["threat_model"] = {"epsilon": 0.05}
    said = verdict(curve)
    assert said["status"] == "holds"
    assert ("over the limit from", "70.0 under mc at epsilon 0.15") in said["figures"]
    curve["results"][-1]["cost"]["mean"] = 3.0
    assert ("within the limit up to", "epsilon 0.15") in verdict(curve)["figures"]
    curve["checks"] = {"no-plateau": 1, "hidden-gradient": 0}
    assert ("checks of the attacks that could not be made", "1") in verdict(curve)["figures"]


def test_what_was_not_tried_at_the_radius_to_withstand_is_not_shown() -> None:
    weak = evaluation(2.0)
    weak["threat_model"] = {"epsilon": 0.1}
    said = verdict(weak)
    assert said["status"] == "close"
    assert said["lacks"] == ["nothing was tried at epsilon 0.1, the task's"]
    weak["results"][1]["cost"]["mean"] = 41.0
    assert verdict(weak)["status"] == "fails", "what breaks at less breaks"
    weak["results"].append(weak["results"][1] | {"epsilon": 0.1})
    assert ("over the limit from", "41.0 under mc at epsilon 0.05") in verdict(weak)["figures"]


def test_of_equally_harmless_attacks_one_on_cost_is_named() -> None:
    held = evaluation(0.0)
    mc = held["results"][1]
    held["results"][0]["cost"] = mc["cost"]
    held["results"][1:] = [
        mc | {"attack": "random"},
        mc,
        mc | {"attack": "mad", "reward": {"mean": 300.0}},
        mc | {"attack": "worst"},
    ]
    said = verdict(held)
    assert "0.0 under mc at epsilon 0.05" in said["headline"]
    assert ("kinds of attack tried", "3") in said["figures"]


def test_a_check_that_could_not_be_made_is_told_with_what_it_needs() -> None:
    told = evaluation(2.0) | {
        "checks": {"no-plateau": 0, "hidden-gradient": 2},
        "warnings": [{"check": "hidden-gradient", "message": "it beats it"}],
    }
    found = soundness(told)
    assert found["missing"] == 1
    assert "needs --curves" in found["checks"][0]["outcome"]
    assert found["checks"][1]["outcome"] == "2 comparisons, 1 warning"
    assert "safer" in found["warnings"][0]["meaning"]
    assert soundness(evaluation(2.0)) == {"warnings": [], "checks": [], "missing": 0}


def test_seeds_of_training_come_before_episodes_in_a_pooled_interval() -> None:
    rng = np.random.default_rng(0)
    apart = [rng.normal(level, 1.0, 50) for level in (0.0, 10.0, 20.0)]
    found, flat = pooled(apart), summarise(np.concatenate(apart))
    assert found["mean"] == pytest.approx(flat["mean"])
    wide = [value["ci95"][1] - value["ci95"][0] for value in (found, flat)]
    assert wide[0] > 3 * wide[1], "150 episodes of three policies are not 150 policies"
    alike = [rng.normal(0.0, 1.0, 50) for _ in range(3)]
    assert pooled(alike)["ci95"][1] - pooled(alike)["ci95"][0] < 1.0


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
    shown = [Reported("before", evaluation(41.0)), Reported("after", evaluation(2.0))]
    write_report(tmp_path / "r.html", shown, [("run", curve)])
    page = (tmp_path / "r.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert all(source.startswith("data:image/svg+xml;base64,") for source in tags.sources)
    assert len(tags.sources) == 4, "reward against cost of each, and two learning curves"
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
        with pytest.raises(DamagedFileError, match="has no column 'env_steps'"):
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
