"""Simulation: an episode depends on its seed and its actions, on nothing else."""

from __future__ import annotations

import gc
import os
import signal

import numpy as np
import pytest
import torch

from harden.envs.make import SeededEnv
from harden.envs.rollout import Acted, Progress, Rollout, rollout
from harden.envs.vector import VectorEnv
from harden.errors import HardenError
from harden.tasks import TASKS, Task, get_task

BALL = get_task("ball-circle")


def play(env: SeededEnv, seed: int, steps: int = 40) -> list[np.ndarray]:
    """Run an episode with actions drawn from its seed; returns everything that was seen."""
    rng = np.random.default_rng(seed)
    seen = [env.reset(seed)]
    for _ in range(steps):
        action = rng.uniform(-1, 1, env.task.act_dim).astype(np.float32)
        step = env.step(action)
        seen += [step.obs, np.array([step.reward, step.cost])]
        if step.terminal or step.timeout:
            break
    return seen


@pytest.mark.parametrize("name", TASKS)
def test_an_episode_is_the_same_alone_first_and_tenth(name: str) -> None:
    task = get_task(name)
    alone, used = SeededEnv(task), SeededEnv(task)
    expected = play(alone, 7)
    for before in range(9):
        play(used, before + 100, steps=15)
    again = play(used, 7)
    assert len(expected) == len(again)
    assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))
    alone.close()
    used.close()


def test_steps_draw_no_random_numbers() -> None:
    """Many environments share one process: a step that drew would make them depend on each other."""
    for name in TASKS:
        env = SeededEnv(get_task(name))
        env.reset(0)
        before = np.random.get_state()[1].copy()  # type: ignore[union-attr]
        env.step(np.zeros(env.task.act_dim, dtype=np.float32))
        assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[arg-type]
        env.close()


def collect(workers: int, task: Task = BALL, episodes: int = 5, slots: int = 3) -> Rollout:
    """Roll out noise around a lopsided action, which throws a drone over."""
    draw = torch.Generator().manual_seed(1)
    lean = 3 * torch.tensor([1.0, 1.0, -1.0, -1.0])[: task.act_dim] * (task.act_dim == 4)

    def act(obs: torch.Tensor, slots: torch.Tensor) -> Acted:
        return Acted(lean + torch.randn(len(obs), task.act_dim, generator=draw), obs)

    with VectorEnv(task, slots, workers) as envs:
        return rollout(envs, act, list(range(10, 10 + episodes)))


def test_data_do_not_depend_on_the_number_of_workers() -> None:
    results = [collect(workers) for workers in (0, 1, 2, 3)]
    for other in results[1:]:
        for a, b in zip(results[0].transitions, other.transitions, strict=True):
            assert torch.equal(a, b)


def test_rows_are_whole_episodes_in_order() -> None:
    task = get_task("drone-run-paper")
    run = collect(0, task, episodes=5, slots=2)
    data, lengths = run.transitions, run.lengths
    assert len(data.rewards) == lengths.sum()
    assert min(lengths) < task.horizon, "the drone should fall under noise"
    ends = data.terminals | data.timeouts
    assert torch.nonzero(ends)[:, 0].tolist() == (np.cumsum(lengths) - 1).tolist()
    inside = ~ends[:-1]
    assert torch.equal(data.next_obs[:-1][inside], data.obs[1:][inside])
    assert not torch.equal(data.next_obs[:-1][~inside], data.obs[1:][~inside])
    assert bool((data.terminals & data.timeouts).any()) is False
    assert float(data.actions.abs().max()) <= 1.0
    assert data.obs.dtype == data.costs.dtype == torch.float32
    np.testing.assert_allclose(data.rewards.double().sum(), run.rewards.sum(), rtol=1e-6)


def test_the_clock_ends_the_ball_and_the_horizon_is_the_tasks() -> None:
    run = collect(0, BALL._replace(horizon=13), episodes=2, slots=2)
    assert run.lengths.tolist() == [13, 13]
    assert int(run.transitions.timeouts.sum()) == 2
    assert not bool(run.transitions.terminals.any())


@pytest.mark.parametrize(("name", "seconds"), [("drone-run", 1 / 60), ("drone-run-paper", 1 / 30)])
def test_the_drones_step_lasts_what_the_task_says(name: str, seconds: float) -> None:
    """Position moves by velocity times the step's length."""
    env = SeededEnv(get_task(name))
    env.reset(3)
    body, client = env.env.agent.body_id, env.env.bc
    client.resetBasePositionAndOrientation(body, (0, 0, 50.0), (0, 0, 0, 1))
    client.resetBaseVelocity(body, (3.0, 0, 0), (0, 0, 0))
    before = client.getBasePositionAndOrientation(body)[0][0]
    client.stepSimulation()
    moved = client.getBasePositionAndOrientation(body)[0][0] - before
    assert moved == pytest.approx(3.0 * seconds, rel=0.02)
    env.close()


def test_progress_counts_steps_episodes_and_their_means() -> None:
    seen: list[Progress] = []
    with VectorEnv(BALL._replace(horizon=5), 2, 0) as envs:
        run = rollout(envs, lambda obs, slots: Acted(torch.zeros(len(obs), 2), obs), [1, 2, 3], seen.append)
    assert seen[-1].steps == 15
    assert seen[-1].episodes == 3
    assert seen[-1].reward == pytest.approx(run.rewards.mean())


def test_a_dead_worker_is_one_line_and_no_hang() -> None:
    with VectorEnv(BALL, 2, 2) as envs:
        envs.reset(np.arange(2), np.arange(2))
        os.kill(envs.workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(HardenError, match="worker ended by itself"):
            envs.step(np.arange(2), np.zeros((2, 2), dtype=np.float32))


def test_a_workers_error_arrives() -> None:
    with VectorEnv(BALL, 1, 1) as envs, pytest.raises(HardenError, match="worker failed"):
        envs.step(np.array([5]), np.zeros((1, 2), dtype=np.float32))


def test_nothing_is_left_behind() -> None:
    envs = VectorEnv(BALL, 2, 2)
    pids = [worker.process.pid for worker in envs.workers]
    envs.close()
    gc.collect()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
