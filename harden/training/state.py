"""What outlives a round: the learner and the run's record in one file, `state.safetensors`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.errors import DamagedFileError
from harden.method.learner import Counters, Learner
from harden.models.world import WorldModel
from harden.nets import Critics, GaussianPolicy, StateValues
from harden.nets.saved import check_declared, described, reason
from harden.storage.tensor_file import ILL_DESCRIBED, read_tensors, write_tensors
from harden.training.record import RunRecord, begin_anew, require_state_of
from harden.types import DualSolution, ImaginedRows, PidState, Transitions


def save_state(path: Path, learner: Learner, description: dict[str, Any]) -> None:
    """Write the whole learner to one file, replaced in one rename: the run's commit point.

    Args:
        description: what is stored beside it: task, configuration and the run's record.
    """
    tensors: dict[str, Tensor] = {"beta": learner.beta, "beta_robust": learner.beta_robust}
    for prefix, module in _modules(learner).items():
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for prefix, optimizer in _optimizers(learner).items():
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}.{index}.{name}": value for name, value in entry.items()}
    if learner.dual is not None:
        tensors |= {f"dual.{name}": value for name, value in learner.dual._asdict().items()}
    full: dict[str, Any] = {
        "kind": "state",
        "seed": learner.seed,
        "counters": learner.counters._asdict(),
        "policy": learner.policy.architecture,
        "critics": learner.critics.architecture,
    }
    if learner.values is not None:
        full |= {"values": learner.values.architecture, "pid": learner.pid._asdict()}
    full["first_cost"] = learner.first_cost
    if learner.world is not None:
        full |= {"world": learner.world.architecture, "chains": len(learner.chains)}
        tensors["chain_ends"] = learner.chain_ends
        for index, (rows, own) in enumerate(learner.chains):
            columns = rows._asdict() | {"own": own}
            tensors |= {f"chains.{index}.{name}": column for name, column in columns.items()}
    write_tensors(path, tensors, full | description)


def _modules(learner: Learner) -> dict[str, torch.nn.Module]:
    modules = {
        "policy": learner.policy,
        "critics": learner.critics,
        "target": learner.target_critics,
        "average": learner.average,
        "safest": learner.safest,
        "values": learner.values,
        "world": learner.world,
    }
    return {name: module for name, module in modules.items() if module is not None}


def _optimizers(learner: Learner) -> dict[str, torch.optim.Optimizer]:
    optimizers = {
        "policy_optimizer": learner.policy_optimizer,
        "critic_optimizer": learner.critic_optimizer,
        "value_optimizer": learner.value_optimizer,
        "world_optimizer": learner.world_optimizer,
    }
    return {name: optimizer for name, optimizer in optimizers.items() if optimizer is not None}


def _load_optimizer(prefix: str, tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix + "."):
            _, index, key = name.rsplit(".", 2)
            state.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _world(architecture: dict[str, Any]) -> WorldModel:
    options = dict(architecture)
    if options.pop("kind") != "world-model":
        raise ValueError("expected a world-model")
    return WorldModel(**options)


def _chains(index: int, tensors: dict[str, Tensor], device: torch.device) -> ImaginedRows:
    columns = (tensors[f"chains.{index}.{name}"].to(device) for name in (*Transitions._fields, "own"))
    *rows, own = columns
    return ImaginedRows(Transitions(*rows), own)


def load_state(path: Path, config: PipelineConfig, device: torch.device) -> tuple[Learner, RunRecord]:
    """Read a learner back, to the bit, and the run's record.

    Raises:
        MissingInputError: no such file.
        DamagedFileError: not a run's state, or altered.
        InputError: the state is of another task.
    """
    anew = begin_anew(path)
    tensors, stored = read_tensors(path, anew)
    require_state_of(path, stored, config)
    try:
        for part in ("policy", "critics", "values", "world"):
            if part in stored:
                check_declared(stored[part], tensors)
        values = StateValues(**stored["values"]) if "values" in stored else None
        policy, critics = described(GaussianPolicy, stored["policy"]), described(Critics, stored["critics"])
        world = _world(stored["world"]) if "world" in stored else None
        learner = Learner(policy, critics, config, device, values, world)
        learner.pid = PidState(**stored.get("pid", {}))
        if stored.get("safest"):
            learner.safest = copy.deepcopy(learner.average)
        for prefix, module in _modules(learner).items():
            # of another variant, which has no world model: that it is another one is said elsewhere
            if prefix == "world" and world is None:
                continue
            cut = len(prefix) + 1
            module.load_state_dict({n[cut:]: v for n, v in tensors.items() if n.startswith(prefix + ".")})
        for prefix, optimizer in _optimizers(learner).items():
            _load_optimizer(prefix, tensors, optimizer)
        learner.beta, learner.beta_robust = tensors["beta"].to(device), tensors["beta_robust"].to(device)
        if "dual.eta" in tensors:
            learner.dual = DualSolution(*(tensors[f"dual.{f}"].to(device) for f in DualSolution._fields))
        if world is not None:
            learner.chain_ends = tensors["chain_ends"].to(device)
            learner.chains = [_chains(index, tensors, device) for index in range(int(stored["chains"]))]
        learner.counters = Counters(**stored["counters"])
        learner.first_cost = stored.get("first_cost")
        learner.seed = int(stored["seed"])
        return learner, RunRecord.from_dict(stored)
    except (*ILL_DESCRIBED, RuntimeError) as error:
        raise DamagedFileError(
            f"{path} is not a complete run state ({reason(error)})", f"begin the run anew with: {anew}"
        ) from error
