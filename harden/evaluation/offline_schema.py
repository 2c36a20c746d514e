"""What the account of `train --offline` holds, checked when one is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from harden.evaluation.schema import Count, NonNegative, Number, Part, Share


class Estimate(Part):
    """What stored states say of one policy."""

    policy: str
    attack: str
    q_reward: Number
    q_cost: Number
    distance: NonNegative
    outside_data: Share
    moved_by_attack: NonNegative


class HeldOut(Part):
    """How well the clone does on episodes that it has not seen."""

    action_error: Number


class Behaviour(Part):
    """The clone of the data."""

    held_out: HeldOut


class Logs(Part):
    """The data that were learned from."""

    path: str
    data: str
    transitions: Count
    episodes: Count
    reward: Number
    cost: NonNegative
    behaviour: Behaviour


class Cloned(Part):
    """The policy that was never simulated."""

    path: str
    policy_digest: str


class OfflineFile(Part):
    """The account of `train --offline`."""

    task: str
    cost_limit: NonNegative
    kappa: Number
    epsilon: NonNegative
    not_simulated: list[str]
    policy: Cloned
    data: Logs
    estimates: Annotated[list[Estimate], Field(min_length=1)]
