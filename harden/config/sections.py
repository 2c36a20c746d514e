"""The sections of a pipeline's configuration: every key, its range and its default."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harden.config.rule import parse_rule
from harden.config.tasks import TASKS, Task

# beyond, it is a slip of the pen: Python and torch count further, and memory ends earlier
Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
# what is simulated or fitted at once takes memory by each
Episodes = Annotated[int, Field(ge=1, le=100_000)]
AtOnce = Annotated[int, Field(ge=1, le=10_000)]
Batch = Annotated[int, Field(ge=1, le=1_000_000)]
Few = Annotated[int, Field(ge=1, le=100)]
Width = Annotated[int, Field(ge=1, le=8192)]
Share = Annotated[float, Field(ge=0, le=1)]
Discount = Annotated[float, Field(gt=0, lt=1)]
# beyond, squares and products of them pass what a float32 holds; below, so do their reciprocals
MOST = 1e9
LEAST = 1e-9
Positive = Annotated[float, Field(ge=LEAST, le=MOST, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False)]
# TOML and JSON have lists, a configuration keeps tuples
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=32, strict=False)]


class Section(BaseModel):
    """No key that is not known, no type but its own (a whole number is a number), no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


class Networks(Section):
    """Architecture of the policy and the critics, which see observations in units of `obs_scale`."""

    policy_hidden: Widths = (128, 128)
    critic_hidden: Widths = (128, 128)
    reward_critics: Few = 1
    init_std: Positive = 0.4
    min_std: Positive = 0.1
    max_std: Positive = 0.5
    obs_scale: Positive = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Networks:
        if not self.min_std < self.init_std < self.max_std:
            raise ValueError("it must hold that min_std < init_std < max_std")
        return self


class Collect(Section):
    """Benign roll-outs. `envs` simulations advance in lockstep, split over `workers` processes.

    A policy that samples acts with a spread of `min_std` at least, a share of half the action range;
    `correlation` is that of its noise from one step to the next. A share `mean_share` of the simulations, to
    the nearest whole one, acts by the mean, as the policy does when it is deployed. On-policy variants use
    none of the three.
    """

    episodes: Episodes = 50
    behaviour: Literal["random", "policy-mean", "policy-sample", "policy-noise"] = "policy-sample"
    envs: AtOnce = 10
    min_std: NonNegative = 0.5
    correlation: Annotated[float, Field(ge=0, lt=1)] = 0.9
    mean_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    workers: Annotated[int, Field(ge=0, le=1000)] | None = None


# keys of Collect under which a policy that samples acts by its own draws alone
PLAIN_ROLL_OUTS: dict[str, float] = {"min_std": 0.0, "correlation": 0.0, "mean_share": 0.0}


class CriticsConfig(Section):
    """Eq. 58-61. `steps` are a hand-run stage's; `batch` is every step's size.

    Q_r and Q_c each have a discount and look ahead some steps of their own: what is worth doing shows after
    longer than what is dangerous, and the cost limit of a step (kappa) depends on the cost's discount alone.
    With `scale_rewards` nothing is in units of the reward: Q_r is learned in units of what the replay's steps
    earn (their root mean square), and the ceilings of lam count in what a horizon earns for what it may cost.
    """

    steps: Count = 2000
    batch: Batch = 256
    learning_rate: Positive = 1e-3
    gamma_reward: Discount = 0.99
    gamma_cost: Discount = 0.97
    scale_rewards: bool = True
    polyak: Share = 0.95
    n_step_reward: Annotated[int, Field(ge=1, le=1000)] = 3
    n_step_cost: Annotated[int, Field(ge=1, le=1000)] = 1
    replay: Count = 200_000


class EStep(Section):
    """Eq. 4-6. States are drawn from the `window` most recent transitions.

    The cost limit falls from `limit_start` ("measured": what an episode of the first data costs; "limit": it
    does not fall) to `limit_end` (unset: the task's own) over a share `limit_ramp` of training. Roll-outs
    that explore pass through worse states than the policy's own: an expectation over them at the task's limit
    leaves the policy well below it.
    """

    states: Count = 20_000
    window: Count = 20_000
    particles: Annotated[int, Field(ge=2, le=4096)] = 16
    kl_bound: Positive = 0.1
    lam_max: Positive = 3.0
    dual_rate: Annotated[float, Field(gt=0, le=1)] = 0.05
    tolerance: Positive = 1e-6
    limit_start: Positive | Literal["measured", "limit"] = "measured"
    limit_end: Positive | None = None
    limit_ramp: Share = 0.3


class MStep(Section):
    """Eq. 7, 8, 62-66; `train.states` rows a step. Each KL bound has a mean part and a spread part.

    The KL of Eq. 7 is a constraint: its multiplier rises until the bound is met. The KL of Eq. 8 is a penalty
    with the weight `kl_robust_weight`: its multiplier may rise no further, and the shipped pipelines, which
    weigh it mildly, leave the KL above `kl_robust_mean` and `kl_robust_std` for most of training.
    The learning rate falls over training to `learning_rate_end`, unset the same.
    """

    steps: Count = 1000
    learning_rate: Positive = 5e-4
    learning_rate_end: Positive | None = 2.5e-4
    kl_mean: Positive = 0.01
    kl_std: Positive = 1e-4
    beta_rate: Positive = 1.0
    beta_max: Positive = 50.0
    robust_weight: NonNegative = 1.0
    kl_robust_mean: Positive = 0.05
    kl_robust_std: Positive = 0.05
    beta_robust_rate: Positive = 0.1
    kl_robust_weight: NonNegative = 1.0
    robust_anchor: Literal["benign", "old"] = "benign"


class ByHand(Section):
    """What a round by hand has of its own: `e-step` and `fit-policy` outside `train`.

    One E-step on many states and one long fit stand for hundreds of `train`'s rounds, each of which may
    move the policy by a hundredth of a nat. So by hand the trust regions are wide, and the term under attack
    is strong. All else is as at the end of training.
    """

    kl_estep: Positive = 1.0
    kl_mean: Positive = 0.5
    kl_std: Positive = 0.05
    robust_weight: NonNegative = 1.0
    kl_robust_weight: NonNegative = 0.5
    learning_rate: Positive = 5e-4


class Adversary(Section):
    """The MC adversary that training defends against; `epsilon` unset is the task's.

    The ceiling of lam rises with the scheduled epsilon from `estep.lam_max` to `lam_max`, unset the same.
    """

    epsilon: NonNegative | None = None
    steps: Count = 5
    restarts: AtOnce = 1
    step_share: Positive = 2.0
    every: Count = 2
    lam_max: Positive | None = 8.0
    ramp_start: Share = 0.05
    ramp: Share = 0.35


class World(Section):
    """The world model of an imagining variant, and its chains: roll-outs imagined in it under attack.

    The model takes `first_steps` gradient steps before the first refresh and `steps` at each later one, half
    of every batch from the `recent` latest transitions. With new data, and `every` rounds after the last
    time, `chains` roll-outs of `length` steps are imagined under an attack of `attack_steps`; critics and
    E-step see those of the last `kept` times, the cost critic `n_step` steps ahead. A chain stops where the
    members disagree more than on a share `reach` of the recent transitions.
    """

    size: Annotated[int, Field(ge=2, le=100)] = 3
    hidden: Widths = (128, 128)
    learning_rate: Positive = 1e-3
    first_steps: Count = 1500
    steps: Count = 100
    batch: Batch = 256
    recent: Count = 20_000
    reach: Annotated[float, Field(gt=0, lt=1)] = 0.99
    every: Count = 50
    chains: Annotated[int, Field(ge=2, le=100_000)] = 100
    length: Annotated[int, Field(ge=1, le=10_000)] = 25
    kept: Few = 10
    n_step: Annotated[int, Field(ge=1, le=1000)] = 5
    attack_steps: Count = 10


class Train(Section):
    """Algorithm 2: each refresh collects `episodes`, then does `rounds` of the sizes given here.

    The policy kept is a running average over a share `average` of all rounds, at 0 the last one. Training
    ends with `final_critic_steps` of the critics for that policy, under the full adversary. `offline` learns
    from stored data alone: nothing is simulated, and the offline section says how many refreshes. With `keep`
    the policy kept is the safest average of a refresh, expected cost under attack, that has this share of the
    natural reward of the policy that training starts from.
    """

    offline: bool = False
    env_steps: Count = 100_000
    episodes: Episodes = 10
    rounds: Count = 200
    states: Batch = 256
    critic_steps: Count = 3
    policy_steps: Count = 2
    average: Share = 0.1
    keep: Share | None = None
    warm_up_episodes: Episodes = 10
    warm_up_critic_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 500
    final_critic_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 3000


class Offline(Section):
    """Training from stored data alone, in a world model of them in the place of a simulation.

    The model is fitted once, in `world_steps` gradient steps of the sizes in [world]; what its members
    disagree on `lost` times more than on a share `world.reach` of held-out steps is the worst there is.
    Imagined episodes are `length` steps long, and a share `branched` of them begins in any logged state. What
    the model expects a clone of the logs to earn in a whole episode may be off by a share `calibrated`.
    """

    refreshes: Count = 20
    rows: Count = 200_000
    world_steps: Count = 8000
    lost: Positive = 4.0
    length: Count = 60
    branched: Share = 0.8
    calibrated: Positive = 0.25


class Imitation(Section):
    """Supervised fits of a policy: `fit-policy --clone`, and `policy import` where it has to distil.

    A share `held_out` of the episodes is reported on, as many again end the fit: after `patience` checks, one
    every `check_every` steps, that brought nothing. `rows` is the most transitions read, the last ones.
    """

    steps: Count = 20_000
    batch: Batch = 256
    learning_rate: Positive = 1e-3
    check_every: Count = 200
    patience: Count = 15
    held_out: Annotated[float, Field(gt=0, le=0.3)] = 0.1
    rows: Count = 1_000_000


class OnPolicy(Section):
    """PPO-Lagrangian (Eq. 69, 70): after each collection, gradient steps on `minibatch` of its rows, or all.

    The policy's steps end early where the KL to the policy that acted passes `target_kl`. The state-action
    critics take train.rounds x train.critic_steps steps a refresh.
    """

    actor_steps: Count = 80
    value_steps: Count = 80
    minibatch: Count | None = None
    learning_rate: Positive = 5e-4
    value_learning_rate: Positive = 1e-3
    clip: Positive = 0.2
    target_kl: Positive = 0.02
    gae_decay: Share = 0.97
    pid_proportional: NonNegative = 0.1
    pid_integral: NonNegative = 0.003
    pid_derivative: NonNegative = 0.001
    smoothing_weight: NonNegative = 1.0
    smoothing_loss: Literal["kl", "squared"] = "kl"


class Evaluation(Section):
    """How a policy is tried: by its mean, under each attack in the task's epsilon unless told otherwise.

    `attack_style` "pgd" takes `restarts`, `starts` and `step_share`, "paper" the rate and tolerances;
    `attack_steps` unset is 50 and 200. `queries` are a gradient-free attack's, a state; `amad_share` is the
    share of natural states, those with the highest Q_c, that amad attacks; independent critics are fitted to
    `independent_episodes` of the policy's own, in `independent_steps` gradient steps. The learned adversary
    attacks `learned_episodes` in each round, `learned_steps` gradient steps apart; `simulator_episodes` is
    what critic-free may try.
    """

    episodes: AtOnce = 50
    epsilon: NonNegative | None = None
    attack_style: Literal["pgd", "paper"] = "pgd"
    attack_steps: Count | None = None
    restarts: AtOnce = 5
    step_share: Positive = 1.0
    starts: Literal["corners", "ball"] = "corners"
    paper_rate: Positive = 0.2
    stop_value: NonNegative = 1e-4
    stop_move: NonNegative = 1e-4
    norm: Literal["linf", "l2"] = "linf"
    queries: Annotated[int, Field(ge=2, le=100_000)] = 400
    amad_share: Share = 0.25
    independent_episodes: Episodes = 100
    independent_steps: Count = 4000
    learned_rounds: Count = 4
    learned_episodes: Annotated[int, Field(ge=2, le=10_000)] = 20
    learned_steps: Count = 1000
    simulator_episodes: Annotated[int, Field(ge=32, le=100_000)] = 384
    action: Literal["mean", "sample"] = "mean"


Finite = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
Coordinates = Annotated[int, Field(ge=1, le=10_000)]
Bounds = Annotated[tuple[Finite, ...], Field(strict=False)]
Scales = Annotated[tuple[NonNegative, ...], Field(strict=False)]


class OwnTask(Section):
    """A task that harden has no row for; what each key means: harden/config/tasks.py.

    `env` is a Gymnasium id, `module:id` of what a module registers, or `module:Class` or `module:function`
    that makes the environment; empty, there is no simulation, only data. What is left out of `horizon`, sizes
    and bounds the environment says. `epsilon` is one number, or one a coordinate; with `observation_std` it
    is a share of that, one number a coordinate as `harden data info` shows them. `name` is the file's where
    none is given. `cost` is what a step costs as a rule (harden/config/rule.py), in the place of what logs
    say.
    """

    env: str = ""
    python: str = ""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] = "own"
    horizon: Count | None = None
    cost_limit: NonNegative
    epsilon: NonNegative | Scales
    observation_std: Scales | None = None
    obs_dim: Coordinates | None = None
    act_dim: Coordinates | None = None
    max_step_cost: Positive = 1.0
    action_low: Bounds | None = None
    action_high: Bounds | None = None
    cost: str = ""
    cost_key: str = "cost"
    obs_keys: Annotated[tuple[str, ...], Field(strict=False)] = ()
    timeout: Positive = 300.0

    @field_validator("name")
    @classmethod
    def _no_other_task(cls, name: str) -> str:
        if name in TASKS:
            raise ValueError("that is the name of a task that harden has: give another one")
        return name

    @model_validator(mode="after")
    def _costs_by_a_rule(self) -> OwnTask:
        if self.cost:
            try:
                parse_rule(self.cost, {"obs": self.obs_dim, "action": self.act_dim})
            except ValueError as error:
                raise ValueError(f"cost = '{self.cost}': {error}") from None
        return self

    @model_validator(mode="after")
    def _as_many_as_coordinates(self) -> OwnTask:
        missing = [key for key in ("horizon", "obs_dim", "act_dim") if getattr(self, key) is None]
        if missing and not self.env:
            raise ValueError(f"without an environment (env) it has to say {' and '.join(missing)}")
        sizes = dict.fromkeys(("epsilon", "observation_std"), self.obs_dim)
        sizes |= dict.fromkeys(("action_low", "action_high"), self.act_dim)
        for key, size in sizes.items():
            value = getattr(self, key)
            if isinstance(value, tuple) and size is not None and len(value) != size:
                raise ValueError(f"{key} has {len(value)} numbers for {size} coordinates")
        if (self.action_low is None) != (self.action_high is None):
            raise ValueError("action_low and action_high have to be given together")
        lows, highs = self.action_low or (), self.action_high or ()
        if len(lows) != len(highs) or not all(low < high for low, high in zip(lows, highs, strict=True)):
            raise ValueError("it must hold that action_low < action_high")
        return self

    @property
    def unsaid(self) -> bool:
        """Whether its environment has to be asked for what it is."""
        said = self.horizon, self.obs_dim, self.act_dim, self.action_low
        return bool(self.env) and None in said

    @property
    def row(self) -> Task:
        """The same as a row of the table of tasks; sizes that are still unsaid are 0."""
        module, _, env_id = self.env.rpartition(":")
        epsilon, unit = (1.0, self.epsilon) if isinstance(self.epsilon, tuple) else (self.epsilon, ())
        if self.observation_std:
            ones = (1.0,) * len(self.observation_std)
            unit = tuple(e * s for e, s in zip(unit or ones, self.observation_std, strict=True))
        sizes = dict.fromkeys(("horizon", "obs_dim", "act_dim"), 0)
        same = {key: value for key, value in self if key in Task._fields and value is not None}
        own = {"env_id": env_id, "module": module, "epsilon": epsilon, "epsilon_unit": unit}
        return Task(**sizes | same | own)
