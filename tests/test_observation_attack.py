"""The Gymnasium wrapper attacks as `harden evaluate` does, in anyone's own loop."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from pathlib import Path

import bullet_safety_gym  # noqa: F401
import gymnasium
import numpy as np
import pytest
import torch

import harden
from harden.attacks import ATTACKS, PaperStrength, Strength
from harden.config.tasks import TASKS
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.evaluation.entries import Trial
from harden.evaluation.trials import Victim, evaluate_policy
from harden.nets.saved import LoadedPolicy
from harden.seeds import episode_seeds

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
TASK = TASKS["ball-circle"]
here = partial(VectorEnv, TASK, workers=0)
EPSILON = 0.05


@pytest.fixture(scope="module")
def victim() -> LoadedPolicy:
    """The shipped vanilla policy."""
    return harden.load_policy(RELEASED)


def simulation() -> gymnasium.Env:
    """Return the task's environment as anyone makes it."""
    # it flushes C streams by these objects' names, which pytest's do not have
    with contextlib.redirect_stdout(sys.__stdout__), contextlib.redirect_stderr(sys.__stderr__):
        return gymnasium.make(TASK.env_id, disable_env_checker=True)


def run(env: gymnasium.Env, victim: LoadedPolicy, seed: int) -> tuple[float, float, list[np.ndarray]]:
    """Run one episode; returns its reward, its cost and the perturbations."""
    # the simulator draws its start from NumPy's global generator
    np.random.seed(seed)
    obs, _ = env.reset()
    reward_sum, cost_sum, moved, done = 0.0, 0.0, [obs - env.clean_obs], False
    while not done:
        obs, reward, terminated, truncated, info = env.step(victim.act(obs))
        moved.append(obs - env.clean_obs)
        reward_sum, cost_sum = reward_sum + reward, cost_sum + info["cost"]
        done = terminated or truncated
    return reward_sum, cost_sum, moved


@pytest.mark.parametrize("strength", [Strength(3, 1, queries=17), PaperStrength(5)], ids=["pgd", "paper"])
@pytest.mark.parametrize("attack", ["random", "mc", "mad", "black-box", "amad"])
def test_it_costs_what_evaluate_says(attack: str, strength: Strength | PaperStrength, victim) -> None:
    trial = Trial(1, EPSILON, strength, "mean", seed=3)
    said = evaluate_policy(Victim(victim.policy, victim.critics), TASK, [attack], [trial], simulate=here)
    assert [one["attack"] for one in said.entries] == ["natural", attack], (
        "natural, asked for or not, is first"
    )
    entry = said.entries[1]
    env = harden.ObservationAttack(
        simulation(),
        victim,
        attack=attack,
        epsilon=EPSILON,
        strength=strength,
        threshold=entry.get("threshold"),
        seed=3,
    )
    reward, cost, moved = run(env, victim, int(episode_seeds(3, "evaluate", 0, 1)[0]))
    env.close()
    episode = entry["per_episode"][0]
    assert (cost, len(moved) - 1) == (episode["cost"], episode["length"])
    assert reward == pytest.approx(episode["reward"], rel=1e-5)
    assert 0 < max(float(np.abs(delta).max()) for delta in moved) <= EPSILON * 1.001


def test_episodes_are_their_own_and_repeat(victim) -> None:
    def episodes() -> list[list[np.ndarray]]:
        env = harden.ObservationAttack(simulation(), victim, attack="random", epsilon=EPSILON, seed=1)
        found = [run(env, victim, 5)[2] for _ in range(2)]
        env.close()
        return found

    first, second = episodes()
    assert not np.array_equal(first[0], second[0])
    for a, b in zip((first, second), episodes(), strict=True):
        assert np.array_equal(a, b)


def test_its_observations_are_in_its_space_and_a_vector_radius_holds(victim) -> None:
    radius = [0.0, 0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.3]
    env = harden.ObservationAttack(simulation(), victim, attack="gaussian", epsilon=radius)
    obs, _ = env.reset(seed=1)
    assert obs in env.observation_space
    assert obs.dtype == env.observation_space.dtype
    moved = np.abs(obs - env.clean_obs)
    assert (moved <= np.array(radius) + 1e-6).all()
    assert moved[7] > 0
    env.close()


def test_a_function_is_attacked_by_values_as_the_network_behind_it(victim) -> None:
    """Somebody's model is only asked; black-box needs no more, and mc searches as it does."""

    def predict(obs: np.ndarray) -> tuple[np.ndarray, None]:
        return victim.act(obs), None

    # as wide as the policy's own states: in some of them an attack has something to gain
    wide = np.array([0.4, 0.7, 1.0, 1.8, 1.4, 0.8, 0.3, 0.2])
    states = (np.random.default_rng(0).normal(size=(20, 8)) * wide).astype(np.float32)
    found = []
    for policy, attack in ((predict, "black-box"), (victim, "black-box"), (predict, "mc")):
        options = {"attack": attack, "epsilon": EPSILON, "strength": Strength(3, 1, queries=65)}
        env = harden.ObservationAttack(Observing(8), policy, victim.critics, **options)
        found.append(np.stack([env.observation(state) for state in states]))
    assert np.array_equal(found[0], found[1])
    assert 0 < float(np.abs(found[2] - states).max()) <= EPSILON * 1.001
    with pytest.raises(InputError, match="is no policy"):
        harden.ObservationAttack(Observing(8), "mine", epsilon=EPSILON)
    with pytest.raises(InputError, match="own critics"):
        harden.ObservationAttack(Observing(8), predict, epsilon=EPSILON)


def test_a_function_is_asked_for_its_mean_action_and_has_to_have_one(victim) -> None:
    """A model of Stable-Baselines3 samples unless it is told not to; what always samples is no victim."""

    def predict(observation, state=None, episode_start=None, deterministic=False):
        mean = victim.act(observation)
        return mean if deterministic else mean + np.random.normal(size=mean.shape), state

    def noisy(obs: np.ndarray) -> np.ndarray:
        return np.random.uniform(size=(len(obs), 2))

    def alone(obs: np.ndarray) -> list[float]:
        return [float(obs[0]), float(obs[1])]

    options = {"attack": "random", "epsilon": EPSILON}
    env = harden.ObservationAttack(Observing(8), predict, **options)
    obs = torch.randn(5, 8)
    np.testing.assert_allclose(env.victim.mean(obs).numpy(), victim.act(obs.numpy()), atol=1e-6)
    with pytest.raises(InputError, match="noisy gives another action each time"):
        harden.ObservationAttack(Observing(8), noisy, **options)
    with pytest.raises(InputError, match=r"policy 'alone' fails on an array .* it has to take"):
        harden.ObservationAttack(Observing(8), alone, **options)
    # its actions are those that the environment takes
    wide = Observing(8, 5.0)
    env = harden.ObservationAttack(wide, lambda obs: np.tile([3.0, -7.0], (len(obs), 1)), **options)
    np.testing.assert_array_equal(env.victim.mean(obs).numpy(), np.tile([3.0, -5.0], (5, 1)))
    with pytest.raises(InputError, match="no bounds"):
        harden.ObservationAttack(Observing(8, np.inf), predict, **options)
    # one that has no signature to look at
    harden.ObservationAttack(Observing(2), np.tanh, **options)


class Observing(gymnasium.Env):
    """An environment of some number of coordinates that never runs."""

    def __init__(self, size: int, high: float = 1.0) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self.action_space = gymnasium.spaces.Box(-high, high, (2,), np.float32)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attack": "mx", "epsilon": 0.1}, f"unknown attack 'mx'; choose from: {', '.join(ATTACKS)}"),
        ({"epsilon": -0.1}, "epsilon = -0.1 is not allowed"),
        ({"epsilon": float("nan")}, "epsilon = nan is not allowed"),
        ({"epsilon": [0.1, 0.1]}, "one number, or 8"),
        ({"attack": "amad", "epsilon": 0.1}, "risk_threshold"),
        ({"attack": "mc-independent", "epsilon": 0.1}, "independent critics"),
    ],
)
def test_a_mistake_is_told_at_once(options: dict, said: str, victim) -> None:
    with pytest.raises(InputError) as error:
        harden.ObservationAttack(Observing(8), victim, **options)
    assert said in str(error.value)


def test_another_environment_and_a_policy_without_critics_are_refused(victim) -> None:
    with pytest.raises(InputError, match="takes 8 coordinates"):
        harden.ObservationAttack(Observing(3), victim, epsilon=0.1)
    with pytest.raises(InputError, match="own critics"):
        harden.ObservationAttack(Observing(8), victim.policy, epsilon=0.1)
