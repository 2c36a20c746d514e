"""Critics, E-step and M-step: each trap that touches them, and each term against a hand-written one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harden.config.pipeline import PipelineConfig
from harden.config.variants import VARIANTS
from harden.errors import InputError
from harden.method import adversary as adversary_ops
from harden.method import critic_step as critic_ops
from harden.method import e_step as estep_ops
from harden.method import m_step as mstep_ops
from harden.method.adversary import adversary_share
from harden.method.bellman import Backups
from harden.method.critic_step import (
    Batch,
    PerCritic,
    fit_critics,
    make_batch,
    next_actions,
    td_loss,
    td_targets,
)
from harden.method.e_step import EStepStates, draw_states, e_step, estep_states
from harden.method.learner import Learner, new_learner
from harden.method.m_step import attack_states, lagrangian
from harden.method.schedules import scheduled
from harden.nets import GaussianPolicy
from harden.types import Targets
from support.learners import CPU, EPSILON, TERMS, batch, configure, recorded_streams, targets_for


def targets_of(learner: Learner, rows: Backups, config: PipelineConfig, epsilon: float) -> PerCritic:
    """Return what the critics regress to on some rows of the replay."""
    drawn = make_batch(rows, config, epsilon)
    (actions,) = next_actions(learner, [drawn], config, epsilon)
    return td_targets(learner.target_critics, drawn, actions, config)


@pytest.fixture
def learner() -> Learner:
    """An untrained learner."""
    return new_learner(configure(), CPU)


class TestCritics:
    """Eq. 58-61."""

    def test_targets_are_eq_58_and_59_at_the_drawn_action(self, learner: Learner, monkeypatch) -> None:
        config, data = configure(variant="cvpo"), batch()
        action = torch.full((32, 2), 0.25)
        monkeypatch.setattr(GaussianPolicy, "sample", lambda self, obs, draw: action)
        with torch.no_grad():
            next_reward = learner.target_critics.q_reward(data.next_obs, action)
            next_cost = learner.target_critics.q_cost(data.next_obs, action)
        rewards, costs = targets_of(learner, data, config, 0.0)
        torch.testing.assert_close(rewards, data.rewards + data.discounts * next_reward)
        torch.testing.assert_close(costs, (data.costs + data.discounts * next_cost).clamp(min=0))

    def test_each_critic_has_a_horizon_of_its_own(self, learner: Learner) -> None:
        settings = {"gamma_reward": 0.9, "n_step_reward": 3, "gamma_cost": 0.5, "n_step_cost": 1}
        config, data = configure(variant="cvpo", critics=settings), batch()
        other = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
        data = data._replace(cost_next_obs=other, cost_discounts=torch.full((32,), 0.5))
        seen: list[torch.Tensor] = []

        class Recorded(GaussianPolicy):
            def sample(self, obs, draw, count=None):  # type: ignore[no-untyped-def, override]
                seen.append(obs)
                return torch.zeros(32, 2)

        learner.policy.__class__ = Recorded
        with torch.no_grad():
            next_reward = learner.target_critics.q_reward(data.next_obs, torch.zeros(32, 2))
            next_cost = learner.target_critics.q_cost(other, torch.zeros(32, 2))
        rewards, costs = targets_of(learner, data, config, 0.0)
        assert torch.equal(seen[0], data.next_obs)
        assert torch.equal(seen[1], other)
        torch.testing.assert_close(rewards, data.rewards + data.discounts * next_reward)
        torch.testing.assert_close(costs, (data.costs + 0.5 * next_cost).clamp(0.0, 2.0))

    def test_terminals_keep_their_own_cost_and_no_future(self, learner: Learner) -> None:
        data = batch()
        rewards, costs = targets_of(learner, data, configure(), 0.0)
        ended = data.discounts == 0
        torch.testing.assert_close(rewards[ended], data.rewards[ended])
        torch.testing.assert_close(costs[ended], data.costs[ended])

    @pytest.mark.parametrize("bias", [-50.0, 1e4])
    def test_cost_targets_stay_where_discounted_costs_lie(self, learner: Learner, bias: float) -> None:
        with torch.no_grad():
            list(learner.target_critics.ensemble.biases)[-1].fill_(bias)
        costs = targets_of(learner, batch(), configure(), 0.0).costs
        assert float(costs.min()) >= 0.0
        assert float(costs.max()) <= 1 / (1 - 0.97) + 1e-3

    def test_only_a_long_horizon_critic_expects_the_adversary(self, learner: Learner, monkeypatch) -> None:
        seen = []

        def perturb(attack: Any, policy: Any, critics: Any, obs: torch.Tensor, *rest: Any) -> torch.Tensor:
            seen.append((attack.name, critics.ensemble is learner.target_critics.ensemble))
            return obs + 3.0

        monkeypatch.setattr(adversary_ops, "perturb", perturb)
        data = batch()
        plain = targets_of(learner, data, configure(variant="safer"), 0.05)
        assert not seen
        attacked = targets_of(learner, data, configure(variant="safer-long"), 0.05)
        assert seen == [("mc", True)]
        assert torch.equal(plain[0], attacked[0]), "the reward critic's future is benign"
        with torch.no_grad():
            next_cost = learner.target_critics.q_cost(data.next_obs, learner.policy.mean(data.next_obs + 3.0))
        expected = (data.costs + data.discounts * next_cost).clamp(min=0)
        torch.testing.assert_close(attacked[1], expected, msg="the policy acts by its mean, attacked")
        assert not torch.equal(plain[1], attacked[1])

    def test_under_attack_the_cost_looks_one_step_ahead(self, learner: Learner) -> None:
        """The steps that an n-step return runs over were not attacked."""
        alone = batch()
        later = {"costs": 3 * alone.costs, "next_obs": alone.next_obs + 1, "discounts": alone.discounts**3}
        ahead = alone._replace(**later)
        cases = [("safer-long", 0.05, True), ("safer-long", 0.0, False), ("safer", 0.05, False)]
        for variant, epsilon, same in cases:
            config = configure(variant=variant)
            of_both = [targets_of(learner, rows, config, epsilon) for rows in (alone, ahead)]
            assert torch.equal(of_both[0].costs, of_both[1].costs) == same
            assert not torch.equal(of_both[0].rewards, of_both[1].rewards)

    def test_a_step_descends_and_the_targets_follow(self) -> None:
        config, replay = configure(critics={"polyak": 0.9, "learning_rate": 1e-2}), batch(256)
        learner, again = new_learner(config, CPU), new_learner(config, CPU)
        # something to be learned, and no bootstrap whose targets move
        replay = replay._replace(rewards=replay.obs[:, 0], discounts=torch.zeros(256))
        before = [p.clone() for p in learner.target_critics.parameters()]
        losses = fit_critics(learner, replay, config, 0.0, 60).tolist()
        assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
        assert learner.counters.critic_steps == 60
        fit_critics(again, replay, config, 0.0, 1)
        online = list(again.critics.parameters())
        for old, new, target in zip(before, online, again.target_critics.parameters(), strict=True):
            torch.testing.assert_close(target, 0.9 * old + 0.1 * new)

    @pytest.mark.parametrize("reward_critics", [1, 2])
    def test_the_loss_is_the_sum_of_each_critics_own(self, reward_critics: int) -> None:
        learner = new_learner(configure(networks={"reward_critics": reward_critics}), CPU)
        data = batch()
        values = learner.critics(data.obs, data.actions)
        wanted = (*[data.rewards] * reward_critics, data.costs)
        expected = sum(((v - t) ** 2).mean() for v, t in zip(values, wanted, strict=True))
        targets = PerCritic(data.rewards, data.costs)
        torch.testing.assert_close(td_loss(learner.critics, Batch.of(data), targets), expected)


class TestEStep:
    """Eq. 4-6."""

    def test_targets_are_weighted_particles_of_the_old_policy(self, learner: Learner) -> None:
        obs = torch.randn(50, 8)
        targets, solution, expected_cost = e_step(learner, EStepStates.clean(obs), configure(), TERMS)
        mean, std = learner.policy(obs)
        torch.testing.assert_close(targets.old_mean, mean)
        torch.testing.assert_close(targets.old_std, std)
        torch.testing.assert_close(targets.weights.sum(1), torch.ones(50))
        z = (targets.actions - mean.unsqueeze(1)) / std.unsqueeze(1)
        assert abs(float(z.detach().mean())) < 0.1
        assert float(z.detach().std()) == pytest.approx(1.0, abs=0.1)
        applied = targets.actions.clamp(-1, 1)
        q_cost = learner.critics.q_cost(obs, applied)
        q_reward = learner.critics.q_reward(obs, applied)
        weights = torch.softmax((q_reward - solution.lam.float() * q_cost) / solution.eta.float(), 1)
        torch.testing.assert_close(weights, targets.weights, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(expected_cost, (weights * q_cost).sum(1).mean())

    def test_more_particles_than_a_machine_holds_are_refused(self, learner: Learner, monkeypatch) -> None:
        monkeypatch.setattr(estep_ops, "_PARTICLES", 50 * 8)
        e_step(learner, EStepStates.clean(torch.randn(50, 8)), configure(), TERMS)
        with pytest.raises(InputError, match="51 states of 8 particles"):
            e_step(learner, EStepStates.clean(torch.randn(51, 8)), configure(), TERMS)

    def test_states_and_batches_are_drawn_where_the_data_are(self, learner: Learner) -> None:
        data = Backups(*(column.to("meta") for column in batch()))
        assert draw_states(learner, data.obs, 4, 8).device.type == "meta"
        assert (
            critic_ops.draw_batch(learner, data, configure(variant="cvpo"), 0.0).rewards.obs.device.type
            == "meta"
        )

    def test_chunks_change_nothing(self, learner: Learner, monkeypatch) -> None:
        obs = torch.randn(50, 8)
        whole, _, _ = e_step(learner, EStepStates.clean(obs), configure(), TERMS)
        monkeypatch.setattr("harden.nets.critics._CHUNK", 7)
        parts, _, _ = e_step(learner, EStepStates.clean(obs), configure(), TERMS)
        torch.testing.assert_close(whole.weights, parts.weights, rtol=1e-4, atol=1e-6)
        assert torch.equal(whole.actions, parts.actions)

    def test_states_come_from_recent_data_only(self, learner: Learner) -> None:
        obs = torch.arange(1000.0).unsqueeze(1)
        drawn = draw_states(learner, obs, states=64, window=100)
        assert float(drawn.min()) >= 900
        assert len(drawn.unique()) > 20
        for states in (100, 500):
            assert torch.equal(draw_states(learner, obs, states=states, window=100), obs[900:])
        learner.advance(round=1)
        assert not torch.equal(drawn, draw_states(learner, obs, states=64, window=100))

    def test_a_cost_that_binds_shifts_weight_to_safe_particles(self, learner: Learner) -> None:
        obs = torch.randn(50, 8)
        with torch.no_grad():
            learner.critics.ensemble.biases[-1][learner.critics.cost_members].fill_(1.0)
        config = configure(estep={"dual_rate": 1.0})
        loose, free, _ = e_step(
            learner, EStepStates.clean(obs), config, TERMS._replace(kappa=1e6, lam_max=50.0)
        )
        tight, bound, _ = e_step(
            learner, EStepStates.clean(obs), config, TERMS._replace(kappa=0.0, lam_max=50.0)
        )
        q_cost = learner.critics.q_cost(obs, loose.actions.clamp(-1, 1)).detach()
        assert float(free.lam) == 0.0
        assert float(bound.lam) > 0.0
        assert float((tight.weights * q_cost).sum()) < float((loose.weights * q_cost).sum())


def loss_of(learner: Learner, variant: str = "safer", **mstep: Any) -> Any:
    """Evaluate the Lagrangian under a shift of the observations."""
    config = configure(mstep=mstep)
    targets = targets_for(learner)
    zeros = torch.zeros(2)
    adv = None if variant == "cvpo" else targets.obs + 0.5
    return lagrangian(learner.policy, targets, adv, zeros, zeros, config.mstep, VARIANTS[variant]), targets


class TestMStep:
    """Eq. 7, 8, 62-66."""

    def test_the_likelihood_sums_over_particles_with_their_weights(self, learner: Learner) -> None:
        result, targets = loss_of(learner, "cvpo")
        mean, std = learner.policy(targets.obs)
        by_hand = 0.0
        for s in range(len(targets.obs)):
            for k in range(8):
                log = torch.distributions.Normal(mean[s], std[s]).log_prob(targets.actions[s, k]).sum()
                by_hand += float(targets.weights[s, k] * log) / len(targets.obs)
        assert float(result.likelihood) == pytest.approx(by_hand, rel=1e-4)
        assert float(result.loss) == pytest.approx(-by_hand, rel=1e-4), (
            "the loss descends -L: theta ascends L"
        )

    @pytest.mark.parametrize("anchor", ["benign", "old"])
    def test_the_lagrangian_is_eq_62_term_by_term_with_its_gradient(
        self, learner: Learner, anchor: str
    ) -> None:
        """Every bound, rate and multiplier is another number, and the policy has left policy_old."""
        targets, policy = targets_for(learner), learner.policy
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
        bounds = {"kl_mean": 0.02, "kl_std": 0.003, "kl_robust_mean": 0.04, "kl_robust_std": 0.001}
        rates = {"beta_rate": 2.0, "beta_robust_rate": 0.5, "beta_max": 40.0, "kl_robust_weight": 30.0}
        options = configure(mstep=bounds | rates | {"robust_weight": 0.7, "robust_anchor": anchor}).mstep
        before = torch.tensor((1.5, 2.5)), torch.tensor((3.0, 4.0))
        adv = targets.obs + 0.5
        found = lagrangian(policy, targets, adv, *before, options, VARIANTS["safer"])

        Normal, kl = torch.distributions.Normal, torch.distributions.kl_divergence
        (mean, std), (mean_adv, std_adv) = policy(targets.obs), policy(adv)
        fixed = (mean.detach(), std.detach()) if anchor == "benign" else (targets.old_mean, targets.old_std)

        def parts(old: tuple[Any, Any], new: tuple[Any, Any]) -> list[Any]:
            moved = kl(Normal(*old), Normal(new[0], old[1])), kl(Normal(*old), Normal(old[0], new[1]))
            return [part.sum(-1).mean() for part in moved]

        def likelihood(at: tuple[Any, Any]) -> Any:
            each = Normal(at[0].unsqueeze(1), at[1].unsqueeze(1)).log_prob(targets.actions).sum(-1)
            return (targets.weights * each).sum(1).mean()

        tight = options.model_copy(update={"beta_max": 1.0, "kl_robust_weight": 2.0})
        held = lagrangian(policy, targets, adv, *before, tight, VARIANTS["safer"])
        assert (held.beta.tolist(), held.beta_robust.tolist()) == ([1.0, 1.0], [2.0, 2.0])

        kls = parts((targets.old_mean, targets.old_std), (mean, std))
        kls_adv = parts(fixed, (mean_adv, std_adv))
        beta = [1.5 - 2.0 * (0.02 - float(kls[0])), 2.5 - 2.0 * (0.003 - float(kls[1]))]
        beta_adv = [3.0 - 0.5 * (0.04 - float(kls_adv[0])), 4.0 - 0.5 * (0.001 - float(kls_adv[1]))]
        assert found.beta.tolist() == pytest.approx(beta, rel=1e-5)
        assert found.beta_robust.tolist() == pytest.approx(beta_adv, rel=1e-5)
        assert found.kl.tolist() == pytest.approx([float(part) for part in kls], rel=1e-3)
        assert found.kl_robust.tolist() == pytest.approx([float(part) for part in kls_adv], rel=1e-3)
        benign = likelihood((mean, std)) - sum(b * part for b, part in zip(beta, kls, strict=True))
        attacked = likelihood((mean_adv, std_adv)) - sum(
            b * part for b, part in zip(beta_adv, kls_adv, strict=True)
        )
        expected = -(benign + 0.7 * attacked)
        assert float(found.loss) == pytest.approx(float(expected), rel=1e-4)
        parameters = list(policy.parameters())
        of_found, of_expected = (torch.autograd.grad(loss, parameters) for loss in (found.loss, expected))
        for own, by_hand in zip(of_found, of_expected, strict=True):
            torch.testing.assert_close(own, by_hand, rtol=1e-3, atol=1e-5)

    def test_at_the_old_policy_the_vanilla_kl_is_zero(self, learner: Learner) -> None:
        result, _ = loss_of(learner, "cvpo")
        torch.testing.assert_close(result.kl, torch.zeros(2), atol=1e-6, rtol=0)

    def test_multipliers_step_before_theta_and_stay_in_their_box(self, learner: Learner) -> None:
        result, _ = loss_of(learner, "safer", beta_robust_rate=2.0, kl_robust_mean=1e-6, kl_robust_std=1e-6)
        expected = 2.0 * (result.kl_robust - 1e-6)
        torch.testing.assert_close(result.beta_robust, expected.clamp(0, 1.0))
        assert float(result.beta_robust.min()) > 0
        capped, _ = loss_of(
            learner, "safer", beta_robust_rate=1e9, kl_robust_mean=1e-6, kl_robust_weight=0.25
        )
        assert float(capped.beta_robust.max()) == 0.25
        slack, _ = loss_of(learner, "cvpo", beta_rate=5.0)
        torch.testing.assert_close(slack.beta, torch.zeros(2))

    def test_each_variants_terms_are_in_force(self, learner: Learner) -> None:
        """The full loss is the sum of what the rows switch on (Eq. 62)."""
        options = {
            "robust_weight": 0.5,
            "kl_robust_mean": 1e-6,
            "kl_robust_std": 1e-6,
            "beta_robust_rate": 1.0,
        }
        full, targets = loss_of(learner, "safer", **options)
        parts = {name: float(loss_of(learner, name, **options)[0].loss) for name in VARIANTS}
        mean, std = learner.policy(targets.obs + 0.5)
        normal = torch.distributions.Normal(mean.unsqueeze(1), std.unsqueeze(1))
        mle = -float((targets.weights * normal.log_prob(targets.actions).sum(-1)).sum(1).mean())
        kl = float((full.beta_robust * full.kl_robust).sum())
        assert kl > 0
        assert parts["safer"] == pytest.approx(parts["cvpo"] + 0.5 * (mle + kl), rel=1e-4)
        assert parts["safer-no-vm"] == pytest.approx(0.5 * (mle + kl), rel=1e-4)
        assert parts["safer-no-kl"] == pytest.approx(parts["cvpo"] + 0.5 * mle, rel=1e-4)
        assert parts["safer-no-mle"] == pytest.approx(parts["cvpo"] + 0.5 * kl, rel=1e-4)
        assert parts["safer-long"] == pytest.approx(parts["safer"], rel=1e-6)

    @pytest.mark.parametrize("anchor", ["benign", "old"])
    def test_the_robust_kl_has_its_gradient_from_the_attacked_path_only(
        self, learner: Learner, anchor: str
    ) -> None:
        targets = targets_for(learner)
        obs = targets.obs.clone().requires_grad_()
        adv = (targets.obs + 0.5).requires_grad_()
        config = configure(mstep={"robust_anchor": anchor, "kl_robust_mean": 1e-6, "beta_robust_rate": 1.0})
        variant = VARIANTS["safer-no-mle"]._replace(vanilla=False)
        zeros = torch.zeros(2)
        moved = targets._replace(obs=obs)
        result = lagrangian(learner.policy, moved, adv, zeros, zeros, config.mstep, variant)
        clean, attacked = torch.autograd.grad(result.loss, (obs, adv))
        assert float(clean.abs().sum()) == 0.0
        assert float(attacked.abs().sum()) > 0.0

    def test_all_is_made_where_the_policy_is(self, learner: Learner) -> None:
        """On a device without values, which refuses to meet another one."""
        targets = Targets(*(column.to("meta") for column in targets_for(learner)))
        zeros = torch.zeros(2, device="meta")
        rest = zeros, zeros, configure().mstep, VARIANTS["safer"]
        result = lagrangian(learner.policy.to("meta"), targets, targets.obs, *rest)
        assert {column.device.type for column in result} == {"meta"}

    def test_the_adversary_attacks_the_policy_as_it_is_now(self, learner: Learner, monkeypatch) -> None:
        seen = []
        monkeypatch.setattr(adversary_ops, "perturb", lambda attack, *rest: seen.append((attack.name, *rest)))
        attack_states(learner, targets_for(learner), configure(), 0.03)
        name, policy, critics, _, epsilon, strength, _ = seen[0]
        assert (name, epsilon) == ("mc", 0.03)
        assert policy is learner.policy
        assert critics is learner.critics
        assert strength.steps == configure().adversary.steps

    def test_a_weak_adversary_is_told_from_a_strong_one(self, learner: Learner) -> None:
        obs = torch.zeros(64, 8)
        weak = configure(adversary={"steps": 1, "step_share": 2.0})
        strong = configure(adversary={"steps": 20, "restarts": 4, "step_share": 0.5})
        assert adversary_share(learner, obs, weak, 0.05) > 0.9, "where all is smooth, one step is enough"
        # what a policy learns against corners: a dangerous action inside the ball, harmless ones at its faces
        policy, critics = learner.policy, learner.critics
        with torch.no_grad():
            for module in (policy.trunk[0], policy.mean_head):
                module.weight.zero_()
                module.bias.zero_()
            policy.trunk[0].weight[:3, 0] = 1.0
            policy.trunk[0].bias[:3] = torch.tensor((0.05, -0.02, -0.05))
            ends = torch.tensor(((0.5, 0.0), (-0.5, 0.0)))
            worse = torch.diff(critics.q_cost(obs[:2], ends)).sign() * -1
            policy.mean_head.weight[0, :3] = worse * torch.tensor((1.0, -1.0 - 0.07 / 0.03, 0.0)) * 5
        shares = [adversary_share(learner, obs, config, 0.05) for config in (weak, strong)]
        assert shares[0] < 0.5
        assert 0.95 < shares[1] < 1.05
        assert adversary_share(learner, obs, weak, 0.05) == shares[0], "it draws from nobody else's stream"

    def test_where_nothing_is_to_be_gained_the_adversary_has_all_of_it(self, learner: Learner) -> None:
        with torch.no_grad():
            learner.policy.trunk[0].weight.zero_()
        assert adversary_share(learner, torch.randn(8, 8), configure(), 0.05) == 1.0


def test_what_is_replayed_under_attack_the_e_step_is_solved_at() -> None:
    config, obs = configure(variant="adv-em-cvpo"), torch.randn(50, 8)
    learner = new_learner(config, CPU)
    clean = estep_states(learner, obs, config, TERMS._replace(epsilon=0.0), 50)
    attacked = estep_states(learner, obs, config, TERMS, 50)
    assert torch.equal(clean.obs, obs)
    assert torch.equal(attacked.obs, attacked.inputs)
    moved = (attacked.obs - obs).abs().amax(1)
    assert 0 < float(moved.max()) <= EPSILON * 1.0001
    assert float((moved > 0).float().mean()) > 0.5
    benign = estep_states(learner, obs, configure(variant="safer"), TERMS, 50)
    assert torch.equal(benign.obs, obs)


def test_each_draw_is_from_a_stream_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn follows from the seed, what it is for, and the learner's place, and from nothing else."""
    streams = recorded_streams(monkeypatch, adversary_ops, critic_ops, estep_ops, mstep_ops)
    config = configure(variant="adv-em-cvpo", seed=11)
    learner, obs = new_learner(config, CPU), torch.randn(50, 8)
    learner.advance(round=3, critic_steps=5, policy_steps=7)
    others = torch.get_rng_state()
    states = draw_states(learner, obs, 20, 40)
    targets, _, _ = e_step(learner, EStepStates.clean(states), config, TERMS)
    attack_states(learner, targets, config, 0.05)
    adversary_share(learner, states, config, 0.05)
    fit_critics(learner, batch(), config, 0.05, 1)
    named = [
        ("states", 3),
        ("particles", 3),
        ("adversary", 7),
        ("adversary-share", 3),
        ("adversary-share", 3),
        ("critic-batch", 5),
        ("critic-adversary", 5),
        ("td", 5),
    ]
    assert streams == [("cpu", 11, *place) for place in named]
    targets_of(learner, batch(), configure(variant="cvpo", critics={"n_step_cost": 3}), 0.0)
    assert torch.equal(torch.get_rng_state(), others)


def test_the_schedules_end_where_a_stage_by_hand_works() -> None:
    config = configure(
        variant="safer",
        estep={"limit_start": 80.0, "limit_ramp": 0.5, "lam_max": 8.0, "dual_rate": 0.1},
        adversary={"lam_max": 20.0, "ramp_start": 0.0, "ramp": 0.5},
        mstep={"learning_rate": 1e-3, "learning_rate_end": 1e-4},
        train={"env_steps": 20 * 2000},
    )
    start, half, end, by_hand = (scheduled(config, refresh) for refresh in (0, 5, 19, None))
    assert by_hand[:4] == (*end[:3], 1.0), "exact multipliers, and all else as at training's end"
    assert by_hand.kl_estep == config.by_hand.kl_estep > end.kl_estep == config.estep.kl_bound
    assert by_hand.mstep.kl_mean == config.by_hand.kl_mean > end.mstep.kl_mean == config.mstep.kl_mean, (
        "exact multipliers, and all else as at training's end"
    )
    assert (end.epsilon, end.lam_max, end.dual_rate) == (config.task_row.epsilon, 20.0, 0.1)
    assert end.mstep.learning_rate == pytest.approx(1e-4)
    assert (start.epsilon, start.lam_max, start.mstep.learning_rate) == (0.0, 8.0, 1e-3)
    assert start.kappa == pytest.approx(16 * end.kappa)
    assert half.lam_max == pytest.approx(14.0)
    assert half.kappa == pytest.approx(4 * end.kappa)
    assert half.epsilon == pytest.approx(config.task_row.epsilon / 2)
    doubled = config.model_copy(update={"estep": config.estep.model_copy(update={"limit_end": 10.0})})
    assert scheduled(doubled, None).kappa == pytest.approx(2 * end.kappa)
    assert doubled.task_row.cost_limit == 5.0, "what the policy is judged by stays"
    vanilla = config.model_copy(update={"variant": "cvpo"})
    assert scheduled(vanilla, None)[:3] == (0.0, end.kappa, 8.0), "no adversary, no higher ceiling"


def test_an_infeasible_start_recovers() -> None:
    """With no particle under kappa the policy must not freeze: once costs fall, lam does too."""
    config, terms = configure(), TERMS._replace(dual_rate=0.2)
    learner = new_learner(config, CPU)
    obs = torch.randn(64, 8)
    bias = list(learner.critics.ensemble.biases)[-1]
    with torch.no_grad():
        bias[learner.critics.cost_members].fill_(30.0)
    for _ in range(40):
        _, learner.dual, _ = e_step(learner, EStepStates.clean(obs), config, terms)
    assert learner.dual is not None
    assert not bool(learner.dual.feasible)
    assert float(learner.dual.lam) == pytest.approx(8.0, abs=0.05)
    with torch.no_grad():
        bias[learner.critics.cost_members].fill_(-1.0)
    for _ in range(60):
        _, learner.dual, _ = e_step(learner, EStepStates.clean(obs), config, terms)
    assert bool(learner.dual.feasible)
    assert float(learner.dual.lam) < 0.1
