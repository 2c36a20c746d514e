"""What an environment says of itself, which a pipeline file then need not say."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from harden.config.pipeline import PipelineConfig, make_config
from harden.config.tasks import Task
from harden.envs.vector import Worker, request
from harden.errors import InputError


def describe(task: Task, play: bool = False) -> tuple[dict[str, Any], list[float], list[float]]:
    """Ask the environment of a task, whose sizes and bounds need not be known, once, in a worker.

    Returns:
        What `harden.envs.worker.Slots.describe` says, and the lowest and the highest action, (act_dim,) each.

    Raises:
        InputError: there is no such environment, or it can't be used as it is.
    """
    with contextlib.closing(Worker(task)) as worker:
        worker.send(request("describe", task, play=play))
        found, bounds = worker.receive()
    # the shortest number that is the same float32
    low, high = ([float(str(np.float32(value))) for value in bound] for bound in bounds)
    return found, low, high


def completed(config: PipelineConfig) -> PipelineConfig:
    """Return a configuration whose task says all that its environment knows; errors as `describe`."""
    task = config.task
    if isinstance(task, str) or not task.unsaid:
        return config
    found, low, high = describe(task.row)
    if not (task.horizon or found["horizon"]):
        what = f"task '{task.name}': {task.env} has no time limit of its own"
        raise InputError(what, "set task.horizon, the most steps of an episode")
    said = {name: found[name] for name in ("horizon", "obs_dim", "act_dim")}
    said |= {"action_low": low, "action_high": high}
    own = {name: value for name, value in task.model_dump().items() if value is not None}
    return make_config(config.model_dump() | {"task": said | own}, f"task '{task.name}'")
