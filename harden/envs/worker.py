"""Environments of one task, answering requests. Run as `PYTHON worker.py FD`, by whatever Python simulates.

It runs on CPython 3.8 or later with NumPy 1 or 2, and imports nothing of harden, which imports it to simulate
in its own process and to speak the protocol: what is simulated is the same wherever it is.

The protocol, over one socket, all of it little-endian: a message is its header's length (4 bytes), the header
(JSON), and the bytes of the arrays that `header["arrays"]` lists as [dtype, shape]. A request says "do" (a
method of `Slots`) and what that takes as "with"; the first one says "protocol". An answer holds "refused":
[what, remedy], or "failed": what, or "gives": what the method returned beside its arrays.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import platform
import signal
import socket
import struct
import sys
from types import SimpleNamespace
from typing import IO, Any, Callable, Iterator, NamedTuple, Sequence

try:
    import numpy as np
except ImportError:
    # said over the socket: whoever named this Python reads one line
    np = None  # type: ignore[assignment]

PROTOCOL = 1
# a header or an array beyond is none of ours
_MOST_BYTES = 2**28
_WRAP = "wrap the environment so that it does"
_RESET = ("obs", "info")
_STEP = ("obs", "reward", "terminated", "truncated", "info")
_ASPECT = 4 / 3


class Refused(Exception):
    """The environment is not what the task says, or not what harden can use.

    Args:
        what: happened; remedy: what to do about it.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def write_message(pipe: socket.socket, header: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
    """Send a message; OSError: nobody is there, or nobody reads."""
    described = [[array.dtype.str, array.shape] for array in arrays]
    text = json.dumps(dict(header, arrays=described)).encode()
    pipe.sendall(b"".join([struct.pack("<I", len(text)), text, *(array.tobytes() for array in arrays)]))


def read_message(pipe: IO[bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the next message; EOFError: there is none; ValueError: it is no message of this protocol."""

    def exactly(size: int) -> bytes:
        if not 0 <= size <= _MOST_BYTES:
            raise ValueError("a message without end")
        content = pipe.read(size)
        if len(content) < size:
            raise EOFError
        return content

    header = json.loads(exactly(struct.unpack("<I", exactly(4))[0]))
    arrays = []
    for name, shape in header["arrays"]:
        kind, count = np.dtype(name), 1
        if kind.kind not in "biuf":
            raise ValueError(f"an array of {name}")
        for size in shape:
            count *= size
        arrays.append(np.frombuffer(exactly(count * kind.itemsize), kind).reshape(shape))
    return header, arrays


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


def _python_of(module: str, *others: str) -> Any:
    """Return a module or the first of some others that is there, or refuse the last."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if others:
            return _python_of(*others)
        remedy = f"run harden from the folder that holds it, or install it for {sys.executable}"
        raise Refused(f"module '{module}' can't be imported ({error})", remedy) from error


def _accepting(factory: Callable[..., Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return those of the options that a class or function takes."""
    try:
        taken = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    return {name: value for name, value in options.items() if every or name in taken}


def _make(task: Any, film: bool) -> Any:
    """Return the environment that a task names: a class or function of its module, or what is registered."""
    options = {"render_mode": "rgb_array"} if film else {}
    module = _python_of(task.module) if task.module else None
    found = module
    for name in task.env_id.split("."):
        found = getattr(found, name, None)
    if callable(found):
        return found(**_accepting(found, options))
    gym = _python_of("gymnasium", "gym")
    maker = getattr(module, "make", None)
    if not callable(maker) or next(iter(inspect.signature(maker).parameters), "") != "id":
        maker = gym.make
    try:
        # a package's own comes first: Safety-Gymnasium's ids fail on the wrappers that Gymnasium puts on.
        # The checker's wrapper costs as much as the physics of a ball
        return maker(task.env_id, **_accepting(maker, {**options, "disable_env_checker": True}))
    except gym.error.Error as error:
        remedy = "write task.env = 'module:Class', 'module:function' or, of what it registers, 'module:id'"
        raise Refused(f"there is no environment {task.env_id} ({_line(error)})", remedy) from error


def _box(space: Any) -> bool:
    """Tell whether a space is Gymnasium's or gym's Box, or has what it has."""
    return all(hasattr(space, name) for name in ("low", "high", "shape"))


def _range(space: Any) -> str:
    """Return a space in words: what it is, and of a box its shape, type and range."""
    kind = type(space).__name__
    if not _box(space):
        return kind
    return f"{kind}{tuple(space.shape)} {space.dtype} from {np.min(space.low):g} to {np.max(space.high):g}"


class Spaces:
    """What an environment observes and takes, as two vectors.

    Args:
        task: says which keys of an observation that is a dictionary are the vector, and bounds.
        env: the environment.

    Raises:
        Refused: either is no vector of real numbers, or the actions have no bounds.
    """

    def __init__(self, task: Any, env: Any) -> None:
        obs, act = env.observation_space, env.action_space
        inside = getattr(obs, "spaces", None)
        self.keys, offered = tuple(task.obs_keys), dict(inside) if isinstance(inside, dict) else {}
        if set(self.keys) - set(offered) or (offered and not self.keys):
            listed = ", ".join(f"{key}: {_range(part)}" for key, part in offered.items()) or _range(obs)
            what = f"{task.env_id} has observations ({listed}), and task.obs_keys is {list(self.keys)}"
            raise Refused(what, "name there, in order, those of a dictionary that the policy sees")
        parts = {key: offered[key] for key in self.keys} or {"": obs}
        vectors = [*([] if self.keys else [obs]), act]
        boxes = all(map(_box, [*parts.values(), act]))
        if not boxes or any(len(space.shape) != 1 for space in vectors):
            kinds = " and ".join(map(_range, [*parts.values(), act]))
            what = f"{task.env_id} has spaces that are {kinds}, not Box and Box of one dimension"
            raise Refused(what, "observations and actions have to be vectors of real numbers: " + _WRAP)
        self.parts, self.act = list(parts.items()), act
        self.obs_dim, self.act_dim = sum(int(np.prod(part.shape)) for part in parts.values()), act.shape[0]

    def require_sizes(self, task: Any) -> None:
        """Refuse sizes other than the task's."""
        own, said = (self.obs_dim, self.act_dim), (task.obs_dim, task.act_dim)
        if own != said:
            what = "{} has {} coordinates and {} actions, the task {} and {}".format(task.env_id, *own, *said)
            raise Refused(what, "say so with task.obs_dim and act_dim, or leave both out")

    def bounds(self, task: Any, trusted: bool) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and the highest action, float32 (act_dim,) each.

        Args:
            task: whose bounds hold where the environment has none; elsewhere they have to be equal.
            trusted: the environment's hold whatever the task says.
        """
        own = np.asarray([self.act.low, self.act.high], dtype=np.float32)
        what = f"{task.env_id} has actions from {own[0]} to {own[1]}"
        remedy = "task.action_low and action_high"
        if not np.isfinite(own).all() and not task.action_low:
            raise Refused(f"{what}, which are no limits", f"set them with {remedy}")
        if trusted:
            return own[0], own[1]
        ones = np.ones(self.act_dim)
        said = np.asarray([task.action_low or -ones, task.action_high or ones], dtype=np.float32)
        if said.shape != own.shape or not np.array_equal(np.where(np.isfinite(own), own, said), said):
            raise Refused(f"{what}, the task's are from {said[0]} to {said[1]}", f"say so with {remedy}")
        return said[0], said[1]


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
    """One environment of a task, whose episode depends on its seed and its actions, and on nothing before.

    bullet-safety-gym 1.4.0 draws from NumPy's global generator whatever seed it is given, never in a step;
    and its resets keep the joints' motor commands of the episode before, which the first simulated step of
    the next one then obeys. Here each episode seeds that generator, starts from the state right after
    construction, and with idle motors: bit for bit as in a new environment. Any other environment is given
    the seed, as Gymnasium means it, and is trusted to start from it alone.

    Args:
        task: has the fields of harden.config.tasks.Task.
        film: pictures will be asked for.

    Raises:
        Refused: the environment is not there, or not what the task says.
    """

    def __init__(self, task: Any, film: bool = False) -> None:
        # the simulator flushes C streams by these objects' names, which a notebook's or a test's do not have
        out, err = contextlib.redirect_stdout(sys.__stdout__), contextlib.redirect_stderr(sys.__stderr__)
        bullet = task.module == "bullet_safety_gym"
        with out, err, _drawing_from(0):
            made = _make(task, film and not bullet)
        # bullet-safety-gym's time limit is not the task's: its wrappers are left out
        self.time_limit = getattr(getattr(made, "spec", None), "max_episode_steps", None)
        self.bullet = bullet and hasattr(made.unwrapped, "bc")
        self.env = made.unwrapped if self.bullet else made
        self.task, self.steps, self.spaces = task, 0, Spaces(task, made)
        if self.bullet:
            client = self.env.bc
            if task.fixed_time_step:
                # the attributes set the number of steps only at construction: the client must be told itself
                seconds, parts = task.fixed_time_step, task.substeps
                client.setPhysicsEngineParameter(fixedTimeStep=seconds, numSubSteps=parts)
            self.env.stored_state_id = client.saveState()

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode of a seed; returns its first observation, float32 (obs_dim,)."""
        if self.bullet:
            client, body = self.env.bc, self.env.agent.body_id
            for joint in range(client.getNumJoints(body)):
                client.setJointMotorControl2(body, joint, client.VELOCITY_CONTROL, targetVelocity=0, force=0)
        with _drawing_from(seed):
            options = {} if self.bullet else {"seed": seed}
            obs, _ = self._values(lambda: self.env.reset(**options), (_RESET,))
        self.steps = 0
        return self._observation(obs)

    def step(self, action: np.ndarray) -> StepResult:
        """Advance by one step with an action inside the action space.

        The cost is that of `info`, or stands between reward and ends, as Safety-Gymnasium's steps have it.
        """
        values = self._values(lambda: self.env.step(action), (_STEP, (*_STEP[:2], "cost", *_STEP[2:])))
        (obs, reward), (terminal, truncated, info) = values[:2], values[-3:]
        self.steps += 1
        key = self.task.cost_key
        if len(values) > len(_STEP):
            info, key = {"cost": values[2]}, "cost"
        if not isinstance(info, dict) or key not in info:
            keys = ", ".join(map(str, info)) if isinstance(info, dict) else type(info).__name__
            remedy = f"set task.cost_key to the one that is the cost ({keys or 'none is there'}), or {_WRAP}"
            raise self._error(f"gives no info['{key}']", remedy)
        cost, reward = self._number(info[key], "cost"), self._number(reward, "reward")
        # the tolerance of harden.config.tasks.Task.allows_cost: what rounding leaves outside
        if not 0 <= cost <= self.task.max_step_cost * (1 + 1e-3):
            remedy = "set task.max_step_cost to the highest cost of a step, or wrap the environment"
            raise self._error(f"costs {cost:g}, which is not in 0 to {self.task.max_step_cost:g}", remedy)
        limit = self.steps >= self.task.horizon or (bool(truncated) and not self.bullet)
        return StepResult(self._observation(obs), reward, cost, bool(terminal), limit and not terminal)

    def _error(self, what: str, remedy: str = _WRAP) -> Refused:
        return Refused(f"a step of {self.task.env_id} {what}", remedy)

    def _values(self, call: Callable[[], Any], either: Sequence[tuple[str, ...]]) -> tuple[Any, ...]:
        """Return what the environment answers, which has to be as many values as Gymnasium says."""
        try:
            values = call()
        except ValueError as error:
            # of a wrapper of Gymnasium's, which takes the values apart before they come here
            if "values to unpack" not in str(error):
                raise
            values = None
        if isinstance(values, tuple) and len(values) in map(len, either):
            return values
        remedy = "or name its class, task.env = 'module:Class', where a wrapper of Gymnasium's fails on it"
        what = f"or reset gives other values than the {len(either[0])} of Gymnasium ({', '.join(either[0])})"
        raise self._error(what, f"{_WRAP}, {remedy}")

    def _number(self, value: Any, what: str) -> float:
        """Return a reward or a cost as the number that it has to be."""
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise self._error(f"gives {value!r} as its {what}", f"a {what} is one number: add up several")
        return float(array.reshape(()))

    def _observation(self, value: Any) -> np.ndarray:
        """Return an observation as float32 (obs_dim,)."""
        keys = self.spaces.keys
        if keys:
            if not isinstance(value, dict) or not set(keys) <= set(value):
                raise self._error(f"observes {type(value).__name__} without all of {keys}")
            value = np.concatenate([np.ravel(value[key]) for key in keys])
        obs, size = np.asarray(value), self.spaces.obs_dim
        if obs.shape != (size,) or obs.dtype.kind not in "biuf":
            raise self._error(f"observes {obs.dtype} {obs.shape}, not numbers ({size},) as its space says")
        return obs.astype(np.float32, copy=False)

    def frame(self, width: int) -> np.ndarray:
        """Return what is seen now, uint8 (height, width, 3), in a width of its own where it has one."""
        if self.bullet:
            return self._bullet_frame(width)
        try:
            picture = np.asarray(self.env.render())
            if picture.ndim != 3 or picture.shape[2] not in (3, 4) or picture.dtype.kind not in "iu":
                raise ValueError(f"{picture.dtype} {picture.shape} is no picture")
        except Exception as error:
            remedy = "it has to take render_mode='rgb_array'; without a screen MuJoCo needs MUJOCO_GL=egl"
            raise Refused(f"render of {self.task.env_id} fails ({_line(error)})", remedy) from error
        return np.ascontiguousarray(picture[:, :, :3], dtype=np.uint8)

    def _bullet_frame(self, width: int) -> np.ndarray:
        """Return a picture in software, without screen or driver: a Circle task as a whole, or the robot."""
        client, height = self.env.bc, round(width / _ASPECT)
        x, y, z = (float(value) for value in self.env.agent.get_position())
        target, distance, yaw, pitch = (x + 1.0, 0.5 * y, z), 6.0, -90, -40
        zone = getattr(self.env.task, "circle", None)
        if zone is not None:
            target, distance, yaw, pitch = (0.0, 0.0, 0.0), 3.8 * float(zone.radius), 0, -70
            # drawn in software it is opaque and hides the robot; it has no mass that moves, nothing hits it
            client.resetBasePositionAndOrientation(zone.body_id, (0, 0, -1), (0, 0, 0, 1))
        view = client.computeViewMatrixFromYawPitchRoll(target, distance, yaw, pitch, 0, 2)
        lens = client.computeProjectionMatrixFOV(50, _ASPECT, 0.1, 100.0)
        picture = client.getCameraImage(width, height, view, lens, renderer=client.ER_TINY_RENDERER)
        return np.asarray(picture[2], dtype=np.uint8).reshape(height, width, -1)[:, :, :3].copy()

    def close(self) -> None:
        """Close the environment."""
        getattr(self.env, "close", lambda: None)()


class Slots:
    """Several environments of one task, addressed by their index; methods return plain values, and arrays."""

    def __init__(self) -> None:
        self.envs: list[SeededEnv] = []

    def make(self, task: Any, count: int, film: bool) -> tuple[Any, list[np.ndarray]]:
        """Make environments; returns the bounds of their actions, float32 (act_dim,) each."""
        self.envs = [SeededEnv(task, film) for _ in range(count)]
        spaces = self.envs[0].spaces
        spaces.require_sizes(task)
        return None, list(spaces.bounds(task, trusted=self.envs[0].bullet))

    def describe(self, task: Any, play: bool) -> tuple[Any, list[np.ndarray]]:
        """Say what the environment of a task says of itself.

        Args:
            play: take a step, and say what it gives.

        Returns:
            sizes, ranges, time limit and versions; and the bounds of the actions, as `make` does.
        """
        env = SeededEnv(task)
        self.envs, spaces = [env], env.spaces
        low, high = spaces.bounds(task, trusted=env.bullet or not task.action_low)
        gym = sys.modules.get("gymnasium") or sys.modules.get("gym")
        found: dict[str, Any] = {
            "obs_dim": spaces.obs_dim,
            "act_dim": spaces.act_dim,
            "observes": [[key, _range(part)] for key, part in spaces.parts],
            "acts": _range(spaces.act),
            "horizon": env.time_limit,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "gymnasium": f"{gym.__name__} {getattr(gym, '__version__', '')}" if gym else "",
        }
        if play:
            env.reset(0)
            step = env.step(((low + high) / 2).astype(np.float32))
            found["step"] = {"reward": step.reward, "cost": step.cost}
        return found, [low, high]

    def reset(self, indices: np.ndarray, seeds: np.ndarray) -> tuple[Any, list[np.ndarray]]:
        """Start an episode at each index; returns observations, float32 (len, obs_dim)."""
        return None, [np.stack([self.envs[i].reset(int(seed)) for i, seed in zip(indices, seeds)])]

    def step(self, indices: np.ndarray, actions: np.ndarray) -> tuple[Any, list[np.ndarray]]:
        """Advance each index by one step; returns observations, rewards, costs, terminals, timeouts."""
        results = [self.envs[index].step(action) for index, action in zip(indices, actions)]
        obs, *numbers = zip(*results)
        kinds = (np.float32, np.float32, np.bool_, np.bool_)
        return None, [np.stack(obs), *(np.array(column, kind) for column, kind in zip(numbers, kinds))]

    def frame(self, indices: np.ndarray, width: int) -> tuple[Any, list[np.ndarray]]:
        """Return a picture of each index, uint8 (height, width, 3)."""
        return None, [self.envs[index].frame(width) for index in indices]

    def close(self) -> None:
        """Close all of them."""
        for env in self.envs:
            env.close()
        self.envs = []


def _line(error: BaseException) -> str:
    """Return an error as one line."""
    return ": ".join([type(error).__name__, *" ".join(str(error).split()).splitlines()])[:400]


def answer(
    slots: Slots, request: dict[str, Any], arrays: Sequence[np.ndarray] = ()
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the answer to a request, whatever the simulation raises."""
    try:
        values = dict(request.get("with", {}))
        if "task" in values:
            values["task"] = SimpleNamespace(**values["task"])
        given, more = getattr(slots, request["do"])(*arrays, **values)
        return {"gives": given}, more
    except Refused as error:
        return {"refused": [error.what, error.remedy]}, []
    # a simulator that ends Python when it fails would look as if it had been stopped
    except (Exception, SystemExit) as error:
        return {"failed": _line(error)}, []


def _serve(descriptor: int) -> None:
    """Answer the requests of the parent until the socket closes."""
    # either signal may reach all processes of a run; the parent decides when the work ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe, slots = socket.socket(fileno=descriptor), Slots()
    # what the simulator starts does not keep it open
    pipe.set_inheritable(False)
    # modules are found beside where the user stands, after all others, and not beside this file
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here] + [os.getcwd()]
    with contextlib.suppress(EOFError, OSError), pipe.makefile("rb") as reader:
        while True:
            request, arrays = read_message(reader)
            if request.get("protocol", PROTOCOL) != PROTOCOL:
                write_message(pipe, {"failed": f"this worker speaks protocol {PROTOCOL}"})
            elif np is None:
                remedy = f"install it: {sys.executable} -m pip install numpy"
                write_message(pipe, {"refused": [f"{sys.executable} has no NumPy", remedy]})
            else:
                write_message(pipe, *answer(slots, request, arrays))
    with contextlib.suppress(Exception):
        slots.close()
    # threads that the simulator left behind would hold the process
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
