"""What a variant may collect and learn from, and which stages it has."""

from __future__ import annotations

from pathlib import Path

from harden.config.pipeline import PipelineConfig
from harden.config.variants import MC_BEHAVIOUR
from harden.data import Dataset, DatasetInfo, open_dataset
from harden.errors import InputError


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
