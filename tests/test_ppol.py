"""PPO-Lagrangian: its mathematics against brute force, and its rows through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from harden.config.file import PRESETS, load_config
from harden.config.sections import OnPolicy
from harden.config.tasks import TASKS
from harden.config.variants import VARIANTS
from harden.data.dataset import DatasetWriter, open_dataset
from harden.errors import Interrupted
from harden.method import adversary as adversary_ops
from harden.method import critic_step as critic_ops
from harden.method import ppo
from harden.method.adversary import mad_attack
from harden.method.critic_step import make_replay
from harden.method.learner import Learner, new_learner
from harden.method.ppo import (
    OnPolicyBatch,
    PidGains,
    as_observed,
    clipped_surrogate,
    gae,
    improve,
    lagrangian_surrogate,
    policy_loss,
    prepare,
    smoothness,
    step_pid,
)
from harden.nets import StateValues, gaussian
from harden.nets.saved import save_critics
from harden.training import collection
from harden.training.run import open_for_stage
from harden.training.workspace import Workspace
from harden.types import PidState, Transitions
from support.commands import ALLOW, SETTINGS, assert_same_run, harden, stages, stop_after
from support.learners import EPSILON, configure, recorded_streams
from support.transitions import gap

CPU = torch.device("cpu")
ROWS = [row.name for row in VARIANTS.values() if row.on_policy]


def episodes(count: int = 60) -> Transitions:
    """Return transitions of four episodes, two of which the dynamics ended."""
    draw = torch.Generator().manual_seed(1)
    obs = torch.randn(count + 1, 8, generator=draw)
    terminals, timeouts = torch.zeros(count, dtype=torch.bool), torch.zeros(count, dtype=torch.bool)
    terminals[[9, 30]] = True
    timeouts[[19, count - 1]] = True
    return Transitions(
        obs[:-1],
        torch.rand(count, 2, generator=draw) * 2 - 1,
        torch.randn(count, generator=draw),
        torch.rand(count, generator=draw).round(),
        obs[1:],
        terminals,
        timeouts,
    )


class TestAdvantages:
    """GAE and what it bootstraps from."""

    @pytest.mark.parametrize("decay", [0.0, 0.6, 1.0])
    def test_gae_is_the_weighted_sum_of_td_errors_within_the_episode(self, decay: float) -> None:
        data, gamma = episodes(), 0.9
        values, later = torch.randn(60), torch.randn(60)
        ends = data.terminals | data.timeouts
        found = gae(data.rewards, values, later, data.terminals, ends, gamma, decay)
        for t in range(60):
            total, weight = 0.0, 1.0
            for k in range(t, 60):
                future = 0.0 if data.terminals[k] else gamma * float(later[k])
                total += weight * (float(data.rewards[k]) + future - float(values[k]))
                if ends[k]:
                    break
                weight *= gamma * decay
            assert float(found[t]) == pytest.approx(total, abs=1e-4)

    def test_with_decay_one_and_no_values_it_is_the_return(self) -> None:
        data, zeros = episodes(), torch.zeros(60)
        ends = data.terminals | data.timeouts
        found = gae(data.costs, zeros, zeros, data.terminals, ends, 1.0, 1.0)
        assert float(found[0]) == pytest.approx(float(data.costs[:10].sum()))
        assert float(found[10]) == pytest.approx(float(data.costs[10:20].sum()))

    def test_under_attack_the_next_observation_is_the_one_that_was_given(self) -> None:
        data = episodes()
        ends = data.terminals | data.timeouts
        chained = data._replace(next_obs=torch.where(ends.unsqueeze(1), data.next_obs + 7, data.next_obs))
        assert torch.equal(as_observed(chained).next_obs, chained.next_obs), "benign data stay as they are"
        attacked = chained._replace(obs=data.obs + 0.05)
        seen = as_observed(attacked).next_obs
        torch.testing.assert_close(seen[~ends], data.next_obs[~ends] + 0.05)
        assert torch.equal(seen[ends], chained.next_obs[ends])


class TestLosses:
    """Eq. 69, 70, and the multiplier's controller."""

    def test_the_clipped_surrogate_case_by_case(self) -> None:
        ratio = torch.tensor([0.5, 0.5, 1.0, 1.5, 1.5])
        advantage = torch.tensor([1.0, -1.0, 2.0, 1.0, -1.0])
        found = clipped_surrogate(ratio.log(), advantage, 0.2)
        torch.testing.assert_close(found, torch.tensor([0.5, -0.8, 2.0, 1.2, -1.5]))

    def test_where_it_clips_there_is_no_gradient_but_the_costs(self) -> None:
        log_ratio = torch.tensor([0.5, -0.5, 0.0], requires_grad=True)
        advantage, cost = torch.tensor([1.0, -1.0, 1.0]), torch.tensor([0.3, 0.0, 0.5])
        total = lagrangian_surrogate(log_ratio, advantage, cost, 2.0, 0.2).sum()
        (gradient,) = torch.autograd.grad(total, log_ratio)
        expected = torch.tensor([-2.0 * 0.3 * 1.648721, 0.0, 1.0 - 2.0 * 0.5]) / 3.0
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)

    def test_the_pid_controller_step_by_step(self) -> None:
        gains, state = PidGains(0.1, 0.01, 0.5), PidState()
        state = step_pid(state, 15.0, 5.0, gains)
        assert state == pytest.approx((10.0, 15.0, 0.1 * 10 + 0.01 * 10 + 0.5 * 15))
        state = step_pid(state, 12.0, 5.0, gains)
        assert state == pytest.approx((17.0, 12.0, 0.1 * 7 + 0.01 * 17)), "only a rise is damped"
        for _ in range(10):
            state = step_pid(state, 0.0, 5.0, gains)
        assert state == (0.0, 0.0, 0.0), "neither the sum nor the multiplier falls below zero"

    def test_a_constant_excess_raises_the_multiplier_linearly(self) -> None:
        state = PidState()
        for count in range(1, 6):
            state = step_pid(state, 7.0, 5.0, PidGains(0.0, 0.25, 0.0))
            assert state.lam == pytest.approx(0.5 * count)

    def test_the_kl_is_that_of_torch(self) -> None:
        mean, std, other_mean, other_std = (torch.rand(5, 3) + 0.1 for _ in range(4))
        expected = kl_divergence(Normal(mean, std), Normal(other_mean, other_std)).sum(-1)
        torch.testing.assert_close(gaussian.kl(mean, std, other_mean, other_std), expected)


def on_policy(variant: str = "ppol", **sections: Any) -> tuple[Learner, Any]:
    """Return an untrained on-policy learner and its pipeline."""
    config = configure(variant=variant, **sections)
    return new_learner(config, CPU), config


class TestUpdate:
    """One collection's gradient steps."""

    def test_a_batch_has_the_policys_own_likelihoods_and_the_returns_as_targets(self) -> None:
        learner, config = on_policy()
        data = episodes()
        batch = prepare(learner, data, config, 0.0)
        mean, std = learner.policy(data.obs)
        torch.testing.assert_close(batch.old_log_prob, Normal(mean, std).log_prob(data.actions).sum(-1))
        assert learner.values is not None
        values, later = learner.values(data.obs).detach(), learner.values(data.next_obs).detach()
        ends = data.terminals | data.timeouts
        for i, signal in enumerate((data.rewards, data.costs)):
            plain = gae(signal, values[i], later[i], data.terminals, ends, 0.97, 0.97)
            torch.testing.assert_close(batch.targets[i], plain + values[i])
        assert float(batch.advantages.mean()) == pytest.approx(0.0, abs=1e-6)
        assert float(batch.advantages.std()) == pytest.approx(1.0, abs=1e-4)
        assert float(batch.cost_advantages.mean()) == pytest.approx(0.0, abs=1e-6)
        assert batch.obs_adv is batch.obs

    def test_at_the_acting_policy_the_kl_is_zero_and_the_gradient_the_policy_gradient(self) -> None:
        learner, config = on_policy()
        batch = prepare(learner, episodes(), config, 0.0)
        lam, parameters = 0.7, list(learner.policy.parameters())
        loss, kl, rough = policy_loss(learner.policy, batch, lam, config.ppo, False)
        assert (float(kl), float(rough)) == (pytest.approx(0.0, abs=1e-6), 0.0)
        mean, std = learner.policy(batch.obs)
        weight = (batch.advantages - lam * batch.cost_advantages) / (1 + lam)
        plain = -(weight * Normal(mean, std).log_prob(batch.actions).sum(-1)).mean()
        pairs = zip(
            torch.autograd.grad(loss, parameters), torch.autograd.grad(plain, parameters), strict=True
        )
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("kind", ["kl", "squared"])
    def test_the_smoothness_has_its_gradient_from_the_attacked_path_only(self, kind: str) -> None:
        learner, config = on_policy("sa-ppol")
        batch = prepare(learner, episodes(), config, 0.3)
        clean = batch.obs.clone().requires_grad_()
        adv = batch.obs_adv.clone().requires_grad_()
        rough = smoothness(learner.policy, batch._replace(obs=clean, obs_adv=adv), kind)
        attacked, benign = torch.autograd.grad(rough, (adv, clean), allow_unused=True)
        assert float(attacked.abs().sum()) > 0
        assert benign is None
        mean, std = learner.policy(batch.obs)
        mean_adv, std_adv = learner.policy(batch.obs_adv)
        expected = (mean - mean_adv).square().sum(-1)
        if kind == "kl":
            expected = kl_divergence(Normal(mean, std), Normal(mean_adv, std_adv)).sum(-1)
        assert float(rough) == pytest.approx(float(expected.mean()), rel=1e-4)
        options = OnPolicy(smoothing_weight=3.0, smoothing_loss=kind)
        with_it = float(policy_loss(learner.policy, batch, 0.0, options, True)[0])
        without = float(policy_loss(learner.policy, batch, 0.0, options, False)[0])
        assert with_it == pytest.approx(without + 3.0 * float(rough), rel=1e-5)

    def test_what_was_collected_under_attack_is_learned_from_as_it_was_observed(self) -> None:
        """Algorithm 5: values and critics bootstrap from the observation that the policy was given next."""
        learner, config = on_policy("adv-ppol")
        data = episodes()
        attacked = data._replace(obs=data.obs + 0.05)
        seen = as_observed(attacked)
        assert not torch.equal(seen.next_obs, attacked.next_obs)
        assert learner.values is not None
        now, later = learner.values(seen.obs).detach(), learner.values(seen.next_obs).detach()
        ends = data.terminals | data.timeouts
        wanted = gae(data.costs, now[1], later[1], data.terminals, ends, 0.97, 0.97) + now[1]
        torch.testing.assert_close(prepare(learner, attacked, config, 0.0).targets[1], wanted)
        torch.testing.assert_close(make_replay(attacked, config, CPU).next_obs, seen.next_obs)
        benign = make_replay(attacked, configure(variant="safer"), CPU).next_obs
        assert torch.equal(benign, attacked.next_obs), "an off-policy row takes what is stored"

    @pytest.mark.parametrize("variant", ["sa-ppol", "sa-ppol-mc"])
    def test_the_smoothness_is_over_each_coordinates_radius(self, variant: str) -> None:
        radius = torch.tensor([0.001] * 4 + [0.1] * 4)
        own = {"name": "mine", "horizon": 20, "cost_limit": 1, "obs_dim": 8, "act_dim": 2}
        own |= {"epsilon": radius.tolist()}
        learner, config = on_policy(variant, task=own)
        batch = prepare(learner, episodes(), config, config.train_epsilon)
        share = ((batch.obs_adv - batch.obs).abs() / radius).amax(0)
        assert bool((share <= 1 + 1e-3).all())
        assert bool((share > 0.5).all())

    def test_mad_finds_more_difference_than_noise(self) -> None:
        learner, config = on_policy(adversary={"steps": 5, "step_share": 0.7})
        obs, draw = torch.randn(200, 8), torch.Generator().manual_seed(0)
        adv = mad_attack(learner.policy, learner.critics, obs, EPSILON, config.adversary, draw)
        noise = obs + EPSILON * (2 * torch.rand(200, 8) - 1)
        assert float((adv - obs).abs().max()) <= EPSILON * 1.0001
        found, chance = (
            gaussian.kl(*learner.policy(obs), *learner.policy(seen)).mean() for seen in (adv, noise)
        )
        assert float(found) > 2 * float(chance)

    def test_the_state_values_go_to_their_targets(self) -> None:
        options = {"actor_steps": 1, "value_steps": 100, "value_learning_rate": 1e-2}
        learner, config = on_policy(ppo=options)
        batch = prepare(learner, episodes(), config, 0.0)
        assert learner.values is not None

        def errors() -> list[float]:
            with torch.no_grad():
                return (learner.values(batch.obs) - batch.targets).square().mean(1).tolist()

        before = errors()
        done = improve(learner, episodes(), config, 0.0, 0.0)
        after = errors()
        for i, reported in enumerate((done.value_loss, done.cost_value_loss)):
            assert after[i] < 0.5 * before[i]
            assert reported == pytest.approx(after[i], rel=0.2)

    def test_each_draw_is_from_a_stream_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        streams = recorded_streams(monkeypatch, ppo)
        options = {"minibatch": 16, "actor_steps": 2, "value_steps": 2, "target_kl": 1e9}
        learner, config = on_policy("sa-ppol", ppo=options, seed=11)
        learner.advance(round=3)
        others = torch.get_rng_state()
        improve(learner, episodes(), config, 0.0, 0.05)
        named = [("smoothing", 3)]
        named += [(f"{part}-batch", 3, step) for part in ("actor", "value") for step in range(2)]
        assert streams == [("cpu", 11, *place) for place in named]
        assert torch.equal(torch.get_rng_state(), others)

    @pytest.mark.parametrize("minibatch", [None, 128])
    def test_it_learns_what_pays_and_under_a_multiplier_what_costs_nothing(
        self, minibatch: int | None
    ) -> None:
        """Episodes of one step: the reward is the first coordinate of the action, the cost the second."""
        options = {"learning_rate": 3e-3, "target_kl": 0.1, "minibatch": minibatch, "pid_proportional": 3.0}
        options |= {"actor_steps": 40, "value_steps": 20}
        learner, config = on_policy(ppo=options, cost_limit=0.1)
        ones = torch.ones(400, dtype=torch.bool)
        lams = []
        for place in range(15):
            obs = torch.randn(400, 8, generator=torch.Generator().manual_seed(place))
            with torch.no_grad():
                actions = learner.policy.sample(obs, torch.Generator().manual_seed(place))
            costs = (actions[:, 1] + 1) / 2
            data = Transitions(obs, actions, actions[:, 0], costs, obs, ones, ~ones)
            done = improve(learner, data, config, float(costs.mean()), 0.0)
            lams.append(done.lam)
            learner.advance(round=1)
        mean = learner.policy.mean(torch.randn(200, 8)).mean(0)
        assert float(mean[0]) > 0.5
        assert float(mean[1]) < -0.5
        assert lams[0] > 0

    def test_a_learner_begun_from_critics_alone_keeps_its_state_values(self, tmp_path: Path) -> None:
        learner, config = on_policy()
        place = Workspace.named("mine", tmp_path)
        save_critics(place.critics, learner.critics, {})
        assert open_for_stage(config, place, CPU).learner.values is not None

    def test_the_actors_steps_end_at_the_target_kl(self) -> None:
        learner, config = on_policy(ppo={"learning_rate": 1e-2, "target_kl": 1e-4})
        done = improve(learner, episodes(), config, 0.0, 0.0)
        assert 1 <= done.actor_steps < 80
        assert done.kl > 1e-4
        assert learner.counters.policy_steps == done.actor_steps


# who is attacked where: Algorithm 4 at the policy's smoothness, Algorithm 5 at the roll-outs, PPOL nowhere
ATTACKED = {
    "ppol": set(),
    "sa-ppol": {"smoothness by mad"},
    "sa-ppol-mc": {"smoothness by mc"},
    "adv-ppol": {"roll-outs by mc"},
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_does_what_its_box_says(folder: Path, name: str, monkeypatch) -> None:
    attacked, smoothed = set(), []

    def spy(module: Any, attack: str, where: str) -> None:
        plain = getattr(module, f"{attack}_attack")

        def spied(policy: Any, critics: Any, obs: torch.Tensor, epsilon: float, *rest: Any) -> torch.Tensor:
            if epsilon > 0:
                attacked.add(f"{where} by {attack}")
            return plain(policy, critics, obs, epsilon, *rest)

        monkeypatch.setattr(module, f"{attack}_attack", spied)

    for module, where in ((adversary_ops, "replay"), (critic_ops, "critics"), (collection, "roll-outs")):
        spy(module, "mc", where)
    for attack in ("mc", "mad"):
        spy(ppo, attack, "smoothness")
    plain = ppo.smoothness

    def of(policy: Any, batch: OnPolicyBatch, kind: str) -> torch.Tensor:
        smoothed.append(float((batch.obs_adv - batch.obs).abs().max()))
        return plain(policy, batch, kind)

    monkeypatch.setattr(ppo, "smoothness", of)
    harden("train", *SETTINGS, "--variant", name, ALLOW)
    assert attacked == ATTACKED[name]
    assert bool(smoothed) == (VARIANTS[name].smoothing is not None)
    assert max(smoothed, default=EPSILON) == pytest.approx(EPSILON, rel=1e-3)
    dataset = open_dataset(folder / "datasets/ball-circle")
    behaviours = {shard.behaviour for shard in dataset.info.shards}
    assert behaviours == {"mc" if name == "adv-ppol" else "policy-sample"}
    assert (float(gap(dataset.read(400, 1200)).max()) > 0) == (name == "adv-ppol")


def test_the_policy_that_is_kept_averages_over_refreshes_and_not_over_critic_rounds() -> None:
    train = {"average": 0.5, "rounds": 200, "env_steps": 200_000}
    learner, config = on_policy(train=train)
    assert learner.memory == 0.5 * config.refreshes
    off_policy = configure(variant="cvpo", train=train)
    assert new_learner(off_policy, CPU).memory == 0.5 * off_policy.refreshes * 200


@pytest.mark.parametrize("name", ["sa-ppol-mc", "adv-ppol"])
def test_an_interrupted_run_resumes_and_its_policy_can_be_tried(folder: Path, name: str, monkeypatch) -> None:
    words = [*SETTINGS, "--set", "ppo.minibatch=64", "--variant", name]
    (folder / "whole").mkdir()
    monkeypatch.chdir(folder / "whole")
    harden("train", *words, ALLOW)
    monkeypatch.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatasetWriter, "append", stop_after(DatasetWriter.append, 2))
        harden("train", *words, ALLOW, code=Interrupted.exit_code)
    harden("train", *words, ALLOW, "--resume")
    assert_same_run(folder / "whole/checkpoints/ball-circle", folder / "checkpoints/ball-circle")
    about = json.loads((folder / "checkpoints/ball-circle/policy/manifest.json").read_text())
    assert about["variant"] == name
    settings = [*words[:-2], "--set", f"variant={name}"]
    tried = ["--attack", "mc,mad", "--episodes", "1", "--attack-steps", "1", "--restarts", "1"]
    harden("evaluate", *settings, *tried)
    found = stages(harden("status", *settings).output)
    assert set(found.values()) == {"done"}
    assert "e-step" not in found
    assert stages(harden("status", *settings, "--set", "ppo.clip=0.5").output)["fit-policy"] == "stale"


def test_what_an_on_policy_variant_has_not_is_refused(folder: Path) -> None:
    words = [*SETTINGS, "--set", "variant=ppol"]
    for stage in ("e-step", "fit-policy"):
        assert "harden train --variant ppol" in harden(stage, *words, code=2).output
    assert not list(folder.iterdir())


def test_values_are_two_functions_of_the_observation() -> None:
    values = StateValues(8, (16,))
    obs = torch.randn(5, 8, requires_grad=True)
    of_reward, of_cost = values(obs)
    assert of_reward.shape == (5,)
    assert not torch.equal(of_reward, of_cost)
    (gradient,) = torch.autograd.grad(of_reward[2], obs)
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("task", TASKS)
def test_the_papers_on_policy_settings_are_those_of_table_4(task: str) -> None:
    config = load_config(PRESETS / "ball-circle.toml", ["preset=paper", "variant=adv-ppol", f"task={task}"])
    epochs, batch, steps = {
        "ball-circle": (300, 45_000, 80),
        "car-circle": (500, 45_000, 80),
        "drone-run": (250, 60_000, 80),
        "drone-run-paper": (250, 60_000, 80),
        "ant-run": (250, 60_000, 160),
    }[task]
    horizon = config.task_row.horizon
    assert config.refreshes == epochs
    assert config.train.episodes * horizon == batch
    assert (config.ppo.actor_steps, config.ppo.minibatch, config.ppo.clip) == (steps, 300, 0.02)
    assert (config.critics.gamma_cost, config.ppo.gae_decay, config.ppo.target_kl) == (0.995, 0.97, 0.01)
    gains = config.ppo.pid_proportional, config.ppo.pid_integral, config.ppo.pid_derivative
    assert gains == (0.1, 0.003, 0.001)
    assert config.adversary.steps == 200


@pytest.mark.parametrize("name", ["sa-ppol-mc", "adv-ppol"])
def test_the_papers_on_policy_settings_run_for_a_few_updates(folder: Path, name: str) -> None:
    sizes = {"train.env_steps": 400, "train.episodes": 1, "train.warm_up_episodes": 1, "train.rounds": 2}
    sizes["train.final_critic_steps"] = 3
    # two of the attack's 200 steps: they are the roll-outs' whole time
    sizes |= {"adversary.ramp": 0.0, "adversary.ramp_start": 0.0, "adversary.steps": 2, "ppo.actor_steps": 3}
    few = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
    harden("train", "--set", "preset=paper", *few, "--variant", name, ALLOW)
    rows = (folder / "checkpoints/ball-circle/learning_curve.csv").read_text().splitlines()
    assert len(rows) == 3
