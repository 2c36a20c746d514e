"""What a variant may collect and learn from, and whether stored data fit the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from harden.config.pipeline import PipelineConfig
from harden.config.variants import MC_BEHAVIOUR, VARIANTS
from harden.data.dataset import Dataset, open_dataset
from harden.data.manifest import DatasetInfo
from harden.errors import InputError
from harden.types import Transitions

# what other tools' rounding and scaling may leave outside; a share of the range
_TOLERANCE = 1e-3


def require_permission(behaviour: str, allowed: bool) -> None:
    """Refuse to attack a policy while it acts, unless that was asked for in so many words.

    Raises:
        InputError: the behaviour is an attack, and attacks were not allowed.
    """
    if behaviour == MC_BEHAVIOUR and not allowed:
        raise InputError(
            "this collects under attack: the robot is driven towards violations while it acts",
            "where that harms nobody, as in simulation, allow it with --allow-attacked-collection",
        )


def require_own_kind(config: PipelineConfig, info: DatasetInfo, path: Path) -> None:
    """Refuse attacked data for a variant that learns from benign ones, and the other way round.

    Raises:
        InputError: the data set holds a shard that is not of the variant's kind.
    """
    wanted = config.variant_row.collects_under_attack
    if all((shard.behaviour == MC_BEHAVIOUR) == wanted for shard in info.shards):
        return
    if wanted:
        raise InputError(
            f"{path} holds benign transitions",
            f"variant {config.variant} learns from data collected under attack: name them with --data, or "
            "collect them under another pipeline's name",
        )
    raise InputError(
        f"{path} holds transitions collected under attack",
        f"variant {config.variant} learns from benign data only",
    )


def open_own(config: PipelineConfig, path: Path) -> Dataset:
    """Open a data set of the pipeline's task and of its variant's kind.

    Raises:
        MissingInputError, DamagedFileError, StorageError: as `open_dataset`.
        InputError: it is of another task or kind.
    """
    dataset = open_dataset(path, config.task_row)
    require_own_kind(config, dataset.info, dataset.path)
    return dataset


def require_em(config: PipelineConfig) -> None:
    """Refuse an on-policy variant where there is an E-step or its targets.

    Raises:
        InputError: the variant has neither E-step nor M-step.
    """
    if config.variant_row.on_policy:
        raise InputError(
            f"variant {config.variant} is on-policy: it has no E-step and no M-step",
            f"train it with: harden train --variant {config.variant}",
        )


def require_imagined(config: PipelineConfig) -> None:
    """Refuse a variant without a world model where there is nothing else to train in: InputError."""
    if not config.variant_row.imagined:
        names = ", ".join(name for name, row in VARIANTS.items() if row.imagined)
        raise InputError(
            f"variant {config.variant} has no world model, and logs alone are trained in one",
            f"choose one that has: {names}",
        )


def require_calibrated(config: PipelineConfig, dataset: Dataset, cloned: Mapping[str, float]) -> None:
    """Refuse to train in a world model that expects something else of a clone of logs than they have.

    Args:
        dataset: the logs.
        cloned: reward and cost an episode that the world model expects of the clone.

    Raises:
        InputError: it is off by more than a share `offline.calibrated` of the reward.
    """
    expected, logged = cloned["reward"], dataset.info.mean_reward
    if abs(expected - logged) > config.offline.calibrated * abs(logged):
        raise InputError(
            f"a world model of {dataset.path} expects a clone of them to earn {expected:.1f} an episode, "
            f"where they earn {logged:.1f}",
            "make it larger (world.size, world.hidden), fit it longer (offline.world_steps), or log more",
        )


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
            "set task.action_low and task.action_high to the robot's bounds, or scale the data",
        )
    cost = float(rows.costs.max())
    if not task.allows_cost(cost):
        raise InputError(
            f"{path}: a step costs up to {cost:g}, of task '{task.name}' at most {task.max_step_cost:g}",
            "set task.max_step_cost to the highest cost of a step, or scale the data",
        )


def mean_episode(rows: Transitions) -> dict[str, float]:
    """Return what an episode of logs earns and costs on average, {"reward", "cost"}."""
    episodes = int((rows.terminals | rows.timeouts).sum())
    sums = {"reward": rows.rewards, "cost": rows.costs}
    return {name: float(column.double().sum()) / episodes for name, column in sums.items()}


def unknown_from_logs(config: PipelineConfig, rows: Transitions) -> list[str]:
    """Return what logs that hardly violate leave unknown."""
    limit, cost = config.task_row.cost_limit, mean_episode(rows)["cost"]
    if cost >= limit:
        return []
    return [
        f"what danger looks like: the logs cost {cost:.1f} an episode, the limit is {limit:g}; where they "
        "show nothing, everything counts as dangerous"
    ]
