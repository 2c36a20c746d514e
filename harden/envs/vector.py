"""Many environments advanced together, in this process or split over workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harden.child import Child, ChildEndedError
from harden.config.tasks import Task
from harden.envs.worker import Slots
from harden.errors import HardenError, foreign_errors


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


def _answers(requests: Sequence[tuple[Child, str, tuple[Any, ...]]]) -> list[Any]:
    """Send a request to each worker, all before the first answer is waited for; returns the answers."""
    try:
        for worker, method, arguments in requests:
            worker.send(method, *arguments)
        return [worker.receive() for worker, _, _ in requests]
    except ChildEndedError as error:
        remedy = "what was stored stands; run the command again, with fewer workers if memory was short"
        raise HardenError(
            f"a simulation worker ended by itself (exit status {error.status})", remedy
        ) from error


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
        self.workers: list[Child] = []
        self.local: Slots | None = None
        if wanted == 0:
            self.local = Slots()
            self.action_low, self.action_high = self.local.make(task, num_envs)
            return
        count = min(wanted, num_envs)
        self.workers = [Child("harden.envs.worker") for _ in range(count)]
        try:
            shares = (len(range(index, num_envs, count)) for index in range(count))
            requests = [(self.workers[i], "make", (task, share)) for i, share in enumerate(shares)]
            self.action_low, self.action_high = _answers(requests)[0]
        except BaseException:
            self.close()
            raise

    def _ask(self, request: str, slots: np.ndarray, values: np.ndarray) -> list[tuple[np.ndarray, Any]]:
        """Put a request to those that own the slots; returns each part and the rows that it belongs to."""
        try:
            if self.local is not None:
                with foreign_errors("the simulation failed", kind=HardenError):
                    return [(np.arange(len(slots)), getattr(self.local, request)(slots, values))]
            count = len(self.workers)
            if not count:
                raise HardenError("these environments are closed", "open new ones")
            rows = [np.nonzero(slots % count == index)[0] for index in range(count)]
            busy = [index for index in range(count) if len(rows[index])]
            asked = [(self.workers[i], request, (slots[rows[i]] // count, values[rows[i]])) for i in busy]
            answers = _answers(asked)
            return [(rows[index], answer) for index, answer in zip(busy, answers, strict=True)]
        except BaseException:
            # an answer that stays in a pipe would be taken for the next request's
            self.close()
            raise

    def reset(self, slots: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode of each seed (len,) in its slot (len,); returns obs, float32 (len, obs_dim)."""
        obs = np.empty((len(slots), self.task.obs_dim), dtype=np.float32)
        for rows, part in self._ask("reset", slots, seeds):
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

    def __exit__(self, *_: object) -> None:
        self.close()
