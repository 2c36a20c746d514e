"""What an evaluation file holds: the types of its parts, by which one is also checked when it is read.

Others may have written it: only what a reader uses is asked for, and keys that are not named here are left.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field

# pydantic asks for this one below Python 3.12
from typing_extensions import TypedDict

# the check that warns of a policy that earns no more than doing nothing
DOES_NOTHING = "does-nothing"
# far above any quantity here, and small enough to be squared and drawn; neither takes NaN
_MOST = 1e30
Number = Annotated[float, Field(ge=-_MOST, le=_MOST)]
NonNegative = Annotated[float, Field(ge=0, le=_MOST)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Summary(TypedDict):
    """A quantity over the episodes of an evaluation."""

    mean: Number
    std: NonNegative
    ci95: Pair


class Episode(TypedDict):
    """One episode of an evaluation: its seed, total reward, total cost and steps."""

    seed: int
    reward: Number
    cost: NonNegative
    length: NotRequired[int]


class Entry(TypedDict):
    """A policy under one attack in one setting; `violation_rate` is the share of episodes above the limit."""

    attack: str
    style: str | None
    norm: NotRequired[Literal["linf", "l2"]]
    epsilon: NonNegative
    steps: Count
    restarts: Count
    critics: NotRequired[str | None]
    queries: NotRequired[Count | None]
    reward: Summary
    cost: Summary
    violation_rate: Share
    violation_ci95: NotRequired[Pair]
    early_rate: NotRequired[Share]
    worst_episode: NotRequired[Episode]
    over_natural: NotRequired[dict[str, Summary]]
    per_episode: NotRequired[list[Episode]]


class _Policy(TypedDict):
    path: str
    variant: NotRequired[str | None]
    policy_digest: NotRequired[str | None]


class _Warned(TypedDict):
    check: str
    attack: NotRequired[str]
    epsilon: NotRequired[NonNegative | None]
    message: str


class _Spread(TypedDict):
    path: str
    digest: str
    transitions: Count
    observation_std: list[NonNegative]


class ThreatModel(TypedDict):
    """What the attacker may do; lists hold one value a coordinate."""

    norm: Literal["linf", "l2"]
    epsilon: NotRequired[NonNegative | None]
    epsilon_unit: NotRequired[list[NonNegative]]
    critics: NotRequired[dict[str, Any] | None]
    observations: NotRequired[list[str]]
    observation_std: list[NonNegative]
    data: NotRequired[_Spread | None]


class _Walk(TypedDict):
    cost: Number
    xy: Annotated[list[Pair], Field(min_length=1)]


class _Scene(TypedDict):
    seed: int
    attack: str
    epsilon: NonNegative
    clean: _Walk
    attacked: _Walk


class _Trajectories(TypedDict):
    axis: Literal["x", "y"]
    limit: Number
    radius: Number | None
    episodes: list[_Scene]


class _Idle(TypedDict):
    reward: Summary
    cost: Summary
    equal_within: NotRequired[NonNegative | None]


class _Reference(TypedDict):
    episodes: Annotated[int, Field(ge=1)]
    reward: Number
    random: _Idle
    standing_still: _Idle
    untrained: _Idle


class BreakingRadius(TypedDict):
    """The smallest epsilon found at which the mean cost is above the limit, None where none was found."""

    attack: str
    epsilon: NonNegative | None
    tried_up_to: NonNegative
    holds_at: NonNegative | None
    cost_below: NonNegative | None
    cost_above: NonNegative | None


def _natural_first(results: list[Entry]) -> list[Entry]:
    if results[0]["attack"] != "natural":
        raise ValueError(f"results begin with '{results[0]['attack']}', and have to with 'natural'")
    return results


def _one_a_coordinate(model: ThreatModel) -> ThreatModel:
    lists: dict[str, list[Any]] = {key: model.get(key, []) for key in ("epsilon_unit", "observations")}  # type: ignore[misc]
    # files from before there were any have none
    lists = {key: values for key, values in lists.items() if values}
    if data := model.get("data"):
        lists["data.observation_std"] = data["observation_std"]
    size = len(model["observation_std"])
    for key, values in lists.items():
        if len(values) != size:
            raise ValueError(f"{key} has {len(values)} values for {size} coordinates")
    return model


class _Logged(TypedDict):
    reward: Number
    cost: NonNegative


class _Estimate(TypedDict):
    mean: Number
    ci95: Pair


class FittedQ(TypedDict):
    """What fitted Q evaluation of the logs expects of an episode without an attack."""

    reward: _Estimate
    cost: _Estimate


class WorldModelled(TypedDict):
    """The world model that a policy was tried in, and what of held-out steps it foresaw.

    `cost_rule` is what its steps cost, and those of `logged`; "" where it learned that from the logs.
    """

    data: str
    digest: str
    logged: _Logged
    error: NonNegative
    cost: NonNegative
    cost_seen: NonNegative
    cost_rule: NotRequired[str]
    fitted_q: NotRequired[FittedQ]


class Evaluation(TypedDict):
    """What `harden evaluate --json` writes; results begin with the natural one."""

    format_version: int
    task: str
    env_id: str
    policy: _Policy
    seed: int
    episodes: Annotated[int, Field(ge=1)]
    cost_limit: NonNegative
    action: Literal["mean", "sample"]
    results: Annotated[list[Entry], Field(min_length=1), AfterValidator(_natural_first)]
    breaking_radius: NotRequired[list[BreakingRadius]]
    warnings: NotRequired[list[_Warned]]
    checks: NotRequired[dict[str, Count]]
    reference: NotRequired[_Reference]
    threat_model: NotRequired[Annotated[ThreatModel, AfterValidator(_one_a_coordinate)]]
    trajectories: NotRequired[_Trajectories | None]
    world_model: NotRequired[WorldModelled]
    horizon: NotRequired[Count]
