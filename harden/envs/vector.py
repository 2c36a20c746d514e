"""Many environments advanced together, in this process or split over workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np

from harden.child import exit_status, start_child
from harden.config.tasks import TASKS, Task
from harden.envs import worker
from harden.errors import HardenError, InputError

# an environment that is closed in good order is done by then
_CLOSING_SECONDS = 2
_PYTHON = "name a Python 3.8 or later that has NumPy and the simulator as task.python"


class Step(NamedTuple):
    """One step of the slots asked for, in their order.

    Args:
        obs: float32 (len, obs_dim).
        rewards, costs: float32 (len,).
        terminals, timeouts: bool (len,).
    """

    obs: np.ndarray
    rewards: np.ndarray
    costs: np.ndarray
    terminals: np.ndarray
    timeouts: np.ndarray


def require_environment(task: Task) -> None:
    """Refuse to simulate a task of which there are only data, as it names no environment: InputError."""
    if not task.env_id:
        what = f"task '{task.name}' has no environment (task.env is empty), and this simulates"
        raise InputError(what, "use data: harden train --offline, and harden evaluate --data LOGS")


def _kind(task: Task) -> type[HardenError]:
    """Return whose failure the simulation's is: the user's where the environment is the user's own."""
    return HardenError if task.name in TASKS else InputError


def _given(task: Task, reply: dict[str, Any]) -> Any:
    """Return what a worker answered; InputError or HardenError: that it is none."""
    if "refused" in reply:
        what, remedy = reply["refused"]
        raise InputError(f"task '{task.name}': {what}", remedy)
    if "failed" in reply:
        raise _kind(task)(f"the simulation failed ({reply['failed']})")
    return reply["gives"]


class Worker:
    """A simulation worker in a process of its own, under the task's Python; InputError: there is none."""

    def __init__(self, task: Task) -> None:
        self.task = task
        python = os.path.expanduser(task.python) or sys.executable
        try:
            self.process, self.pipe = start_child([python, worker.__file__], ours=not task.python)
        except OSError as error:
            what = f"task.python = '{python}' can't be started ({error.strerror})"
            raise InputError(what, _PYTHON) from error
        # neither a simulator that hangs nor one that reads nothing holds harden up
        self.pipe.settimeout(task.timeout)
        self.reader = self.pipe.makefile("rb")

    def send(self, asked: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Put a request; HardenError: nobody is there any more."""
        try:
            worker.write_message(self.pipe, asked, arrays)
        except OSError as error:
            self._lost(error)

    def receive(self) -> tuple[Any, list[np.ndarray]]:
        """Return the answer to the oldest request that has none.

        Raises:
            InputError: the environment is not what its task says.
            HardenError: the simulation failed, ended or gave no answer; an InputError where it is one's own.
        """
        try:
            reply, arrays = worker.read_message(self.reader)
        except (EOFError, OSError) as error:
            self._lost(error)
        except (ValueError, LookupError, TypeError) as error:
            raise _kind(self.task)(f"the simulation worker said what makes no sense ({error})") from error
        return _given(self.task, reply), arrays

    def _lost(self, error: Exception) -> NoReturn:
        """Say why there is no answer."""
        kind = _kind(self.task)
        if isinstance(error, TimeoutError):
            what = f"the simulation gave no answer within {self.task.timeout:g} s"
            raise kind(what, "where it needs longer, set task.timeout, in seconds") from error
        what = f"a simulation worker ended by itself (exit status {exit_status(self.process)})"
        remedy = "what was stored stands; run the command again, with fewer workers if memory was short"
        raise kind(what, f"{remedy}, or {_PYTHON}" if self.task.python else remedy) from error

    def hang_up(self) -> None:
        """Tell it to end."""
        with contextlib.suppress(OSError):
            self.pipe.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it, whatever it does, and where it does not end by itself all that it has started."""
        self.hang_up()
        try:
            self.process.wait(timeout=_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.reader.close()
        self.pipe.close()


class Here:
    """A worker without a process: it simulates where it is called."""

    def __init__(self, task: Task) -> None:
        # as a worker has it, and policies of one's own do
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        self.task, self.slots = task, worker.Slots()

    def send(self, asked: dict[str, Any], arrays: Sequence[np.ndarray] = ()) -> None:
        """Answer a request, which `receive` returns."""
        self.answer = worker.answer(self.slots, asked, arrays)

    def receive(self) -> tuple[Any, list[np.ndarray]]:
        """Return the answer; errors as a Worker's."""
        reply, arrays = self.answer
        return _given(self.task, reply), arrays

    def hang_up(self) -> None:
        """Do nothing: there is nobody to be told."""

    def close(self) -> None:
        """Close the environments."""
        self.slots.close()


def request(do: str, task: Task | None = None, **values: Any) -> dict[str, Any]:
    """Return a request; the ones that open environments are sent with their task."""
    if task is None:
        return {"do": do, "with": values}
    return {"protocol": worker.PROTOCOL, "do": do, "with": values | {"task": task._asdict()}}


class VectorEnv:
    """Environments in lockstep. Data depend on how many there are, never on how they are split.

    Args:
        task: of all of them.
        num_envs: slots.
        workers: processes to split them over, one a core where not given; 0 simulates in this process, unless
            the task has a Python of its own.
        film: pictures will be asked for.

    Raises:
        InputError: the environment is not what its task says.
        HardenError: a simulation failed or a worker died; the environments are closed then.
    """

    def __init__(self, task: Task, num_envs: int, workers: int | None = None, film: bool = False) -> None:
        require_environment(task)
        wanted = len(os.sched_getaffinity(0)) if workers is None else workers
        self.task, self.num_envs = task, num_envs
        count = min(max(wanted, bool(task.python)), num_envs)
        self.workers: list[Worker | Here] = []
        try:
            for _ in range(count):
                self.workers.append(Worker(task))
            self.workers = self.workers or [Here(task)]
            count = len(self.workers)
            shares = [len(range(index, num_envs, count)) for index in range(count)]
            requests = {
                i: (request("make", task, count=share, film=film), ()) for i, share in enumerate(shares)
            }
            self.action_low, self.action_high = self._ask_workers(requests)[0]
        except BaseException:
            self.close()
            raise

    def _ask_workers(
        self, requests: Mapping[int, tuple[dict[str, Any], Sequence[np.ndarray]]]
    ) -> list[list[np.ndarray]]:
        """Send each worker its request, all before the first answer is waited for; returns the answers."""
        for index, asked in requests.items():
            self.workers[index].send(*asked)
        return [self.workers[index].receive()[1] for index in requests]

    def _ask(
        self, do: str, slots: np.ndarray, *values: np.ndarray, **options: Any
    ) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        """Put a request to those that own the slots; returns each part and the rows that it belongs to."""
        count = len(self.workers)
        if not count:
            raise HardenError("these environments are closed", "open new ones")
        rows = {i: np.nonzero(slots % count == i)[0] for i in range(count) if (slots % count == i).any()}
        requests = {
            i: (request(do, **options), (slots[own] // count, *(value[own] for value in values)))
            for i, own in rows.items()
        }
        try:
            return list(zip(rows.values(), self._ask_workers(requests), strict=True))
        except BaseException:
            # an answer that stays in a pipe would be taken for the next request's
            self.close()
            raise

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode of each seed (len,) in its slot (len,); returns obs, float32 (len, obs_dim)."""
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        for rows, (part,) in self._ask("reset", slots, seeds):
            obs[rows] = part
        return obs

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Step:
        """Advance each of the slots (len,) by an action inside the action space, float32 (len, act_dim)."""
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        floats = np.empty((2, len(slots)), dtype=np.float32)
        flags = np.empty((2, len(slots)), dtype=bool)
        for rows, part in self._ask("step", slots, actions):
            obs[rows], floats[0, rows], floats[1, rows], flags[0, rows], flags[1, rows] = part
        return Step(obs, floats[0], floats[1], flags[0], flags[1])

    def frame(self, slot: int, width: int) -> np.ndarray:
        """Return a picture of a slot, uint8 (height, some width, 3); InputError: there is none."""
        ((_, (picture,)),) = self._ask("frame", np.array([slot]), width=width)
        return picture

    def close(self) -> None:
        """End the worker processes."""
        for each in self.workers:
            each.hang_up()
        for each in self.workers:
            each.close()
        self.workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
