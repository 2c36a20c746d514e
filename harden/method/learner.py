"""The learner: everything that outlives a round, and its file, `state.safetensors`."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.method.bellman import Backups
from harden.models.world import WorldModel
from harden.nets import Critics, GaussianPolicy, StateValues
from harden.nets.saved import (
    LoadedPolicy,
    require_task,
)
from harden.seeds import derive
from harden.types import DualSolution, ImaginedRows, PidState


class Counters(NamedTuple):
    """Where a run is: the places of its random streams and of its schedule.

    Args:
        refresh: the refresh under way, t of Eq. 67; a collection after some learning begins the next one.
        round: EM rounds finished.
        critic_steps, policy_steps: gradient steps taken.
        imagined: the round at which attacks were imagined last.
    """

    refresh: int = 0
    round: int = 0
    critic_steps: int = 0
    policy_steps: int = 0
    imagined: int = 0


class Learner:
    """A policy, its critics and the state of their optimisation; the stages change it in place.

    Args:
        policy, critics: the models, which are taken over, not copied.
        config: gives the learning rates.
        device: where everything lives.
        values: the state values of an on-policy variant.
        world: the world model of a variant that imagines, an untrained one where not given.

    Attributes:
        average: the policy that is kept, a running average of `policy` over rounds.
        safest: the average that is published where `train.keep` sets a floor, None while there is none.
        first_cost: what an episode of the first data cost, which the falling limit may start at.
        chains: what was imagined under attack at the last refreshes, the newest last.
        chains_ahead: the same, looked ahead, where that is known.
        chain_ends: (C, obs_dim), where the newest chains got to.
    """

    def __init__(
        self,
        policy: GaussianPolicy,
        critics: Critics,
        config: PipelineConfig,
        device: torch.device,
        values: StateValues | None = None,
        world: WorldModel | None = None,
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
        self.values = None if values is None else values.to(device)
        self.value_optimizer = None
        if self.values is not None:
            rate = config.ppo.value_learning_rate
            self.value_optimizer = torch.optim.Adam(self.values.parameters(), lr=rate, fused=True)
        self.world, self.world_optimizer = None, None
        if config.variant_row.imagined:
            self.world = (world or new_world(config)).to(device)
            rate = config.world.learning_rate
            self.world_optimizer = torch.optim.Adam(self.world.parameters(), lr=rate, fused=True)
        self.chains: list[ImaginedRows] = []
        self.chains_ahead: Backups | None = None
        self.chain_ends = torch.zeros(0, config.task_row.obs_dim, device=device)
        self.safest: GaussianPolicy | None = None
        self.first_cost: float | None = None
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
        if config.critics.scale_rewards:
            critics.expect_no_reward()
        on_policy = config.variant_row.on_policy
        values = StateValues(task.obs_dim, nets.critic_hidden, nets.obs_scale) if on_policy else None
    if init is not None:
        require_task(init, task, "the policy given")
        policy = init.policy.capped(nets.max_std).train()
        if init.critics is not None and init.critics.alike(critics):
            critics = copy.deepcopy(init.critics).train()
    return Learner(policy, critics, config, device, values)


def new_world(config: PipelineConfig) -> WorldModel:
    """Return an untrained world model, whose weights depend on the pipeline's seed alone."""
    task, section = config.task_row, config.world
    sizes = task.obs_dim, task.act_dim, task.max_step_cost, section.size, section.hidden
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "world-weights"))
        return WorldModel(*sizes, rule=task.cost)
