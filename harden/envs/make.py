"""One simulated environment whose episode depends on its seed and its actions, and on nothing before."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from harden.config.tasks import Task
from harden.errors import InputError

# what Gymnasium says that an environment gives
_RESET = ("obs", "info")
_STEP = ("obs", "reward", "terminated", "truncated", "info")


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


def _make(task: Task) -> Any:
    """Return the environment that a task names, its module imported first."""
    try:
        if task.module:
            importlib.import_module(task.module)
        return gymnasium.make(task.env_id, disable_env_checker=True)
    except ImportError as error:
        raise InputError(
            f"task '{task.name}': module '{task.module}' can't be imported ({error})",
            "install it, or name the module that registers the environment in own_task.module",
        ) from error
    except gymnasium.error.Error as error:
        raise InputError(
            f"task '{task.name}': there is no environment {task.env_id} ({error})",
            "name the module that registers it in own_task.module",
        ) from error


def _check_bounds(task: Task, low: np.ndarray, high: np.ndarray) -> None:
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError(
            f"task '{task.name}': actions of {task.env_id} have no limits: {low.tolist()} to {high.tolist()}",
            "a policy of harden acts between limits: wrap the environment so that its action_space has them",
        )
    wanted = [np.asarray(bound, dtype=np.float32) for bound in task.bounds]
    if not (np.array_equal(low, wanted[0]) and np.array_equal(high, wanted[1])):
        raise InputError(
            f"task '{task.name}': actions of {task.env_id} lie in {low.tolist()} to {high.tolist()}, "
            f"the task's in {wanted[0].tolist()} to {wanted[1].tolist()}",
            "say so with own_task.action_low and action_high",
        )


@contextlib.contextmanager
def _drawing_from(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator for a while, and give it back as it was."""
    callers = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(callers)


def require_environment(task: Task) -> None:
    """Refuse to simulate a task of which there are only data.

    Raises:
        InputError: the task names no environment.
    """
    if not task.env_id:
        raise InputError(
            f"task '{task.name}' has no environment (own_task.env_id is empty), and this simulates",
            "every stage but collect and evaluate works from stored data, as harden train --offline does",
        )


def try_environment(task: Task) -> None:
    """Open a task's environment and close it: what does not fit is refused before anything is stored.

    Raises:
        InputError: as `SeededEnv`.
    """
    SeededEnv(task).close()


class SeededEnv:
    """One environment of a task.

    bullet-safety-gym 1.4.0 draws from NumPy's global generator whatever seed it is given, never in a step;
    and its resets keep the joints' motor commands of the episode before, which the first simulated step of
    the next one then obeys. Here each episode seeds that generator, starts from the state right after
    construction, and with idle motors: bit for bit as in a new environment. Any other environment is given
    the seed, as Gymnasium means it, and is trusted to start from it alone.

    Raises:
        InputError: the task's environment is not there, not what its row says, or there is none.
    """

    def __init__(self, task: Task) -> None:
        require_environment(task)
        # the simulator flushes C streams by these objects' names, which a notebook's or a test's do not have
        with (
            contextlib.redirect_stdout(sys.__stdout__),
            contextlib.redirect_stderr(sys.__stderr__),
            _drawing_from(0),
        ):
            # the wrappers' checks cost as much as the Ball's physics
            made = _make(task)
        # bullet-safety-gym's time limit is not the task's: its wrappers are left out
        self.bullet = hasattr(made.unwrapped, "bc") and task.module == "bullet_safety_gym"
        self.env = made.unwrapped if self.bullet else made
        self.task = task
        self.steps = 0
        spaces = self.env.observation_space, self.env.action_space
        if not all(isinstance(space, gymnasium.spaces.Box) for space in spaces):
            kinds = " and ".join(type(space).__name__ for space in spaces)
            raise InputError(
                f"task '{task.name}': spaces of {task.env_id} are {kinds}, not Box and Box",
                "observations and actions have to be vectors of real numbers: wrap the environment",
            )
        self.low: np.ndarray = np.asarray(self.env.action_space.low, dtype=np.float32)
        self.high: np.ndarray = np.asarray(self.env.action_space.high, dtype=np.float32)
        shapes = self.env.observation_space.shape, self.env.action_space.shape
        if shapes != ((task.obs_dim,), (task.act_dim,)):
            raise InputError(
                f"task '{task.name}': {task.env_id} has spaces of the shapes {shapes[0]} and {shapes[1]}, "
                f"the task's are ({task.obs_dim},) and ({task.act_dim},)",
                "say so with own_task.obs_dim and act_dim, or wrap the environment so that both are vectors",
            )
        if not self.bullet:
            _check_bounds(task, self.low, self.high)
            return
        client = self.env.bc
        if task.fixed_time_step:
            # the attributes set the number of steps only at construction: the client must be told itself
            client.setPhysicsEngineParameter(fixedTimeStep=task.fixed_time_step, numSubSteps=task.substeps)
        self.env.stored_state_id = client.saveState()

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode of a seed; returns its first observation, float32 (obs_dim,)."""
        if self.bullet:
            client, body = self.env.bc, self.env.agent.body_id
            for joint in range(client.getNumJoints(body)):
                client.setJointMotorControl2(body, joint, client.VELOCITY_CONTROL, targetVelocity=0, force=0)
        with _drawing_from(seed):
            given = (
                self.env.reset() if self.bullet else self._values(lambda: self.env.reset(seed=seed), _RESET)
            )
        self.steps = 0
        return self._observed(given[0])

    def step(self, action: np.ndarray) -> StepResult:
        """Advance by one step with an action inside the action space."""
        given = self._values(lambda: self.env.step(action), _STEP)
        obs, reward, terminal, truncated, info = given
        self.steps += 1
        if not isinstance(info, dict) or "cost" not in info:
            raise self._unlike("gives no info['cost']", "wrap the environment so that it does")
        cost, reward = self._number(info["cost"], "cost"), self._number(reward, "reward")
        if not self.task.allows_cost(cost):
            raise self._unlike(
                f"costs {cost:g}, which is not in 0 to {self.task.max_step_cost:g}",
                "set own_task.max_step_cost to the highest cost of a step, or wrap the environment",
            )
        limit = self.steps >= self.task.horizon or (bool(truncated) and not self.bullet)
        timeout = limit and not terminal
        return StepResult(self._observed(obs), reward, cost, bool(terminal), timeout)

    def _unlike(self, said: str, remedy: str) -> InputError:
        return InputError(f"task '{self.task.name}': a step of {self.task.env_id} {said}", remedy)

    def _values(self, ask: Callable[[], Any], names: tuple[str, ...]) -> tuple[Any, ...]:
        """Return what the environment answers, which has to be as many values as Gymnasium says."""
        try:
            given = ask()
        except ValueError as error:
            # of a wrapper of Gymnasium's, which takes the values apart before they come here
            if "values to unpack" not in str(error):
                raise
            given = None
        if isinstance(given, tuple) and len(given) == len(names):
            return given
        count = f"{len(given)} values" if isinstance(given, tuple) else "other values"
        raise self._unlike(
            f"or reset gives {count}, not the {len(names)} of Gymnasium ({', '.join(names)})",
            "wrap the environment so that it gives these, a cost of its own as info['cost'], "
            "as safety_gymnasium.wrappers.SafetyGymnasium2Gymnasium does",
        )

    def _number(self, given: Any, what: str) -> float:
        """Return a reward or a cost as the number that it has to be."""
        value = np.asarray(given)
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise self._unlike(f"gives {given!r} as its {what}", f"a {what} is one number: add up several")
        return float(value.reshape(()))

    def _observed(self, given: Any) -> np.ndarray:
        """Return an observation as float32 (obs_dim,)."""
        obs = np.asarray(given)
        if obs.shape != (self.task.obs_dim,) or obs.dtype.kind not in "biuf":
            raise self._unlike(
                f"observes {obs.dtype} {obs.shape}, not numbers ({self.task.obs_dim},) as its space says",
                "wrap the environment so that it does",
            )
        return obs.astype(np.float32, copy=False)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
