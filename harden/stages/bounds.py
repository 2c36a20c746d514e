"""Whether the actions in stored data are ones that the task allows."""

from __future__ import annotations

from pathlib import Path

import torch

from harden.config import PipelineConfig
from harden.errors import InputError
from harden.types import Transitions

# what other tools' rounding and scaling may leave outside; a share of the action range
_TOLERANCE = 1e-3


def require_bounds(config: PipelineConfig, rows: Transitions, path: Path) -> None:
    """Refuse stored actions outside the task's bounds.

    No policy of ours can give them, and training on them ends like any other.

    Args:
        rows: what is learned from.
        path: the data set, in the error.

    Raises:
        InputError: says the worst coordinate, its range in the data and its bounds.
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
