"""Where a pipeline's files are, and what is written beside everything that a configuration made."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harden.config.pipeline import PipelineConfig
from harden.data.manifest import installed
from harden.errors import InputError
from harden.storage.folders import require_plain_name

if TYPE_CHECKING:
    import torch


class Workspace(NamedTuple):
    """The folders of one pipeline.

    Args:
        name: the pipeline's name, the stem of its file.
        data: its data set.
        run: what is learned from it.
    """

    name: str
    data: Path
    run: Path

    @classmethod
    def named(cls, name: str, root: Path = Path()) -> Workspace:
        """Return a pipeline's folders below `root`; InputError where they can't be named so."""
        require_plain_name(name, "the pipeline")
        return cls(name, root / "datasets" / name, root / "checkpoints" / name)

    @property
    def critics(self) -> Path:
        """Where `fit-critics` writes."""
        return self.run / "critics"

    @property
    def targets(self) -> Path:
        """Where `e-step` writes."""
        return self.run / "targets.h5"

    @property
    def policy(self) -> Path:
        """Where `fit-policy` and `train` write."""
        return self.run / "policy"

    @property
    def state(self) -> Path:
        """What outlives a round."""
        return self.run / "state.safetensors"

    @property
    def imagined(self) -> Path:
        """The data set of roll-outs that `train --offline` imagines."""
        return self.run / "imagined"

    @property
    def evaluation(self) -> Path:
        """Where `evaluate` writes the result of the run's own policy."""
        return self.run / "evaluation.json"


def pick_device(name: str) -> torch.device:
    """Return the device meant by auto, cpu or cuda.

    Raises:
        InputError: cuda was asked for and is not there, or no such device.
    """
    # where the files of a run are is asked without waiting for it
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"unknown device '{name}'", "choose one of: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available here", "use --device cpu, or auto")
    return torch.device("cpu" if name == "cpu" or not torch.cuda.is_available() else "cuda")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on, and the number of threads, on which its last bits do."""
    import torch

    names = ("harden", "torch", "numpy", "lightning", "gymnasium", "bullet-safety-gym", "pybullet")
    of_python = {"python": platform.python_version(), "threads": str(torch.get_num_threads())}
    return of_python | installed(*names)


def describe(config: PipelineConfig, **more: Any) -> dict[str, Any]:
    """Return what is written beside everything that a configuration made."""
    task = config.task_row
    return {
        "task": task.name,
        "env_id": task.env_id,
        "horizon": task.horizon,
        "variant": config.variant,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    } | more
