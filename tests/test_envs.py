"""Simulation: an episode depends on its seed and its actions, on nothing else."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from harden.config.tasks import TASKS, Task
from harden.envs.rollout import Acted, Progress, Rollout, rollout
from harden.envs.vector import VectorEnv
from harden.envs.worker import SeededEnv
from harden.errors import DivergedError, HardenError

BALL = TASKS["ball-circle"]


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
    task = TASKS[name]
    alone, used = SeededEnv(task), SeededEnv(task)
    expected = play(alone, 7)
    for before in range(9):
        play(used, before + 100, steps=15)
    again = play(used, 7)
    assert len(expected) == len(again)
    assert all(np.array_equal(a, b) for a, b in zip(expected, again, strict=True))
    alone.close()
    used.close()


@pytest.mark.parametrize("name", ["ball-circle", "car-circle", "drone-run", "ant-run"])
def test_an_episode_is_as_in_the_packages_own_new_environment(name: str) -> None:
    """Mending the reset must not change the task."""
    task = TASKS[name]
    ours = SeededEnv(task)
    play(ours, 5, steps=15)
    # the package flushes C streams by the names of these, which pytest's own do not have
    with contextlib.redirect_stdout(sys.__stdout__), contextlib.redirect_stderr(sys.__stderr__):
        theirs = gymnasium.make(task.env_id).unwrapped
    np.random.seed(7)
    seen: list[np.ndarray] = [theirs.reset()[0].astype(np.float32)]
    rng = np.random.default_rng(7)
    expected = play(ours, 7)
    while len(seen) < len(expected):
        action = rng.uniform(-1, 1, task.act_dim).astype(np.float32)
        obs, reward, _, _, info = theirs.step(action)
        seen += [obs.astype(np.float32), np.array([reward, info["cost"]])]
    assert all(np.array_equal(a, b) for a, b in zip(expected, seen, strict=True))
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", ["ball-circle", "car-circle", "drone-run", "ant-run"])
def test_simulation_leaves_the_callers_random_numbers_alone(name: str) -> None:
    """Many environments share one process: a step that drew would make them depend on each other."""
    np.random.seed(3)
    expected = np.random.random(4)
    np.random.seed(3)
    env = SeededEnv(TASKS[name])
    play(env, 0, steps=5)
    assert np.array_equal(expected, np.random.random(4))
    env.close()


def collect(workers: int, task: Task = BALL, episodes: int = 5, slots: int = 3) -> Rollout:
    """Roll out noise around a lopsided action, which throws a drone over."""
    draw = torch.Generator().manual_seed(1)
    lean = 3 * torch.tensor([1.0, 1.0, -1.0, -1.0])[: task.act_dim] * (task.act_dim == 4)

    def act(obs: torch.Tensor, slots: torch.Tensor) -> Acted:
        return Acted(lean + torch.randn(len(obs), task.act_dim, generator=draw), obs)

    with VectorEnv(task, slots, workers) as envs:
        return rollout(envs, act, list(range(10, 10 + episodes)))


@pytest.mark.parametrize(
    ("name", "horizon", "counts"), [("ball-circle", 60, (0, 1, 2, 3)), ("drone-run-paper", 40, (0, 2))]
)
def test_data_do_not_depend_on_the_number_of_workers(
    name: str, horizon: int, counts: tuple[int, ...]
) -> None:
    task = TASKS[name]._replace(horizon=horizon)
    results = [collect(workers, task) for workers in counts]
    for other in results[1:]:
        for a, b in zip(results[0].transitions, other.transitions, strict=True):
            assert torch.equal(a, b)


def test_each_episode_is_its_seeds_own_whatever_ran_beside_it() -> None:
    """One process interleaves the slots; episodes that end early move the later ones along."""
    task = TASKS["drone-run-paper"]
    lean = torch.tensor([1.0, 1.0, -1.0, -1.0])
    seeds = [4, 9, 2, 4]

    def act(obs: torch.Tensor, slots: torch.Tensor) -> Acted:
        # each falls when it falls: the lengths come from the observations alone
        return Acted(lean * (obs[:, :1].abs() * 1000).clamp(max=1.0), obs)

    with VectorEnv(task, 1, 0) as one:
        alone = [rollout(one, act, [seed]) for seed in seeds]
    with VectorEnv(task, 2, 0) as envs:
        run = rollout(envs, act, seeds)
    assert run.seeds.tolist() == seeds
    assert len(set(run.lengths.tolist())) > 1
    assert run.lengths.tolist() == [int(single.lengths[0]) for single in alone]
    columns = zip(*(single.transitions for single in alone), strict=True)
    for together, apart in zip(run.transitions, columns, strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_rows_are_whole_episodes_in_order() -> None:
    task = TASKS["drone-run-paper"]
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
    """Position moves by velocity times the step's length, and a reset does not set that back."""
    env = SeededEnv(TASKS[name])
    play(env, 2, steps=3)
    env.reset(3)
    body, client = env.env.agent.body_id, env.env.bc
    assert client.getPhysicsEngineParameters()["fixedTimeStep"] == pytest.approx(seconds)
    assert client.getPhysicsEngineParameters()["numSubSteps"] == round(120 * seconds)
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
    assert str(seen[0]) == "no episode finished yet"
    assert str(seen[-1]) == f"3 episodes, reward {run.rewards.mean():.1f}, cost {run.costs.mean():.1f}"


def test_the_observation_that_was_acted_on_is_stored_and_the_next_one_is_benign() -> None:
    """A behaviour may even write its noise into the tensor that it was handed."""

    def noisy(obs: torch.Tensor, slots: torch.Tensor) -> Acted:
        return Acted(torch.full((len(obs), 2), 5.0), obs.add_(1.0))

    with VectorEnv(BALL._replace(horizon=6), 2, 0) as envs:
        data = rollout(envs, noisy, [1, 2]).transitions
    inside = ~data.timeouts[:-1]
    assert torch.equal(data.next_obs[:-1][inside] + 1.0, data.obs[1:][inside])
    assert torch.equal(data.actions, torch.ones_like(data.actions))


def test_an_action_that_is_nan_is_one_line() -> None:
    with VectorEnv(BALL, 1, 0) as envs, pytest.raises(DivergedError, match="NaN"):
        rollout(envs, lambda obs, slots: Acted(torch.full((1, 2), torch.nan), obs), [1])


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Wait until a process has ended, which a loaded machine may take a moment over."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


ZERO = np.zeros((2, 2), dtype=np.float32)


def test_workers_are_light_deaf_to_signals_and_leave_nothing_behind() -> None:
    with VectorEnv(BALL, 2, 2) as envs:
        envs.reset(np.arange(2), np.arange(2))
        pids = [worker.process.pid for worker in envs.workers]
        for pid in pids:
            assert "libtorch" not in Path(f"/proc/{pid}/maps").read_text()
            assert os.getpgid(pid) != os.getpgid(0)
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert envs.step(np.arange(2), ZERO).obs.shape == (2, 8)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_workers_end_with_their_parent_however_it_dies() -> None:
    script = """
import sys
from harden.envs.vector import VectorEnv
from harden.config.tasks import TASKS
envs = VectorEnv(TASKS["ball-circle"], 2, 2)
print(*[worker.process.pid for worker in envs.workers], flush=True)
sys.stdin.read()
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.communicate()
    assert all(gone(pid) for pid in pids)


def test_a_worker_whose_parent_died_over_its_work_has_nothing_to_say() -> None:
    script = """
import os, signal
import numpy as np
from harden.envs.vector import VectorEnv
from harden.config.tasks import TASKS
envs = VectorEnv(TASKS["ball-circle"], 1, 1)
print(envs.workers[0].process.pid, flush=True)
os.kill(envs.workers[0].process.pid, signal.SIGSTOP)
envs.workers[0].send({"do": "reset"}, [np.arange(1), np.arange(1)])
os.kill(os.getpid(), signal.SIGTERM)
"""
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        pid = int(parent.stdout.readline())
        assert parent.wait() == -signal.SIGTERM
        # it reads the request, and finds nobody to answer
        os.kill(pid, signal.SIGCONT)
        assert gone(pid)
        assert parent.stderr.read() == ""


def test_a_worker_does_not_import_from_the_folder_that_the_user_stands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gymnasium.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    with VectorEnv(BALL, 1, 1) as envs:
        assert envs.reset(np.array([0]), np.array([0])).shape == (1, 8)


def test_a_dead_worker_is_one_line_and_no_hang() -> None:
    with VectorEnv(BALL, 2, 2) as envs:
        envs.reset(np.arange(2), np.arange(2))
        os.kill(envs.workers[0].process.pid, signal.SIGKILL)
        with pytest.raises(HardenError, match=r"worker ended by itself \(exit status -9\)") as caught:
            envs.step(np.arange(2), ZERO)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_simulations_error_is_one_line_and_closes_the_environments(workers: int) -> None:
    with VectorEnv(BALL, 2, workers) as envs:
        envs.reset(np.arange(2), np.arange(2))
        with pytest.raises(HardenError, match=r"failed .*AssertionError"):
            envs.step(np.arange(2), ZERO * np.nan)
        # the other answers must not be taken for those of the next request
        with pytest.raises(HardenError, match="closed"):
            envs.step(np.arange(2), ZERO)
