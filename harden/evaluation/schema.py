"""What an evaluation file holds, checked when it is read, since others may have written it.

Only what a reader uses is asked for; keys that are not named here are left as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# far above any quantity here, and small enough to be squared and drawn
_MOST = 1e30
Number = Annotated[float, Field(ge=-_MOST, le=_MOST)]
NonNegative = Annotated[float, Field(ge=0, le=_MOST)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Norm = Literal["linf", "l2"]
# the default of a key that may be left out, and may not be null
ABSENT: Any = None


class Part(BaseModel):
    """Numbers are finite numbers, texts are texts."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Summary(Part):
    """A quantity over episodes."""

    mean: Number
    std: NonNegative
    ci95: Pair


class Episode(Part):
    """One episode of an attack."""

    seed: int
    reward: Number
    cost: NonNegative


class Entry(Part):
    """One attack under one setting."""

    attack: str
    style: str | None
    norm: Norm = "linf"
    epsilon: NonNegative
    steps: Count
    restarts: Count
    queries: Count | None = None
    reward: Summary
    cost: Summary
    violation_rate: Share
    violation_ci95: Pair = ABSENT
    early_rate: Share = 0.0
    worst_episode: Episode = ABSENT
    over_natural: dict[str, Summary] = {}
    per_episode: list[Episode] = []


class Policy(Part):
    """Which policy was tried."""

    path: str
    variant: str | None = None
    policy_digest: str | None = None


class Warned(Part):
    """What a check found."""

    check: str
    attack: str = ""
    epsilon: NonNegative | None = None
    message: str


class Spread(Part):
    """The data set that epsilon is a share of."""

    path: str
    digest: str
    transitions: Count
    observation_std: list[NonNegative]


class ThreatModel(Part):
    """What the attacker may do."""

    norm: Norm
    epsilon: NonNegative | None = None
    epsilon_unit: list[NonNegative] = []
    critics: dict[str, Any] | None = None
    observations: list[str] = []
    observation_std: list[NonNegative]
    data: Spread | None = None

    @model_validator(mode="after")
    def _one_a_coordinate(self) -> ThreatModel:
        size = len(self.observation_std)
        lists: dict[str, list[Any]] = {"epsilon_unit": self.epsilon_unit, "observations": self.observations}
        if self.data is not None:
            lists["data.observation_std"] = self.data.observation_std
        for key, values in lists.items():
            # files from before there were any have none
            if len(values) != size and not (values == [] and key in ("epsilon_unit", "observations")):
                raise ValueError(f"{key} has {len(values)} values for {size} coordinates")
        return self


class Walk(Part):
    """Where a robot went."""

    cost: Number
    xy: Annotated[list[Pair], Field(min_length=1)]


class Scene(Part):
    """An episode from above, attacked and not."""

    seed: int
    attack: str
    epsilon: NonNegative
    clean: Walk
    attacked: Walk


class Trajectories(Part):
    """The costliest episodes and the boundary that they may not cross."""

    axis: Literal["x", "y"]
    limit: Number
    radius: Number | None
    episodes: list[Scene]


class Idle(Part):
    """What an actor that does nothing earns; beside the policy, the reward from which on it is equal."""

    reward: Summary
    cost: Summary
    equal_within: NonNegative | None = None


class Reference(Part):
    """What doing nothing earns."""

    episodes: Annotated[int, Field(ge=1)]
    reward: Number
    random: Idle
    standing_still: Idle
    untrained: Idle


class EvaluationFile(Part):
    """What `harden evaluate --json` writes."""

    task: str
    env_id: str
    policy: Policy
    seed: int
    episodes: Annotated[int, Field(ge=1)]
    cost_limit: NonNegative
    action: Literal["mean", "sample"]
    results: Annotated[list[Entry], Field(min_length=1)]
    warnings: list[Warned] = []
    checks: dict[str, Count] = {}
    reference: Reference = ABSENT
    threat_model: ThreatModel = ABSENT
    trajectories: Trajectories | None = None
    config: dict[str, Any] | None = None
    wall_time_s: NonNegative = 0.0
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _natural_first(self) -> EvaluationFile:
        if self.results[0].attack != "natural":
            raise ValueError(f"results begin with '{self.results[0].attack}', and have to with 'natural'")
        return self


class Estimate(Part):
    """What stored states say of one policy."""

    policy: str
    attack: str
    q_reward: Number
    q_cost: Number
    distance: NonNegative
    outside_data: Share
    moved_by_attack: NonNegative


class Logs(Part):
    """The data that were learned from."""

    path: str
    data: str
    transitions: Count
    episodes: Count
    reward: Number
    cost: NonNegative


class OfflineFile(Part):
    """The account of `train --offline`."""

    task: str
    cost_limit: NonNegative
    kappa: Number
    epsilon: NonNegative
    not_simulated: list[str]
    policy: Policy
    data: Logs
    estimates: Annotated[list[Estimate], Field(min_length=1)]
