"""harden: keep a safe robot policy safe under observation attacks, from benign data only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

# an attack's products are too small for NumPy's threads: on a busy core they take ten times as long
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

if TYPE_CHECKING:
    from harden.config.pipeline import PipelineConfig
    from harden.evaluation.observation_attack import ObservationAttack as ObservationAttack
    from harden.evaluation.schema import Evaluation
    from harden.nets.saved import LoadedPolicy
    from harden.stages.train import Trained

    __version__: str
else:

    def __getattr__(name: str) -> Any:
        # imported where they are asked for: the program listens to signals before it imports what takes long
        if name == "__version__":
            from importlib.metadata import version

            return version("harden")
        if name == "ObservationAttack":
            # a class can't import what it needs when it is called, as the functions below do
            from harden.evaluation.observation_attack import ObservationAttack

            return ObservationAttack
        raise AttributeError(f"module 'harden' has no attribute '{name}'")


def load_policy(path: str | Path) -> LoadedPolicy:
    """Return the policy of a folder as an object with `act(obs)`.

    Args:
        path: a policy folder that harden wrote.

    Raises:
        MissingInputError, DamagedFileError: it is not there, or not whole.
    """
    from harden.nets.saved import load_policy as load

    return load(path)


def evaluate(
    policy: str | Path | Callable[..., Any],
    attacks: str = "random,mc,mr",
    pipeline: str | Path = "ball-circle",
    breaking_radius: bool = False,
    **keys: Any,
) -> Evaluation:
    """Try a policy, natural and under attack, as `harden evaluate` does.

    Args:
        policy: a policy folder, a TorchScript or ONNX file, module:function, or a function: a batch of
            observations in, actions out.
        attacks: names with commas, or "all".
        pipeline: a pipeline file or the name of a shipped one.
        breaking_radius: search each attack's smallest epsilon at which the mean cost passes the limit too.
        keys: keys of the pipeline's evaluate section, such as episodes=10; a list of values tries each.

    Returns:
        The evaluation, in the form of the evaluation file.

    Raises:
        InputError: no such policy, attack or key, or a policy of another task.
    """
    from harden.config.attacks import parse_attacks
    from harden.config.file import find_pipeline, load_config, variations
    from harden.envs.ask import completed
    from harden.stages.evaluate import evaluate as stage
    from harden.training.workspace import pick_device

    lists = {key: value if isinstance(value, list) else [value] for key, value in keys.items()}
    config, *also = variations(completed(load_config(find_pipeline(Path(pipeline)))), lists)
    names = parse_attacks(attacks)
    options: dict[str, Any] = {"device": pick_device("auto"), "also": also}
    ready = stage(config, policy, names, breaking=names if breaking_radius else (), **options)
    return cast("Evaluation", ready.work())


def train(
    config: PipelineConfig,
    name: str = "run",
    root: str | Path = ".",
    *,
    init: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    data: Path | None = None,
    allow_attacked_collection: bool = False,
) -> Trained:
    """Train a policy, as `harden train` does.

    Args:
        config: a pipeline, from `harden.config.file.load_config`.
        name: the run's name below datasets/ and checkpoints/.
        root: the folder that holds those two.
        init, resume, overwrite, data, allow_attacked_collection: as `harden.stages.train.train` has them,
            which also says what is raised.
    """
    from harden.envs.ask import completed
    from harden.stages.train import train as stage
    from harden.training.workspace import Workspace, pick_device

    ready = stage(
        completed(config),
        Workspace.named(name, Path(root)),
        init=init,
        resume=resume,
        overwrite=overwrite,
        data=data,
        allow_attacked_collection=allow_attacked_collection,
        device=pick_device("auto"),
    )
    return ready.work()
