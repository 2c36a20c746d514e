"""What every stage opens and checks before its work begins: `--dry-run` ends there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harden.training.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a stage begins with, once all of it has been opened and checked.

    Args:
        reads: files and folders that are read.
        writes: files and folders that are written.
    """

    reads: tuple[Path, ...]
    writes: tuple[Path, ...]


def learner_paths(place: Workspace) -> tuple[Path, ...]:
    """Return what a stage writes that changes the learner."""
    return place.state, place.critics, place.policy


def stored_learner(
    place: Workspace, policy_dir: Path | None = None, critics_dir: Path | None = None
) -> tuple[Path, ...]:
    """Return what the learner is read from, as far as it is there.

    Args:
        place: the pipeline's folders.
        policy_dir, critics_dir: folders named by the user instead of the pipeline's own.
    """
    paths = (place.state, critics_dir or place.critics, policy_dir or place.policy)
    return tuple(path for path in paths if path.exists())


def optional(*paths: Path | None) -> tuple[Path, ...]:
    """Return the paths that were given."""
    return tuple(path for path in paths if path is not None)
