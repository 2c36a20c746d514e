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
# the default of a key that may be left out, and may not be null
ABSENT: Any = None


class _Part(BaseModel):
    # numbers are finite numbers, texts are texts
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Summary(_Part):
    mean: Number
    std: NonNegative
    ci95: Pair


class _Episode(_Part):
    seed: int
    reward: Number
    cost: NonNegative


class _Entry(_Part):
    attack: str
    style: str | None
    norm: Literal["linf", "l2"] = "linf"
    epsilon: NonNegative
    steps: Count
    restarts: Count
    queries: Count | None = None
    reward: _Summary
    cost: _Summary
    violation_rate: Share
    violation_ci95: Pair = ABSENT
    early_rate: Share = 0.0
    worst_episode: _Episode = ABSENT
    over_natural: dict[str, _Summary] = {}
    per_episode: list[_Episode] = []


class _Policy(_Part):
    path: str
    variant: str | None = None
    policy_digest: str | None = None


class _Warning(_Part):
    check: str
    attack: str = ""
    epsilon: NonNegative | None = None
    message: str


class _Spread(_Part):
    path: str
    digest: str
    transitions: Count
    observation_std: list[NonNegative]


class _ThreatModel(_Part):
    norm: Literal["linf", "l2"]
    epsilon: NonNegative | None = None
    epsilon_unit: list[NonNegative] = []
    critics: dict[str, Any] | None = None
    observations: list[str] = []
    observation_std: list[NonNegative]
    data: _Spread | None = None

    @model_validator(mode="after")
    def _one_a_coordinate(self) -> _ThreatModel:
        size = len(self.observation_std)
        lists: dict[str, list[Any]] = {"epsilon_unit": self.epsilon_unit, "observations": self.observations}
        # files from before there were any have none
        lists = {key: values for key, values in lists.items() if values}
        if self.data is not None:
            lists["data.observation_std"] = self.data.observation_std
        for key, values in lists.items():
            if len(values) != size:
                raise ValueError(f"{key} has {len(values)} values for {size} coordinates")
        return self


class _Walk(_Part):
    cost: Number
    xy: Annotated[list[Pair], Field(min_length=1)]


class _Scene(_Part):
    seed: int
    attack: str
    epsilon: NonNegative
    clean: _Walk
    attacked: _Walk


class _Trajectories(_Part):
    axis: Literal["x", "y"]
    limit: Number
    radius: Number | None
    episodes: list[_Scene]


class _Idle(_Part):
    reward: _Summary
    cost: _Summary
    equal_within: NonNegative | None = None


class _Reference(_Part):
    episodes: Annotated[int, Field(ge=1)]
    reward: Number
    random: _Idle
    standing_still: _Idle
    untrained: _Idle


class EvaluationFile(_Part):
    """What `harden evaluate --json` writes."""

    task: str
    env_id: str
    policy: _Policy
    seed: int
    episodes: Annotated[int, Field(ge=1)]
    cost_limit: NonNegative
    action: Literal["mean", "sample"]
    results: Annotated[list[_Entry], Field(min_length=1)]
    warnings: list[_Warning] = []
    checks: dict[str, Count] = {}
    reference: _Reference = ABSENT
    threat_model: _ThreatModel = ABSENT
    trajectories: _Trajectories | None = None

    @model_validator(mode="after")
    def _natural_first(self) -> EvaluationFile:
        if self.results[0].attack != "natural":
            raise ValueError(f"results begin with '{self.results[0].attack}', and have to with 'natural'")
        return self


class _Estimate(_Part):
    policy: str
    attack: str
    q_reward: Number
    q_cost: Number
    distance: NonNegative
    outside_data: Share
    moved_by_attack: NonNegative


class _Logs(_Part):
    path: str
    data: str
    transitions: Count
    episodes: Count
    reward: Number
    cost: NonNegative


class OfflineFile(_Part):
    """The account of `train --offline`."""

    task: str
    cost_limit: NonNegative
    kappa: Number
    epsilon: NonNegative
    not_simulated: list[str]
    policy: _Policy
    data: _Logs
    estimates: Annotated[list[_Estimate], Field(min_length=1)]
