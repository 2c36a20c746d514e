"""A stage is called in two steps: its function opens and checks all inputs, `work` does the rest.

What stages share: the pipeline's `config` and its folders, `workspace`; the `device` where it is computed;
`report` for progress; `refresh`, of `train`, whose place in the schedules is meant, or None for their end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from harden.training.workspace import Workspace

T = TypeVar("T")


class Ready(Generic[T]):
    """A stage whose inputs are open and checked, and which has written nothing: `--dry-run` ends here.

    Args:
        work: does the rest, and returns what came of it.
        reads, writes: files and folders; of `reads` those count that are there, of both those that are named.
    """

    def __init__(
        self, work: Callable[[], T], reads: Iterable[Path | None], writes: Iterable[Path | None]
    ) -> None:
        self.work = work
        self.reads = [path for path in reads if path is not None and path.exists()]
        self.writes = [path for path in writes if path is not None]


def learner_paths(
    workspace: Workspace, policy_dir: Path | None = None, critics_dir: Path | None = None
) -> tuple[Path, ...]:
    """Return where the learner is stored, with folders named by the user instead of the workspace's own."""
    return workspace.state, critics_dir or workspace.critics, policy_dir or workspace.policy
