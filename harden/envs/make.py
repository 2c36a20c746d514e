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
_WRAP = "wrap the environment so that it does"


class StepResult(NamedTuple):
    """What one step of one environment gave.

    Args:
        obs: float32 (obs_dim,).
        terminal, timeout: the dynamics ended the episode, or the time limit did.
    """

    obs: np.ndarray
    reward: float
    cost: float
    terminal: bool
    timeout: bool


def _unfit(task: Task, what: str, remedy: str) -> InputError:
    return InputError(f"task '{task.name}': {what}", remedy)


def _make(task: Task) -> Any:
    """Return the environment that a task names, its module imported first."""
    try:
        if task.module:
            importlib.import_module(task.module)
        return gymnasium.make(task.env_id, disable_env_checker=True)
    except ImportError as error:
        remedy = "install it, or name the module that registers the environment in own_task.module"
        raise _unfit(task, f"module '{task.module}' can't be imported ({error})", remedy) from error
    except gymnasium.error.Error as error:
        remedy = "name the module that registers it in own_task.module"
        raise _unfit(task, f"there is no environment {task.env_id} ({error})", remedy) from error


def _check_spaces(task: Task, env: Any, bounds: bool) -> None:
    """Refuse an environment whose spaces are not those of its task; `bounds`: the actions' bounds too."""
    spaces, has = (env.observation_space, env.action_space), f"{task.env_id} has"
    if not all(isinstance(space, gymnasium.spaces.Box) for space in spaces):
        kinds = " and ".join(type(space).__name__ for space in spaces)
        remedy = "observations and actions have to be vectors of real numbers: wrap the environment"
        raise _unfit(task, f"{has} spaces that are {kinds}, not Box and Box", remedy)
    shapes, sizes = [space.shape for space in spaces], [(task.obs_dim,), (task.act_dim,)]
    if shapes != sizes:
        remedy = "say so with own_task.obs_dim and act_dim, or wrap the environment so that both are vectors"
        raise _unfit(task, f"{has} spaces of shapes {shapes}, the task's are {sizes}", remedy)
    limits = np.asarray([spaces[1].low, spaces[1].high], dtype=np.float32)
    ends = " to ".join(str(limit) for limit in limits.tolist())
    if bounds and not np.isfinite(limits).all():
        remedy = "harden acts between limits: wrap the environment so that its action_space has them"
        raise _unfit(task, f"{has} no limits of its actions: {ends}", remedy)
    if bounds and not np.array_equal(limits, np.asarray(task.bounds, dtype=np.float32)):
        own = " to ".join(str(list(bound)) for bound in task.bounds)
        remedy = "say so with own_task.action_low and action_high"
        raise _unfit(task, f"{has} actions from {ends}, the task's are from {own}", remedy)


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
    """Refuse to simulate a task of which there are only data, as it names no environment: InputError."""
    if not task.env_id:
        remedy = "every stage but collect and evaluate works from stored data, as harden train --offline does"
        raise _unfit(task, "it has no environment (own_task.env_id is empty), and this simulates", remedy)


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
        out, err = contextlib.redirect_stdout(sys.__stdout__), contextlib.redirect_stderr(sys.__stderr__)
        with out, err, _drawing_from(0):
            # the wrappers' checks cost as much as the Ball's physics
            made = _make(task)
        # bullet-safety-gym's time limit is not the task's: its wrappers are left out
        self.bullet = hasattr(made.unwrapped, "bc") and task.module == "bullet_safety_gym"
        self.env = made.unwrapped if self.bullet else made
        self.task, self.steps = task, 0
        _check_spaces(task, self.env, bounds=not self.bullet)
        self.low: np.ndarray = np.asarray(self.env.action_space.low, dtype=np.float32)
        self.high: np.ndarray = np.asarray(self.env.action_space.high, dtype=np.float32)
        if self.bullet:
            client = self.env.bc
            if step := task.fixed_time_step:
                # the attributes set the number of steps only at construction: the client must be told itself
                client.setPhysicsEngineParameter(fixedTimeStep=step, numSubSteps=task.substeps)
            self.env.stored_state_id = client.saveState()

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode of a seed; returns its first observation, float32 (obs_dim,)."""
        if self.bullet:
            client, body = self.env.bc, self.env.agent.body_id
            for joint in range(client.getNumJoints(body)):
                client.setJointMotorControl2(body, joint, client.VELOCITY_CONTROL, targetVelocity=0, force=0)
        with _drawing_from(seed):
            options = {} if self.bullet else {"seed": seed}
            obs, _ = self._values(lambda: self.env.reset(**options), _RESET)
        self.steps = 0
        return self._observation(obs)

    def step(self, action: np.ndarray) -> StepResult:
        """Advance by one step with an action inside the action space."""
        obs, reward, terminal, truncated, info = self._values(lambda: self.env.step(action), _STEP)
        self.steps += 1
        if not isinstance(info, dict) or "cost" not in info:
            raise self._error("gives no info['cost']", _WRAP)
        cost, reward = self._number(info["cost"], "cost"), self._number(reward, "reward")
        if not self.task.allows_cost(cost):
            remedy = "set own_task.max_step_cost to the highest cost of a step, or wrap the environment"
            raise self._error(f"costs {cost:g}, which is not in 0 to {self.task.max_step_cost:g}", remedy)
        limit = self.steps >= self.task.horizon or (bool(truncated) and not self.bullet)
        return StepResult(self._observation(obs), reward, cost, bool(terminal), limit and not terminal)

    def _error(self, what: str, remedy: str) -> InputError:
        return _unfit(self.task, f"a step of {self.task.env_id} {what}", remedy)

    def _values(self, call: Callable[[], Any], names: tuple[str, ...]) -> tuple[Any, ...]:
        """Return what the environment answers, which has to be as many values as Gymnasium says."""
        try:
            values = call()
        except ValueError as error:
            # of a wrapper of Gymnasium's, which takes the values apart before they come here
            if "values to unpack" not in str(error):
                raise
            values = None
        if isinstance(values, tuple) and len(values) == len(names):
            return values
        remedy = "with the cost as info['cost'], as safety_gymnasium.wrappers.SafetyGymnasium2Gymnasium does"
        what = f"or reset gives other values than the {len(names)} of Gymnasium ({', '.join(names)})"
        raise self._error(what, f"{_WRAP}, {remedy}")

    def _number(self, value: Any, what: str) -> float:
        """Return a reward or a cost as the number that it has to be."""
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise self._error(f"gives {value!r} as its {what}", f"a {what} is one number: add up several")
        return float(array.reshape(()))

    def _observation(self, value: Any) -> np.ndarray:
        """Return an observation as float32 (obs_dim,)."""
        obs = np.asarray(value)
        if obs.shape != (self.task.obs_dim,) or obs.dtype.kind not in "biuf":
            what = f"observes {obs.dtype} {obs.shape}, not numbers ({self.task.obs_dim},) as its space says"
            raise self._error(what, _WRAP)
        return obs.astype(np.float32, copy=False)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
