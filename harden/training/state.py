"""The file of what outlives a round, `state.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.errors import DamagedFileError, InputError
from harden.method.learner import Counters, Learner
from harden.method.ppo import PidState
from harden.nets import Critics, GaussianPolicy, StateValues
from harden.nets.saved import (
    check_declared,
    described,
    reason,
)
from harden.storage.tensor_file import ILL_DESCRIBED, read_tensors, write_tensors
from harden.types import DualSolution


def _optimizer_tensors(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{prefix}.{i}.{key}": value for i, entry in state.items() for key, value in entry.items()}


def _load_optimizer(prefix: str, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            _, index, key = name.rsplit(".", 2)
            state.setdefault(int(index), {})[key] = value
    layout = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": layout["param_groups"]})


# what a state says of itself, beside what is stored with it
_OWN: tuple[str, ...] = ("format_version", "kind", "seed", "counters", "file_digest", "tensors_digest")
_OWN += ("policy", "critics", "values", "pid", "behaviour")


def save_state(path: Path, learner: Learner, about: dict[str, Any]) -> None:
    """Write the whole learner to one file, replaced in one rename: the run's commit point.

    Args:
        about: task, configuration and digests to be stored with it.
    """
    tensors: dict[str, Tensor] = {"beta": learner.beta, "beta_robust": learner.beta_robust}
    for prefix, module in _modules(learner).items():
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for prefix, optimizer in _optimizers(learner).items():
        tensors |= _optimizer_tensors(prefix, optimizer)
    if learner.dual is not None:
        tensors |= {f"dual.{name}": value for name, value in learner.dual._asdict().items()}
    full = {
        "kind": "state",
        "seed": learner.seed,
        "counters": learner.counters._asdict(),
        "policy": learner.policy.architecture,
        "critics": learner.critics.architecture,
    }
    if learner.values is not None:
        full |= {"values": learner.values.architecture, "pid": learner.pid._asdict()}
    if learner.behaviour is not None:
        full["behaviour"] = learner.behaviour.architecture
    write_tensors(path, tensors, full | about)


def _modules(learner: Learner) -> dict[str, torch.nn.Module]:
    of_all = {"policy": learner.policy, "critics": learner.critics, "target": learner.target_critics}
    of_all |= {"average": learner.average}
    if learner.behaviour is not None:
        of_all["behaviour"] = learner.behaviour
    return of_all if learner.values is None else of_all | {"values": learner.values}


def _optimizers(learner: Learner) -> dict[str, torch.optim.Optimizer]:
    of_all: dict[str, torch.optim.Optimizer] = {
        "policy_optimizer": learner.policy_optimizer,
        "critic_optimizer": learner.critic_optimizer,
    }
    own = learner.value_optimizer
    return of_all if own is None else of_all | {"value_optimizer": own}


def load_state(path: Path, config: PipelineConfig, device: torch.device) -> tuple[Learner, dict[str, Any]]:
    """Read a learner back, to the bit.

    Returns:
        The learner and what was stored with it.

    Raises:
        MissingInputError: no such file.
        DamagedFileError: not a run's state, or altered.
        InputError: the state is of another task.
    """
    # a run's folder has its pipeline's name, and a state that can't be read can't be resumed
    anew = f"harden train -p {path.absolute().parent.name} --overwrite"
    tensors, about = read_tensors(path, anew)
    if about.get("kind") != "state":
        raise DamagedFileError(f"{path} is a {about.get('kind')}, not a run's state")
    if about.get("task") != config.task:
        raise InputError(
            f"{path} is of task '{about.get('task')}', the pipeline's is '{config.task}'",
            "use the pipeline that the run was made with",
        )
    try:
        for part in ("policy", "critics", "values", "behaviour"):
            if part in about:
                check_declared(about[part], tensors)
        values = StateValues(**about["values"]) if "values" in about else None
        behaviour = described(GaussianPolicy, about["behaviour"]) if "behaviour" in about else None
        policy, critics = described(GaussianPolicy, about["policy"]), described(Critics, about["critics"])
        learner = Learner(policy, critics, config, device, values, behaviour)
        learner.pid = PidState(**about.get("pid", {}))
        for prefix, module in _modules(learner).items():
            cut = len(prefix) + 1
            module.load_state_dict({n[cut:]: v for n, v in tensors.items() if n.startswith(prefix + ".")})
        for prefix, optimizer in _optimizers(learner).items():
            _load_optimizer(prefix, tensors, optimizer)
        learner.beta, learner.beta_robust = tensors["beta"].to(device), tensors["beta_robust"].to(device)
        if "dual.eta" in tensors:
            learner.dual = DualSolution(*(tensors[f"dual.{f}"].to(device) for f in DualSolution._fields))
        learner.counters = Counters(**about["counters"])
        learner.seed = int(about["seed"])
    except (*ILL_DESCRIBED, RuntimeError) as error:
        raise DamagedFileError(
            f"{path} is not a complete run state ({reason(error)})",
            f"begin the run anew with: {anew}",
        ) from error
    return learner, {key: value for key, value in about.items() if key not in _OWN}
