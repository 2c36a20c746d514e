"""The networks against plain, slow versions of themselves."""

from __future__ import annotations

import torch

from harden.nets import Critics, GaussianPolicy, StateValues


def test_particles_get_the_values_that_pairs_get() -> None:
    critics = Critics(5, 3, reward_count=2, cost_count=2, hidden=(16, 8))
    obs, actions = torch.randn(7, 5), torch.randn(7, 4, 3)
    shared = critics(obs, actions)
    pairs = critics(obs.repeat_interleave(4, 0), actions.reshape(28, 3))
    assert shared.shape == (4, 7, 4)
    torch.testing.assert_close(shared.reshape(4, 28), pairs)


def test_members_are_independent_networks() -> None:
    critics = Critics(3, 2, hidden=(8,))
    obs, actions = torch.randn(6, 3), torch.randn(6, 2)
    both = torch.cat((obs, actions), 1)
    weights, biases = list(critics.ensemble.weights), list(critics.ensemble.biases)
    for member in range(3):
        hidden = torch.relu(both @ weights[0][member] + biases[0][member])
        expected = (hidden @ weights[1][member] + biases[1][member])[:, 0]
        torch.testing.assert_close(critics(obs, actions)[member], expected)
    torch.testing.assert_close(critics.q_reward(obs, actions), critics(obs, actions)[:2].amin(0))
    torch.testing.assert_close(critics.q_cost(obs, actions), critics(obs, actions)[2])


def test_cost_critics_are_averaged() -> None:
    critics = Critics(3, 2, reward_count=2, cost_count=3, hidden=(8,))
    obs, actions = torch.randn(6, 3), torch.randn(6, 2)
    values = critics(obs, actions)
    torch.testing.assert_close(critics.q_cost(obs, actions), values[2:].mean(0))


def test_one_critics_loss_leaves_the_others_alone() -> None:
    critics = Critics(3, 2, hidden=(8,))
    critics(torch.randn(6, 3), torch.randn(6, 2))[1].sum().backward()
    for parameter in critics.parameters():
        assert parameter.grad is not None
        assert float(parameter.grad[1].abs().sum()) > 0
        assert float(parameter.grad[[0, 2]].abs().sum()) == 0


def test_the_policy_stays_in_its_action_space_and_above_its_floor() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
    policy = GaussianPolicy(3, 2, (8,), low, high, init_std=0.5, min_std=0.1)
    obs = 100 * torch.randn(500, 3)
    mean, std = policy(obs)
    assert bool(((mean >= low) & (mean <= high)).all())
    half = (high - low) / 2
    assert bool((std >= 0.1 * half - 1e-6).all())
    assert bool((std <= 1.0 * half + 1e-6).all())
    torch.testing.assert_close(mean, policy.mean(obs))
    samples = policy.sample(obs, torch.Generator().manual_seed(0))
    assert bool(((samples >= low) & (samples <= high)).all())


def test_a_lower_ceiling_keeps_the_means_and_the_small_spreads() -> None:
    policy = GaussianPolicy(3, 2, (8,), init_std=0.12, min_std=0.1, max_std=1.0)
    obs = torch.randn(50, 3)
    mean, std = policy(obs)
    capped = policy.capped(0.4)
    new_mean, new_std = capped(obs)
    assert torch.equal(mean, new_mean)
    torch.testing.assert_close(new_std, std, rtol=0.02, atol=0)
    with torch.no_grad():
        policy.std_head.bias.fill_(3.0)
    assert float(policy.capped(0.4)(obs)[1].max()) <= 0.4
    loose, before = policy.capped(2.0), policy(obs)[1]
    assert torch.equal(loose(obs)[1], before)
    with torch.no_grad():
        loose.std_head.bias.zero_()
    assert torch.equal(policy(obs)[1], before)
    assert capped.architecture["max_std"] == 0.4
    assert policy.architecture["max_std"] == 1.0, "the given policy is left alone"


def test_the_policy_begins_with_the_spread_asked_for() -> None:
    _, std = GaussianPolicy(3, 2, (64, 64), init_std=0.7, min_std=0.1)(torch.zeros(1, 3))
    torch.testing.assert_close(std, torch.full((1, 2), 0.7), atol=0.05, rtol=0)


@torch.no_grad()
def test_networks_see_observations_in_units_of_their_scale() -> None:
    obs, actions, particles = torch.randn(6, 3), torch.randn(6, 2), torch.randn(6, 5, 2)
    policy, plain = GaussianPolicy(3, 2, (8,), obs_scale=0.1), GaussianPolicy(3, 2, (8,))
    plain.load_state_dict(policy.state_dict())
    torch.testing.assert_close(policy.mean(obs), plain.mean(obs / 0.1))
    for one, other in zip(policy(obs), plain(obs / 0.1), strict=True):
        torch.testing.assert_close(one, other)
    critics, usual = Critics(3, 2, hidden=(8,), obs_scale=0.1), Critics(3, 2, hidden=(8,))
    usual.load_state_dict(critics.state_dict())
    torch.testing.assert_close(critics(obs, actions), usual(obs / 0.1, actions))
    torch.testing.assert_close(critics(obs, particles), usual(obs / 0.1, particles))
    values, as_they_are = StateValues(3, (8,), obs_scale=0.1), StateValues(3, (8,))
    as_they_are.load_state_dict(values.state_dict())
    torch.testing.assert_close(values(obs), as_they_are(obs / 0.1))


@torch.no_grad()
def test_a_policy_without_its_scale_acts_as_it_did() -> None:
    policy, obs = GaussianPolicy(3, 2, (8, 8), obs_scale=0.1), torch.randn(50, 3)
    plain = policy.unscaled()
    assert (policy.obs_scale, plain.obs_scale) == (0.1, 1.0)
    assert (policy.architecture["obs_scale"], plain.architecture["obs_scale"]) == (0.1, 1.0)
    for one, other in zip(policy(obs), plain(obs), strict=True):
        torch.testing.assert_close(one, other)
    capped = policy.capped(0.7)
    assert capped.obs_scale == 0.1
    torch.testing.assert_close(capped.mean(obs), policy.mean(obs))
