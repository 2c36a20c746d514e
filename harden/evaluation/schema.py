"""What an evaluation file holds, checked when one is read: others may have written it.

Only what a reader uses is asked for; keys that are not named here are left as they are.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from harden.evaluation.soundness import CHECKS

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


def _known_check(name: str) -> str:
    if name not in CHECKS:
        raise ValueError(f"choose from: {', '.join(CHECKS)}")
    return name


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
    length: Count = 0


class OverNatural(Part):
    """The difference to the same episodes unattacked."""

    cost: Summary | None = None


class Entry(Part):
    """One attack under one setting."""

    attack: str
    style: str | None
    norm: Norm = "linf"
    epsilon: NonNegative
    steps: Count
    restarts: Count
    queries: Count | None = None
    critics: str | None = None
    reward: Summary
    cost: Summary
    violation_rate: Share
    violation_ci95: Pair = ABSENT
    early_rate: Share = 0.0
    worst_episode: Episode = ABSENT
    over: list[str] = []
    over_natural: OverNatural = OverNatural()
    per_episode: list[Episode] = []

    @model_validator(mode="after")
    def _counted(self) -> Entry:
        if self.violation_ci95 is not None and not self.per_episode:
            raise ValueError("violation_ci95 is given without per_episode, which it is counted from")
        return self


class Policy(Part):
    """Which policy it is of."""

    path: str
    variant: str | None = None
    policy_digest: str | None = None


class Warned(Part):
    """What a check found."""

    check: str
    attack: str = ""
    epsilon: NonNegative | None = None
    message: str


class Ratio(Part):
    """A radius that was tried."""

    epsilon: NonNegative


class Spread(Part):
    """The data set that epsilon is a share of."""

    path: str
    digest: str
    transitions: Count
    observation_std: list[NonNegative]


class Critics(Part):
    """Which critics were asked, in words."""

    own: str | None = None
    surrogate_error: NonNegative = ABSENT


class ThreatModel(Part):
    """What the attacker may do."""

    norm: Norm
    epsilon: NonNegative | None = None
    epsilon_unit: list[NonNegative] = []
    critics: Critics | None = None
    observations: list[str] = []
    observation_std: list[NonNegative]
    data: Spread | None = None
    epsilon_over_std: list[Ratio]

    @model_validator(mode="after")
    def _one_a_coordinate(self) -> ThreatModel:
        size = len(self.observation_std)
        for key in ("epsilon_unit", "observations"):
            # files from before there were any have none
            if len(getattr(self, key)) not in (0, size):
                raise ValueError(f"{key} has {len(getattr(self, key))} values for {size} coordinates")
        if self.data is not None and len(self.data.observation_std) != size:
            raise ValueError(f"data.observation_std has another length than the {size} coordinates")
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


class Adversary(Part):
    """An adversary that was made for this evaluation."""

    epsilon: NonNegative
    episodes: Count
    digest: str = ""


class Idle(Part):
    """Who does nothing, and what that earns."""

    reward: Summary
    cost: Summary


class Compared(Idle):
    """The same beside the policy."""

    level: Number
    equal_within: NonNegative
    does_nothing: bool


class Reference(Part):
    """What doing nothing earns."""

    episodes: Annotated[int, Field(ge=1)]
    reward: Number
    random: Idle
    standing_still: Compared
    untrained: Compared


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
    checks: dict[Annotated[str, AfterValidator(_known_check)], Count] = {}
    reference: Reference = ABSENT
    threat_model: ThreatModel = ABSENT
    trajectories: Trajectories | None = None
    independent_critics: dict[str, Any] = {}
    learned: list[Adversary] = []
    critic_free: list[Adversary] = []
    config: dict[str, Any] | None = None
    wall_time_s: NonNegative = 0.0
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _natural_first(self) -> EvaluationFile:
        if self.results[0].attack != "natural":
            raise ValueError(f"results begin with '{self.results[0].attack}', and have to with 'natural'")
        return self
