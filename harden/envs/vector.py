"""Many environments advanced together, in this process or split over workers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from harden.envs.worker import Slots
from harden.errors import HardenError
from harden.tasks import Task


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
        ours, theirs = socket.socketpair()
        # a fresh interpreter: a fork would copy torch's threads in whatever state they are
        command = [sys.executable, "-m", "harden.envs.worker", str(theirs.fileno())]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, env=environment
        )
        theirs.close()
        self.pipe = Connection(ours.detach())

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
        if not fine:
            raise HardenError(f"a simulation worker failed: {value}")
        return value

    def lost(self) -> None:
        code = self.process.poll()
        raise HardenError(
            f"a simulation worker ended by itself (exit status {code})",
            "what was stored stands; run the command again, with fewer workers if memory was short",
        )

    def close(self) -> None:
        self.pipe.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class VectorEnv:
    """Environments in lockstep. Data depend on how many there are, never on how they are split.

    Args:
        task: of all of them.
        num_envs: slots.
        workers: processes to split them over, one a core where not given; 0 simulates in this process.

    Raises:
        HardenError: a worker failed or died.
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

    def _split(self, request: str, slots: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, Any]]:
        """Ask each worker for its part; returns which rows each part belongs to."""
        count = len(self.workers)
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
        if self.local is not None:
            return self.local.reset(slots, seeds)
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        for rows, part in self._split("reset", slots, seeds):
            obs[rows] = part
        return obs

    def step(self, slots: np.ndarray, actions: np.ndarray) -> Step:
        """Advance each of the slots by one step.

        Args:
            slots: which, (len,).
            actions: inside the action space, float32 (len, act_dim).
        """
        if self.local is not None:
            return Step(*self.local.step(slots, actions))
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        floats = np.empty((2, len(slots)), dtype=np.float32)
        flags = np.empty((2, len(slots)), dtype=bool)
        for rows, part in self._split("step", slots, actions):
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
