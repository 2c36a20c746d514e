"""Many environments advanced together, in this process or split over workers."""

from __future__ import annotations

import contextlib
import os
import subprocess
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from harden.child import start_child
from harden.config.tasks import Task
from harden.envs.worker import Slots
from harden.errors import HardenError


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


class _Worker:
    """One child process and our end of its pipe."""

    def __init__(self) -> None:
        self.process, self.pipe = start_child("harden.envs.worker")

    def ask(self, *request: Any) -> None:
        try:
            self.pipe.send(request)
        except OSError:
            self.lost()

    def answer(self) -> Any:
        try:
            fine, value = self.pipe.recv()
        except (EOFError, OSError):
            self.lost()
        if isinstance(value, HardenError):
            raise value
        if not fine:
            raise HardenError(f"a simulation worker failed: {value}")
        return value

    def lost(self) -> NoReturn:
        with contextlib.suppress(subprocess.TimeoutExpired):
            # the pipe breaks a moment before the exit status is there
            self.process.wait(timeout=5)
        raise HardenError(
            f"a simulation worker ended by itself (exit status {self.process.returncode})",
            "what was stored stands; run the command again, with fewer workers if memory was short",
        )

    def close(self) -> None:
        # it holds nothing worth keeping, and asked politely in the middle of a step it would complain
        self.process.kill()
        self.process.wait()
        self.pipe.close()


class VectorEnv:
    """Environments in lockstep. Data depend on how many there are, never on how they are split.

    Args:
        task: of all of them.
        num_envs: slots.
        workers: processes to split them over, one a core where not given; 0 simulates in this process.

    Raises:
        HardenError: a simulation failed or a worker died; the environments are closed then.
    """

    def __init__(self, task: Task, num_envs: int, workers: int | None = None) -> None:
        wanted = len(os.sched_getaffinity(0)) if workers is None else workers
        self.task, self.num_envs = task, num_envs
        self.workers: list[_Worker] = []
        self.local: Slots | None = None
        if wanted == 0:
            self.local = Slots(task, num_envs)
            self.action_low, self.action_high = self.local.bounds()
            return
        count = min(wanted, num_envs)
        self.workers = [_Worker() for _ in range(count)]
        try:
            for index, worker in enumerate(self.workers):
                worker.ask("make", task, len(range(index, num_envs, count)))
            bounds = [worker.answer() for worker in self.workers]
            self.action_low, self.action_high = bounds[0]
        except BaseException:
            self.close()
            raise

    def _ask(self, request: str, slots: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, Any]]:
        """Put a request to those that own the slots; returns each part and the rows that it belongs to."""
        try:
            if self.local is not None:
                return [(np.arange(len(slots)), getattr(self.local, request)(slots, values))]
            return self._ask_workers(request, slots, values)
        except BaseException as error:
            # an answer that stays in a pipe would be taken for the next request's
            self.close()
            if isinstance(error, HardenError) or not isinstance(error, Exception):
                raise
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            raise HardenError(f"the simulation failed: {said}") from error

    def _ask_workers(
        self, request: str, slots: np.ndarray, values: np.ndarray
    ) -> list[tuple[np.ndarray, Any]]:
        count = len(self.workers)
        if not count:
            raise HardenError("these environments are closed", "open new ones")
        asked = []
        for index, worker in enumerate(self.workers):
            (rows,) = np.nonzero(slots % count == index)
            if len(rows):
                worker.ask(request, slots[rows] // count, values[rows])
                asked.append((rows, worker))
        return [(rows, worker.answer()) for rows, worker in asked]

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode in each of the slots.

        Args:
            slots: which, (len,).
            seeds: the simulator's seed of each episode, (len,).

        Returns:
            First observations, float32 (len, obs_dim).
        """
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        for rows, part in self._ask("reset", slots, seeds):
            obs[rows] = part
        return obs

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Step:
        """Advance each of the slots by one step.

        Args:
            slots: which, (len,).
            actions: inside the action space, float32 (len, act_dim).
        """
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        floats = np.empty((2, len(slots)), dtype=np.float32)
        flags = np.empty((2, len(slots)), dtype=bool)
        for rows, part in self._ask("step", slots, actions):
            obs[rows], floats[0, rows], floats[1, rows], flags[0, rows], flags[1, rows] = part
        return Step(obs, floats[0], floats[1], flags[0], flags[1])

    def close(self) -> None:
        """End the worker processes."""
        for worker in self.workers:
            worker.close()
        self.workers = []
        if self.local is not None:
            self.local.close()
            self.local = None

    def __enter__(self) -> VectorEnv:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
