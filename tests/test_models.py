"""The world model and its chains: a known world is learned; chains are what their members say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harden.config.pipeline import PipelineConfig
from harden.method import critic_step as critic_ops
from harden.method import dual, imagination
from harden.method.adversary import mc_attack
from harden.method.bellman import Backups, backups
from harden.method.critic_step import chain_backups, draw_batch, next_actions, td_loss, td_targets
from harden.method.e_step import EStepStates, costs_around, e_step, estep_states
from harden.method.imagination import (
    all_chains,
    first_observations,
    imagine_attacks,
    is_due,
    learn_world,
    own_states,
)
from harden.method.learner import Learner, new_learner
from harden.models.chains import imagine
from harden.models.world import Outcome, WorldModel, calibrate, fit, set_reach
from harden.types import Transitions
from support.learners import CPU, EPSILON, TERMS, batch, configure, recorded_streams

SMALL_WORLD: dict[str, Any] = {
    "hidden": [32],
    "first_steps": 30,
    "steps": 5,
    "batch": 32,
    "chains": 12,
    "length": 5,
    "kept": 2,
    "attack_steps": 2,
}


def known_world(count: int, seed: int = 0, obs_dim: int = 4, act_dim: int = 2) -> Transitions:
    """Return transitions of a linear world with a cost beyond 1, whose episodes have 20 steps."""
    draw = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(9)
    turn = 0.1 * torch.randn(obs_dim, obs_dim, generator=fixed)
    push = 0.3 * torch.randn(act_dim, obs_dim, generator=fixed)
    obs = torch.randn(count, obs_dim, generator=draw)
    actions = torch.rand(count, act_dim, generator=draw) * 2 - 1
    next_obs = obs + obs @ turn + actions @ push
    index = torch.arange(count)
    return Transitions(
        obs,
        actions,
        50.0 * (next_obs[:, 0] - obs[:, 0]),
        (next_obs[:, 1] > 1).float(),
        next_obs,
        next_obs[:, 2] > 2,
        index % 20 == 19,
    )


@pytest.fixture(scope="module")
def fitted() -> WorldModel:
    """A model of the known world."""
    torch.manual_seed(0)
    world, data = WorldModel(4, 2, hidden=(64, 64)), known_world(4000)
    world.measure(data)
    optimizer = torch.optim.Adam(world.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(1)
    fit(world, optimizer, data, steps=1500, batch=128, recent=1000, draw=draw)
    set_reach(world, data, 0.99)
    return world


def test_a_known_world_is_learned(fitted: WorldModel) -> None:
    held_out = known_world(2000, seed=5)
    found = calibrate(fitted, held_out)
    assert found.error < 0.01
    assert found.cost == pytest.approx(found.cost_seen, rel=0.1)
    outcome = fitted(held_out.obs, held_out.actions)
    assert outcome.next_obs.shape == (3, 2000, 4)
    error = (outcome.rewards.mean(0) - held_out.rewards).square().mean() / held_out.rewards.var()
    assert float(error) < 0.01
    right = (outcome.costs.mean(0) > 0.5) == (held_out.costs > 0.5)
    ended = (outcome.ends.mean(0) > 0.5) == held_out.terminals
    assert float(right.float().mean()) > 0.97
    assert float(ended.float().mean()) > 0.97


def test_members_disagree_where_there_are_no_data(fitted: WorldModel) -> None:
    near = known_world(500, seed=6)
    inside = fitted(near.obs, near.actions).disagreement <= fitted.reach
    outside = fitted(10 * near.obs, near.actions).disagreement <= fitted.reach
    assert float(inside.float().mean()) > 0.95
    assert float(outside.float().mean()) < 0.1


def test_costs_are_shares_of_the_highest_one() -> None:
    torch.manual_seed(0)
    data = known_world(3000)
    data = data._replace(costs=4.0 * data.costs)
    world = WorldModel(4, 2, max_step_cost=4.0, hidden=(64,))
    world.measure(data)
    optimizer = torch.optim.Adam(world.parameters(), lr=2e-3)
    fit(world, optimizer, data, steps=800, batch=128, recent=1000, draw=torch.Generator().manual_seed(1))
    outcome = world(data.obs, data.actions)
    assert float(outcome.costs.max()) <= 4.0
    assert float(outcome.costs.mean()) == pytest.approx(float(data.costs.mean()), rel=0.1)


class Counting(WorldModel):
    """A world whose members count on by 1, 2 and 3, cost what they count by, and disagree beyond 10."""

    def forward(self, obs: torch.Tensor, actions: torch.Tensor) -> Outcome:
        by = torch.arange(1.0, 4.0)
        next_obs = obs + by.view(3, 1, 1)
        costs = by.unsqueeze(1).expand(3, len(obs))
        ends = (next_obs[..., 0] > self.end_beyond).float()
        return Outcome(next_obs, 10 * costs, costs, ends, obs[:, 0])

    end_beyond = 1e9


def counted_chains(reach: float, end_beyond: float = 1e9) -> list[list[float]]:
    """Return the observations of each chain, with its last one's successor."""
    world = Counting(1, 1)
    world.reach.fill_(reach)
    world.end_beyond = end_beyond
    chains = imagine(
        world,
        lambda obs: torch.zeros(len(obs), 1),
        torch.zeros(40, 1),
        6,
        torch.Generator().manual_seed(0),
    )
    rows = chains.rows
    found, first = [], 0
    for last in (rows.terminals | rows.timeouts).nonzero().flatten().tolist():
        part = Transitions(*(column[first : last + 1] for column in rows))
        assert torch.equal(part.next_obs[:-1], part.obs[1:])
        assert torch.equal(part.costs, (part.next_obs - part.obs)[:, 0])
        assert torch.equal(part.rewards, 10 * part.costs)
        assert not bool((part.terminals & part.timeouts).any())
        found.append([*part.obs[:, 0].tolist(), float(part.next_obs[-1, 0])])
        first = last + 1
    assert first == len(rows.costs)
    assert torch.equal(chains.last_obs[:, 0], torch.tensor([chain[-1] for chain in found]))
    ended = torch.tensor([chain[-1] > end_beyond for chain in found])
    # a chain that was cut by disagreement, or ended, can't go on
    whole = torch.tensor([len(chain) == 7 for chain in found])
    assert torch.equal(chains.going, whole & ~ended)
    return found


def test_a_chain_stays_in_one_member_and_stops_where_members_disagree() -> None:
    found = counted_chains(reach=10.0)
    assert len(found) == 40
    assert {tuple(chain) for chain in found} == {
        (0, 1, 2, 3, 4, 5, 6),
        (0, 2, 4, 6, 8, 10, 12),
        (0, 3, 6, 9, 12),
    }


def test_a_chain_ends_with_its_dynamics() -> None:
    assert {tuple(chain) for chain in counted_chains(reach=100.0, end_beyond=4.0)} == {
        (0, 1, 2, 3, 4, 5),
        (0, 2, 4, 6),
        (0, 3, 6),
    }


def imagining(**sections: Any) -> tuple[Learner, Any, Transitions]:
    """Return a learner that has imagined once, its configuration and its benign data."""
    config = configure(**{"variant": "safer-model", "world": SMALL_WORLD} | sections)
    learner, data = new_learner(config, CPU), known_world(400, obs_dim=8)
    learn_world(learner, data, config)
    imagine_attacks(learner, first_observations(data), data.obs, config, EPSILON)
    return learner, config, data


def test_a_refresh_imagines_attacked_chains_and_keeps_the_last_few() -> None:
    learner, config, data = imagining()
    (first,) = learner.chains
    assert 12 <= len(first.own) <= 60
    assert 0 < int(first.own.sum()) < len(first.own)
    learner.advance(critic_steps=1)
    found = imagine_attacks(learner, first_observations(data), data.obs, config, EPSILON)
    newest = learner.chains[-1]
    assert found.chain_length == len(learner.chains[-1].own) / 12
    assert found.imagined_cost == pytest.approx(200 * float(newest.rows.costs[newest.own].mean()), rel=1e-5)
    learner.advance(critic_steps=1)
    imagine_attacks(learner, first_observations(data), data.obs, config, EPSILON)
    assert len(learner.chains) == 2
    assert learner.chains[0] is not first
    assert len(all_chains(learner).costs) == sum(len(chain.own) for chain in learner.chains)
    # actions are the policy's mean at attacked inputs: not those at the states themselves
    rows = learner.chains[-1].rows
    with torch.no_grad():
        clean = learner.policy.mean(rows.obs)
    assert float((rows.actions - clean).abs().max()) > 0
    benign = imagine_attacks(learner, first_observations(data), data.obs, config, 0.0)
    assert benign.chain_length >= 1
    learned = learn_world(learner, data, config)
    assert learned is not None
    assert learned.world_error >= 0
    rows = learner.chains[-1].rows
    with torch.no_grad():
        torch.testing.assert_close(rows.actions, learner.policy.mean(rows.obs))


def test_an_imagined_attack_has_its_own_strength_and_follows_from_the_seed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strengths = set[int]()

    def spy(policy: Any, critics: Any, obs: Any, radius: Any, adversary: Any, draw: Any) -> torch.Tensor:
        strengths.add(adversary.steps)
        return mc_attack(policy, critics, obs, radius, adversary, draw)

    monkeypatch.setattr(imagination, "mc_attack", spy)
    found = []
    for other in (1, 2):
        torch.manual_seed(other)
        sizes = SMALL_WORLD | {"attack_steps": 4}
        found.append(imagining(world=sizes, adversary={"steps": 2})[0].chains[0].rows)
        assert torch.initial_seed() == other
    assert strengths == {4}
    assert found[0].obs.equal(found[1].obs)


def test_a_fit_takes_its_own_steps_and_each_draws_from_the_chains_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner, config, _ = imagining(seed=11)
    streams = recorded_streams(monkeypatch, critic_ops)
    count = critic_ops._AT_ONCE + 1
    assert len(critic_ops.fit_critics(learner, batch(), config, EPSILON, count)) == count
    assert learner.counters.critic_steps == count
    assert {seed for _, seed, *_ in streams} == {11}
    for name in ("critic-batch", "chain-batch", "td"):
        assert [place for _, _, stream, place in streams if stream == name] == list(range(count))
    assert [place for _, _, stream, place in streams if stream == "td-adversary"] == [0, count - 1]


def test_the_attacked_policys_own_chains_go_on_at_the_next_refresh() -> None:
    learner, config, data = imagining(world=SMALL_WORLD | {"length": 1, "chains": 40})
    (first,) = learner.chains
    ends = data.terminals | data.timeouts
    begins = data.obs[torch.cat((torch.ones(1, dtype=torch.bool), ends[:-1]))]

    def among(obs: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return (obs.unsqueeze(1) == states).all(2).any(1)

    assert bool(among(first.rows.obs[first.own], begins).all())
    assert int(first.own.sum()) == 20
    ended = first.rows.terminals[first.own]
    assert torch.equal(learner.chain_ends, first.rows.next_obs[first.own][~ended])
    before = learner.chain_ends
    learner.advance(critic_steps=1)
    imagine_attacks(learner, first_observations(data), data.obs, config, EPSILON)
    second = learner.chains[-1]
    starts = second.rows.obs[second.own]
    assert bool((among(starts, before) | among(starts, begins)).all())
    assert float(among(starts, before).float().mean()) > 0.5


def test_chains_are_due_some_rounds_after_the_last() -> None:
    learner, config, data = imagining(world=SMALL_WORLD | {"every": 3})
    for due in (False, False, True):
        learner.finish_round()
        assert is_due(learner, config) == due
    before = chain_backups(learner, config)
    assert chain_backups(learner, config) is before
    imagine_attacks(learner, first_observations(data), data.obs, config, EPSILON)
    assert not is_due(learner, config)
    assert len(chain_backups(learner, config).costs) > len(before.costs)


def imagined_loss(
    learner: Learner, drawn: Backups, chains: Backups, config: PipelineConfig, epsilon: float
) -> torch.Tensor:
    """Return the loss of a critic step on rows of the replay and of chains."""
    rows = draw_batch(learner, drawn, config, epsilon, chains)
    (actions,) = next_actions(learner, [rows], config, epsilon)
    return td_loss(learner.critics, rows, td_targets(learner.target_critics, rows, actions, config))


def test_cost_critics_learn_from_chains_and_reward_critics_do_not() -> None:
    learner, config, _ = imagining(world=SMALL_WORLD | {"n_step": 3}, critics={"gamma_cost": 0.9})
    chains, drawn = chain_backups(learner, config), batch(16)
    rows = all_chains(learner)
    by_hand = backups(rows, (0.97, 1), (0.9, 3))
    assert torch.equal(chains.costs, by_hand.costs)
    loss = imagined_loss(learner, drawn, chains, config, EPSILON)
    grads = torch.autograd.grad(loss, list(learner.critics.parameters()))
    louder = chains._replace(costs=chains.costs + 1.0)
    moved = torch.autograd.grad(
        imagined_loss(learner, drawn, louder, config, EPSILON), list(learner.critics.parameters())
    )
    cost = learner.critics.cost_members
    reward = learner.critics.reward_members
    for before, after in zip(grads, moved, strict=True):
        assert torch.equal(before[reward], after[reward])
    assert any(not torch.equal(a[cost], b[cost]) for a, b in zip(grads, moved, strict=True))


def test_the_loss_of_costs_is_the_mean_over_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, config, _ = imagining(critics={"batch": 16})
    chains, drawn, critics = chain_backups(learner, config), batch(16), learner.critics
    monkeypatch.setattr(critic_ops, "mc_attack", lambda policy, target, obs, *rest: obs + 0.01)
    draws = []

    def recorded(high: int, size: tuple[int], generator: torch.Generator) -> torch.Tensor:
        draws.append(torch.arange(size[0]) % high)
        return draws[-1]

    monkeypatch.setattr(torch, "randint", recorded)
    rewards_only = batch(16)._replace(
        step_costs=critics.q_cost(drawn.obs, drawn.actions).detach(),
        step_discounts=torch.zeros(16),
    )
    whole = float(imagined_loss(learner, rewards_only, chains, config, EPSILON).detach())
    with torch.no_grad():
        rows = draws[-1]
        after = chains.cost_next_obs[rows]
        value = learner.target_critics.q_cost(after, learner.policy.mean(after + 0.01))
        target = (chains.costs[rows] + chains.cost_discounts[rows] * value).clamp_min(0.0)
        of_chains = critics.q_cost(chains.obs[rows], chains.actions[rows]) - target
        kept = rewards_only.step_costs[8:].clamp_min(0.0) - rewards_only.step_costs[8:]
        of_cost = float(torch.cat((kept, of_chains)).square().mean())
    nothing = chains._replace(
        costs=critics.q_cost(chains.obs, chains.actions).detach(),
        cost_discounts=torch.zeros_like(chains.costs),
    )
    less = float(imagined_loss(learner, rewards_only, nothing, config, EPSILON).detach())
    clamped = torch.cat((kept, (nothing.costs.clamp_min(0.0) - nothing.costs)[rows]))
    assert whole - less == pytest.approx(of_cost - float(clamped.square().mean()), rel=1e-4, abs=1e-6)


def test_the_dual_is_of_attacked_chain_states_and_the_weights_are_of_all() -> None:
    learner, config, data = imagining()
    states = estep_states(learner, data.obs, config, TERMS, 40)
    assert len(states.obs) == 40
    assert torch.equal(states.obs[:20], states.obs[20:])
    assert torch.equal(states.inputs[:20], states.obs[:20])
    moved = (states.inputs - states.obs)[20:].abs().amax(1)
    assert float(moved.max()) <= EPSILON * 1.0001
    assert float((moved > 0).float().mean()) > 0.5
    chains = own_states(learner)
    assert len(chains) < len(all_chains(learner).obs)
    of_chains = (states.obs[states.bound].unsqueeze(1) == chains).all(2).any(1)
    assert bool(of_chains.all())
    assert len(of_chains) == 10
    terms = TERMS._replace(kappa=0.01, dual_rate=1.0)
    with torch.no_grad():
        learner.critics.ensemble.biases[-1][learner.critics.cost_members] += 1.0
    targets, solution, expected = e_step(learner, states, config, terms)
    assert float(solution.lam) > 0
    assert torch.equal(targets.obs, states.inputs)
    with torch.no_grad():
        q_reward, q_cost = learner.critics.q_both(states.obs, learner.policy.clip(targets.actions))
        of_mean = learner.critics.q_cost(states.obs, learner.policy.mean(states.inputs))
    raw, q_cost = q_cost, costs_around(of_mean, q_cost)
    torch.testing.assert_close(q_cost.mean(1), of_mean)
    torch.testing.assert_close(q_cost - q_cost[:, :1], raw - raw[:, :1], rtol=1e-4, atol=1e-6)
    again = dual.solve_dual(
        *(q_reward[30:], q_cost[30:], terms.kl_estep, terms.kappa),
        lam_max=terms.lam_max,
        previous=None,
        rate=terms.dual_rate,
        tolerance=config.estep.tolerance,
    )
    assert torch.equal(again.eta, solution.eta)
    assert torch.equal(again.lam, solution.lam)
    weights = dual.particle_weights(q_reward, q_cost, solution.eta.float(), solution.lam.float())
    torch.testing.assert_close(targets.weights, weights)
    assert float(expected) == pytest.approx(float((weights * q_cost)[30:].sum(1).mean()), rel=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(targets.old_mean, learner.policy.mean(states.inputs))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_an_e_step_has_as_many_states_as_are_asked_for(count: int) -> None:
    learner, config, data = imagining()
    states = estep_states(learner, data.obs, config, TERMS, count)
    assert len(states.obs) == len(states.inputs) == count
    bound = len(states.obs[states.bound])
    assert bound == -(-count // 2) - -(-count // 2) // 2
    assert bool((states.obs[states.bound].unsqueeze(1) == own_states(learner)).all(2).any(1).all())


def test_by_hand_an_attacked_input_learns_from_particles_of_the_true_observation() -> None:
    learner, config, data = imagining()
    by_hand = TERMS._replace(by_hand=True)
    states = estep_states(learner, data.obs, config, by_hand, 40)
    trained = estep_states(learner, data.obs, config, TERMS, 40)
    assert torch.equal(states.inputs, trained.inputs)
    assert float((states.inputs != states.obs).any(1).float().mean()) > 0.25
    targets, _, _ = e_step(learner, states, config, by_hand)
    assert torch.equal(targets.obs, states.inputs)
    with torch.no_grad():
        mean, std = learner.policy(states.obs)
    torch.testing.assert_close(targets.old_mean, mean)
    torch.testing.assert_close(targets.old_std, std)
    assert float(((targets.actions - mean.unsqueeze(1)) / std.unsqueeze(1)).mean().abs()) < 0.2


def test_particles_at_an_attacked_input_are_valued_in_the_true_state() -> None:
    learner, config, data = imagining()
    obs = data.obs[:6]
    attacked = mc_attack(
        learner.policy, learner.critics, obs, EPSILON, config.adversary, torch.Generator().manual_seed(0)
    )
    states = EStepStates(obs, attacked, attacked)
    targets, solution, _ = e_step(learner, states, config, TERMS)
    with torch.no_grad():
        q_reward, q_cost = learner.critics.q_both(obs, learner.policy.clip(targets.actions))
    weights = dual.particle_weights(q_reward, q_cost, solution.eta.float(), solution.lam.float())
    torch.testing.assert_close(targets.weights, weights)
