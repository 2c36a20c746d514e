"""One simulated environment whose episode depends on its seed and its actions, and on nothing before."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from harden.errors import InputError
from harden.tasks import Task


class StepResult(NamedTuple):
    """What one step of one environment gave.

    Args:
        obs: float32 (obs_dim,).
        reward, cost: of this step.
        terminal: the dynamics ended the episode.
        timeout: the time limit did.
    """

    obs: np.ndarray
    reward: float
    cost: float
    terminal: bool
    timeout: bool


@contextlib.contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator for a while, and give it back as it was."""
    callers = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(callers)


class SeededEnv:
    """One environment of a task.

    bullet-safety-gym 1.4.0 draws from NumPy's global generator whatever seed it is given, never in a step;
    and its resets keep the joints' motor commands of the episode before, which the first simulated step of
    the next one then obeys. Here each episode seeds that generator, starts from the state right after
    construction, and with idle motors: bit for bit as in a new environment.

    Raises:
        InputError: the task's environment is not what its row says.
    """

    def __init__(self, task: Task) -> None:
        # the simulator flushes C streams by these objects' names, which a notebook's or a test's do not have
        with (
            contextlib.redirect_stdout(sys.__stdout__),
            contextlib.redirect_stderr(sys.__stderr__),
            _drawing_from(0),
        ):
            importlib.import_module(task.module)
            # the wrappers' checks cost as much as the Ball's physics; the time limit is the task's own
            made: Any = gymnasium.make(task.env_id, disable_env_checker=True)
        self.env = made.unwrapped
        self.task = task
        self.steps = 0
        self.low: np.ndarray = np.asarray(self.env.action_space.low, dtype=np.float32)
        self.high: np.ndarray = np.asarray(self.env.action_space.high, dtype=np.float32)
        shapes = self.env.observation_space.shape, self.env.action_space.shape
        if shapes != ((task.obs_dim,), (task.act_dim,)):
            raise InputError(f"task '{task.name}': {task.env_id} has shapes {shapes}, not the task's")
        client = self.env.bc
        if task.fixed_time_step:
            # the attributes set the number of steps only at construction: the client must be told itself
            client.setPhysicsEngineParameter(fixedTimeStep=task.fixed_time_step, numSubSteps=task.substeps)
        self.env.stored_state_id = client.saveState()

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode of a seed; returns its first observation, float32 (obs_dim,)."""
        client, body = self.env.bc, self.env.agent.body_id
        for joint in range(client.getNumJoints(body)):
            client.setJointMotorControl2(body, joint, client.VELOCITY_CONTROL, targetVelocity=0, force=0)
        with _drawing_from(seed):
            obs, _ = self.env.reset()
        self.steps = 0
        return np.asarray(obs, dtype=np.float32)

    def step(self, action: np.ndarray) -> StepResult:
        """Advance by one step with an action inside the action space."""
        obs, reward, terminal, _, info = self.env.step(action)
        self.steps += 1
        timeout = self.steps >= self.task.horizon and not terminal
        return StepResult(
            np.asarray(obs, dtype=np.float32), float(reward), float(info["cost"]), bool(terminal), timeout
        )

    def close(self) -> None:
        """Disconnect the physics client."""
        self.env.close()
