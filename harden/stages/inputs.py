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


def learner_paths(workspace: Workspace) -> tuple[Path, ...]:
    """Return what a stage writes that changes the learner."""
    return workspace.state, workspace.critics, workspace.policy


def stored_learner(
    workspace: Workspace, policy_dir: Path | None = None, critics_dir: Path | None = None
) -> tuple[Path, ...]:
    """Return what the learner is read from, as far as it is there.

    Args:
        workspace: the pipeline's folders.
        policy_dir, critics_dir: folders named by the user instead of the pipeline's own.
    """
    paths = (workspace.state, critics_dir or workspace.critics, policy_dir or workspace.policy)
    return tuple(path for path in paths if path.exists())


def optional(*paths: Path | None) -> tuple[Path, ...]:
    """Return the paths that were given."""
    return tuple(path for path in paths if path is not None)
