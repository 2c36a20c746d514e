"""One contract for every attack, and the strength of the gradient ones against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch

from harden.attacks import ATTACKS, PaperStrength, Strength, perturb
from harden.attacks.objectives import max_cost, max_reward
from harden.errors import InputError
from harden.nets import Critics, GaussianPolicy

OBS, ACT = 4, 2
EPSILON = 0.1


@pytest.fixture
def victim() -> tuple[GaussianPolicy, Critics, torch.Tensor]:
    """An untrained policy and critics that bend, with some observations."""
    torch.manual_seed(0)
    policy, critics = GaussianPolicy(OBS, ACT, (32, 32)), Critics(OBS, ACT, hidden=(32, 32))
    with torch.no_grad():
        policy.mean_head.weight.mul_(30)
    return policy, critics, torch.randn(64, OBS)


def attacked(
    name: str,
    victim: tuple[GaussianPolicy, Critics, torch.Tensor],
    epsilon: float | torch.Tensor = EPSILON,
    strength: Strength | None = None,
    seed: int = 0,
) -> torch.Tensor:
    """Run one attack."""
    policy, critics, obs = victim
    draw = torch.Generator().manual_seed(seed)
    return perturb(ATTACKS[name], policy, critics, obs, epsilon, strength or Strength(10, 2), draw)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", ATTACKS)
class TestContract:
    """What holds for every row of ATTACKS."""

    def test_stays_in_the_ball(self, name: str, norm: str, victim) -> None:
        delta = attacked(name, victim, strength=Strength(10, 2, norm=norm)) - victim[2]
        size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert float(size.max()) <= EPSILON * (1 + 1e-5)
        assert float(size.max()) > 0

    def test_a_vector_radius_holds_by_coordinate(self, name: str, norm: str, victim) -> None:
        radius = torch.tensor([0.0, 0.01, 0.1, 1.0])
        delta = attacked(name, victim, radius, Strength(5, 1, norm=norm)) - victim[2]
        assert bool((delta.abs() <= radius + 1e-5).all())
        assert float(delta[:, 0].abs().max()) == 0.0

    def test_zero_radius_changes_nothing(self, name: str, norm: str, victim) -> None:
        assert torch.equal(attacked(name, victim, 0.0, Strength(3, 1, norm=norm)), victim[2])

    def test_equal_seeds_give_equal_attacks(self, name: str, norm: str, victim) -> None:
        strength = Strength(5, 2, norm=norm)
        first, again = (attacked(name, victim, strength=strength, seed=7) for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, attacked(name, victim, strength=strength, seed=8))

    def test_leaves_the_victim_alone(self, name: str, norm: str, victim) -> None:
        policy, critics, obs = victim
        before = obs.clone()
        result = attacked(name, victim, strength=Strength(3, 1, norm=norm))
        assert all(p.grad is None for p in [*policy.parameters(), *critics.parameters()])
        assert torch.equal(obs, before)
        assert not result.requires_grad


@pytest.mark.parametrize(("name", "objective"), [("mc", max_cost), ("mr", max_reward)])
class TestGradientAttacks:
    """What holds for the attacks that climb."""

    def test_never_lowers_its_objective(self, name: str, objective, victim) -> None:
        policy, critics, obs = victim
        with torch.no_grad():
            before = objective(policy, critics, obs, obs)
            after = objective(policy, critics, obs, attacked(name, victim))
        assert bool((after >= before - 1e-6).all())
        assert float((after - before).mean()) > 0

    def test_reaches_the_best_corner(self, name: str, objective, victim) -> None:
        policy, critics, obs = victim
        signs = torch.tensor(list(itertools.product((-EPSILON, EPSILON), repeat=OBS)))
        with torch.no_grad():
            clean = objective(policy, critics, obs, obs)
            corners = torch.stack([objective(policy, critics, obs, obs + s) for s in signs]).amax(0)
            strong = attacked(name, victim, strength=Strength(40, 5))
            found = objective(policy, critics, obs, strong)
        assert float((found - clean).mean() / (corners - clean).mean()) > 0.98

    def test_beats_noise(self, name: str, objective, victim) -> None:
        policy, critics, obs = victim
        with torch.no_grad():
            noise = objective(policy, critics, obs, attacked("random", victim)).mean()
            found = objective(policy, critics, obs, attacked(name, victim)).mean()
        assert float(found) > float(noise)

    def test_one_state_is_attacked_alike_alone_and_in_a_batch(self, name: str, objective, victim) -> None:
        """Per-state objectives: no state's attack may depend on the others beside it."""
        policy, critics, obs = victim
        strong = Strength(60, 8)
        with torch.no_grad():
            batch = objective(policy, critics, obs, attacked(name, victim, strength=strong))[:3]
            alone = attacked(name, (policy, critics, obs[:3]), strength=strong)
            single = objective(policy, critics, obs[:3], alone)
        torch.testing.assert_close(batch, single, rtol=1e-3, atol=1e-4)

    def test_more_restarts_never_hurt(self, name: str, objective, victim) -> None:
        policy, critics, obs = victim
        values = []
        for restarts in (1, 8):
            with torch.no_grad():
                adv = attacked(name, victim, strength=Strength(5, restarts))
                values.append(float(objective(policy, critics, obs, adv).mean()))
        assert values[1] >= values[0] - 1e-6

    def test_without_critics_it_is_refused(self, name: str, objective, victim) -> None:
        policy, _, obs = victim
        with pytest.raises(InputError, match="fit-critics"):
            perturb(ATTACKS[name], policy, None, obs, EPSILON, Strength(), torch.Generator())


def test_the_critic_sees_the_clean_observation(victim) -> None:
    """The gradient is that of Q(s0, pi(s_k)), not of Q(s_k, pi(s_k))."""
    policy, critics, obs = victim
    adv = obs + 0.05
    expected = critics.q_cost(obs, policy.mean(adv))
    torch.testing.assert_close(max_cost(policy, critics, obs, adv), expected)
    assert not torch.allclose(expected, critics.q_cost(adv, policy.mean(adv)))


class TestPaperStyle:
    """The authors' attack: Adam from a carried start, with their stop rule."""

    def run(self, victim, start: torch.Tensor | None = None, **settings: float) -> torch.Tensor:
        policy, critics, obs = victim
        strength = PaperStrength(**{"steps": 12, "stop_value": 0.0, "stop_move": 0.0, **settings})
        draw = torch.Generator().manual_seed(0)
        return perturb(ATTACKS["mc"], policy, critics, obs, EPSILON, strength, draw, start)

    def test_is_adam_with_projection(self, victim) -> None:
        policy, critics, obs = victim
        torch.manual_seed(1)
        start = torch.empty_like(obs).uniform_(-EPSILON, EPSILON)
        delta = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([delta], lr=0.02, maximize=True)
        for _ in range(12):
            (delta.grad,) = torch.autograd.grad(max_cost(policy, critics, obs, obs + delta).sum(), delta)
            optimizer.step()
            with torch.no_grad():
                delta.clamp_(-EPSILON, EPSILON)
        torch.testing.assert_close(
            self.run(victim, start, rate=0.02), obs + delta.detach(), atol=1e-5, rtol=0
        )

    @pytest.mark.parametrize("norm", ["linf", "l2"])
    def test_stays_in_the_ball_wherever_it_starts(self, norm: str, victim) -> None:
        delta = self.run(victim, torch.full_like(victim[2], 3.0), norm=norm) - victim[2]
        size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
        assert float(size.max()) <= EPSILON * (1 + 1e-5)

    def test_leaves_the_victim_alone(self, victim) -> None:
        policy, critics, _ = victim
        assert not self.run(victim).requires_grad
        assert all(p.grad is None for p in [*policy.parameters(), *critics.parameters()])

    def test_each_state_stops_on_its_own(self, victim) -> None:
        policy, critics, obs = victim
        tolerances = {"stop_value": 1e-3, "stop_move": 1e-3, "steps": 200}
        batch = self.run(victim, **tolerances)
        alone = self.run((policy, critics, obs[:1]), **tolerances)
        torch.testing.assert_close(batch[:1], alone, atol=1e-5, rtol=0)

    def test_stops_by_its_tolerances(self, victim) -> None:
        endless = {"stop_value": float("inf"), "stop_move": float("inf"), "steps": 50}
        assert torch.equal(self.run(victim, **endless), self.run(victim, steps=1))
        one_of_two = {"stop_value": float("inf"), "stop_move": 0.0, "steps": 50}
        assert torch.equal(self.run(victim, **one_of_two), self.run(victim, steps=50))

    def test_takes_the_start_over(self, victim) -> None:
        start = torch.full_like(victim[2], EPSILON / 2)
        assert not torch.equal(
            self.run(victim, start, steps=1, rate=1e-3), self.run(victim, steps=1, rate=1e-3)
        )
