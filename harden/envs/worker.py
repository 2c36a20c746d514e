"""A worker process: some environments behind one pipe. Run as `python -m harden.envs.worker FD`."""

from __future__ import annotations

import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from harden.config.tasks import Task
from harden.envs.make import SeededEnv
from harden.errors import HardenError


class Slots:
    """Several environments, addressed by their place.

    Args:
        task: of all of them.
        count: how many.
    """

    def __init__(self, task: Task, count: int) -> None:
        self.envs = [SeededEnv(task) for _ in range(count)]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the action space's bounds, (act_dim,) each."""
        return self.envs[0].low, self.envs[0].high

    def reset(self, places: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """Start an episode at each place; returns observations, float32 (len, obs_dim)."""
        pairs = zip(places, seeds, strict=True)
        return np.stack([self.envs[place].reset(int(seed)) for place, seed in pairs])

    def step(self, places: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, ...]:
        """Advance each place by one step; returns observations, rewards, costs, terminals, timeouts."""
        results = [self.envs[place].step(action) for place, action in zip(places, actions, strict=True)]
        obs, rewards, costs, terminals, timeouts = zip(*results, strict=True)
        return (
            np.stack(obs),
            np.array(rewards, dtype=np.float32),
            np.array(costs, dtype=np.float32),
            np.array(terminals, dtype=bool),
            np.array(timeouts, dtype=bool),
        )

    def close(self) -> None:
        """Close all of them."""
        for env in self.envs:
            env.close()


def serve(pipe: Connection) -> None:
    """Answer requests until the pipe closes, which it does when the parent dies, however it dies."""
    slots: Slots | None = None
    while True:
        try:
            request, *arguments = pipe.recv()
        except (EOFError, OSError):
            return
        reply: tuple[bool, Any]
        try:
            if request == "make":
                slots = Slots(*arguments)
                reply = True, slots.bounds()
            else:
                reply = True, getattr(slots, request)(*arguments)
        except HardenError as error:
            reply = False, error
        except Exception as error:
            reply = False, f"{type(error).__name__}: {error}".splitlines()[0]
        try:
            pipe.send(reply)
        except OSError:
            return


if __name__ == "__main__":
    # either may reach all processes of a run; the parent decides when the work ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(Connection(int(sys.argv[1])))
