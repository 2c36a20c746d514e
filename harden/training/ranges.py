"""Whether the actions and costs in stored data lie where the task says that they do."""

from __future__ import annotations

from pathlib import Path

import torch

from harden.config.pipeline import PipelineConfig
from harden.errors import InputError
from harden.types import Transitions

# what other tools' rounding and scaling may leave outside; a share of the range
_TOLERANCE = 1e-3


def require_ranges(config: PipelineConfig, rows: Transitions, path: Path) -> None:
    """Refuse stored actions outside the task's bounds, and costs above the highest of a step.

    No policy of ours can give such actions, and the cost critic holds its targets below what the highest cost
    allows: training on either ends like any other, and what it made would be unsafe.

    Args:
        rows: what is learned from.
        path: the data set, in the error.

    Raises:
        InputError: says what is outside, its range in the data and the task's.
    """
    task = config.task_row
    lows, highs = (torch.tensor(bound) for bound in task.bounds)
    found_low, found_high = rows.actions.aminmax(dim=0)
    beyond = torch.maximum(lows - found_low, found_high - highs) / (highs - lows)
    worst = int(beyond.argmax())
    if float(beyond[worst]) > _TOLERANCE:
        raise InputError(
            f"{path}: action {worst} goes from {float(found_low[worst]):g} to {float(found_high[worst]):g}, "
            f"task '{task.name}' allows {float(lows[worst]):g} to {float(highs[worst]):g}",
            "set own_task.action_low and own_task.action_high to the robot's bounds, or scale the data",
        )
    cost = float(rows.costs.max())
    if not task.allows_cost(cost):
        raise InputError(
            f"{path}: a step costs up to {cost:g}, of task '{task.name}' at most {task.max_step_cost:g}",
            "set own_task.max_step_cost to the highest cost of a step, or scale the data",
        )
