"""The learner: everything that outlives a round, and its file, `state.safetensors`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.checkpoint import (
    LoadedPolicy,
    check_declared,
    described,
    reason,
    require_task,
)
from harden.config import PipelineConfig
from harden.errors import DamagedFileError, InputError
from harden.nets import Critics, GaussianPolicy, StateValues
from harden.ops.ppo import PidState
from harden.seeds import derive
from harden.tensor_file import ILL_DESCRIBED, read_tensors, write_tensors
from harden.types import DualSolution


class Counters(NamedTuple):
    """Where a run is: the places of its random streams and of its schedule.

    Args:
        refresh: the refresh under way, t of Eq. 67; a collection after some learning begins the next one.
        round: EM rounds finished.
        critic_steps, policy_steps: gradient steps taken.
    """

    refresh: int = 0
    round: int = 0
    critic_steps: int = 0
    policy_steps: int = 0


class Learner:
    """A policy, its critics and the state of their optimisation; the stages change it in place.

    Args:
        policy, critics: the models, which are taken over, not copied.
        config: gives the learning rates.
        device: where everything lives.
        values: the state values of an on-policy variant.
        behaviour: what stored data do, frozen, where the learner may see nothing else.

    Attributes:
        average: the policy that is kept, a running average of `policy` over rounds.
    """

    def __init__(
        self,
        policy: GaussianPolicy,
        critics: Critics,
        config: PipelineConfig,
        device: torch.device,
        values: StateValues | None = None,
        behaviour: GaussianPolicy | None = None,
    ) -> None:
        self.policy = policy.to(device)
        self.average = copy.deepcopy(self.policy).requires_grad_(False)
        # an on-policy refresh is one round, whatever its critics take
        rounds = 1 if config.variant_row.on_policy else config.train.rounds
        self.memory = max(1.0, config.train.average * config.refreshes * rounds)
        self.critics = critics.to(device)
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        on_policy = config.variant_row.on_policy
        # fused Adam is one kernel over all parameters: the update is mostly call overhead otherwise
        self.policy_optimizer = torch.optim.Adam(
            self.policy.parameters(),
            lr=config.ppo.learning_rate if on_policy else config.mstep.learning_rate,
            fused=True,
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critics.parameters(), lr=config.critics.learning_rate, fused=True
        )
        self.beta = torch.zeros(2, device=device)
        self.beta_robust = torch.zeros(2, device=device)
        self.dual: DualSolution | None = None
        self.behaviour = None if behaviour is None else behaviour.to(device).requires_grad_(False)
        self.values = None if values is None else values.to(device)
        self.value_optimizer = None
        if self.values is not None:
            rate = config.ppo.value_learning_rate
            self.value_optimizer = torch.optim.Adam(self.values.parameters(), lr=rate, fused=True)
        self.pid = PidState()
        self.counters = Counters()
        self.seed = config.seed
        self.device = device

    def finish_round(self, *, publish: bool = False) -> None:
        """End a round: the running average, `train.average` of all rounds long, takes the policy in.

        Args:
            publish: the policy itself is to be kept, whatever was before; a stage by hand asks for that.

        Deviation: the paper keeps the last policy. While it rides on the cost limit, it and its critics
        swing; the average of a swing is safer than its ends (Polyak and Juditsky 1992).
        """
        with torch.no_grad():
            now: list[Tensor] = list(self.policy.parameters())
            kept: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(kept, now, 1.0 if publish else 1.0 / self.memory)
        self.advance(round=1)

    def advance(self, **by: int) -> None:
        """Add to the counters."""
        self.counters = self.counters._replace(
            **{name: getattr(self.counters, name) + value for name, value in by.items()}
        )


def new_learner(config: PipelineConfig, device: torch.device, init: LoadedPolicy | None = None) -> Learner:
    """Make the networks that a run starts from.

    Args:
        config: the pipeline; untrained weights depend on its seed and on nothing else.
        device: where the learner is to live.
        init: a policy to start from, its spread capped at the pipeline's `networks.max_std`; its critics are
            taken over where they have the pipeline's architecture.

    Raises:
        InputError: the given policy is of another task.
    """
    task, nets = config.task_row, config.networks
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "weights"))
        policy = GaussianPolicy(
            task.obs_dim,
            task.act_dim,
            nets.policy_hidden,
            low=torch.tensor(task.bounds[0]),
            high=torch.tensor(task.bounds[1]),
            init_std=nets.init_std,
            min_std=nets.min_std,
            max_std=nets.max_std,
            obs_scale=nets.obs_scale,
        )
        critics = Critics(
            task.obs_dim,
            task.act_dim,
            nets.reward_critics,
            hidden=nets.critic_hidden,
            obs_scale=nets.obs_scale,
        )
        on_policy = config.variant_row.on_policy
        values = StateValues(task.obs_dim, nets.critic_hidden, nets.obs_scale) if on_policy else None
    if init is not None:
        require_task(init, task, "the policy given")
        policy = init.policy.capped(nets.max_std).train()
        if init.critics is not None and init.critics.architecture == critics.architecture:
            critics = copy.deepcopy(init.critics).train()
    return Learner(policy, critics, config, device, values)


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
