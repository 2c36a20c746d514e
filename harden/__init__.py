"""harden: keep a safe robot policy safe under observation attacks, from benign data only."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

__version__ = version("harden")


def load_policy(path: str | Path) -> Any:
    """Return the policy of a folder as an object with `act(obs)`.

    Args:
        path: a policy folder that harden wrote.

    Raises:
        MissingInputError, DamagedFileError: it is not there, or not whole.
    """
    from harden.checkpoint import load_policy as load

    return load(path)


def evaluate(
    policy: str | Path, attacks: str = "mc,mr", pipeline: str = "ball-circle", **keys: Any
) -> dict[str, Any]:
    """Try a policy, natural and under attack, as `harden evaluate` does.

    Args:
        policy: a policy folder.
        attacks: names with commas, or "all".
        pipeline: a pipeline file or the name of a shipped one.
        keys: keys of the pipeline's evaluate section, such as episodes=10.

    Returns:
        The evaluation, in the form of the evaluation file.
    """
    from harden.evaluation.attacked import parse_attacks
    from harden.pipeline_file import find_pipeline, load_config
    from harden.progress import Reporter
    from harden.stages.evaluate import evaluate as stage
    from harden.stages.workspace import pick_device

    config = load_config(find_pipeline(Path(pipeline)))
    chosen = config.evaluate.model_validate(config.evaluate.model_dump() | keys)
    config = config.model_copy(update={"evaluate": chosen})
    return stage(
        config, Path(policy), parse_attacks(attacks), device=pick_device("auto"), report=Reporter(True)
    )


def train(config: Any, name: str = "run", root: str | Path = ".", **options: Any) -> Any:
    """Train a policy, as `harden train` does.

    Args:
        config: a PipelineConfig, from `harden.config.load_config`.
        name: the run's name below datasets/ and checkpoints/.
        root: the folder that holds those two.
        options: init, resume, overwrite, as in `harden.stages.train.train`.
    """
    from harden.progress import Reporter
    from harden.stages.train import train as stage
    from harden.stages.workspace import pick_device, workspace

    where = workspace(name, Path(root))
    return stage(config, where, device=pick_device("auto"), report=Reporter(True), **options)
