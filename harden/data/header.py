"""What a file in the DSRL layout says of itself, in root attributes."""

from __future__ import annotations

import reprlib
from importlib.metadata import version
from typing import Any, NamedTuple, Protocol, TypeVar

from harden.errors import DamagedFileError

FORMAT_VERSION = 1
MADE_BY = "harden collect"
# what a manifest can say: a data set that says more is one that nothing opens again
MOST_STEPS = (1 << 31) - 1
MOST_SEED = (1 << 63) - 1
_Value = TypeVar("_Value", int, str)


class Kind(Protocol):
    """What the data of one data set have in common: a task has it, and so have a data set and a source.

    Args:
        env_id, horizon: "" and 0 where unknown.
        obs_dim, act_dim: coordinates of an observation and of an action.
    """

    @property
    def env_id(self) -> str: ...
    @property
    def horizon(self) -> int: ...
    @property
    def obs_dim(self) -> int: ...
    @property
    def act_dim(self) -> int: ...


class Provenance(NamedTuple):
    """Where transitions come from.

    Args:
        seed: of the run that collected them.
        policy_digest: of the policy that acted, "" where unknown.
        behaviour: how it acted.
    """

    seed: int = 0
    policy_digest: str = ""
    behaviour: str = "imported"


class ShardHeader(NamedTuple):
    """What a shard says of itself, with defaults where a foreign file does not.

    Args:
        env_id, horizon: of its task, "" and 0 where unknown.
        obs_dim, act_dim: coordinates of an observation and of an action.
        provenance: where its transitions come from.
    """

    env_id: str
    horizon: int
    obs_dim: int
    act_dim: int
    provenance: Provenance


ATTRIBUTES = ("format_version", "env_id", "horizon", *Provenance._fields)


def shard_attributes(kind: Kind, provenance: Provenance) -> dict[str, Any]:
    """Return what a file in the DSRL layout says of itself, where harden wrote it."""
    libraries = ("harden", "torch", "gymnasium", "bullet-safety-gym", "pybullet", "h5py")
    return (
        {"format_version": FORMAT_VERSION, "env_id": kind.env_id, "horizon": kind.horizon}
        | provenance._asdict()
        | {f"version_{name}": version(name) for name in libraries}
    )


def check_attribute(value: Any, default: _Value, what: str, least: int = 0, most: int = MOST_STEPS) -> _Value:
    """Return what a file says of itself, if a manifest can say it.

    Args:
        value: as it was read.
        default: what holds where a file does not say: the value has to be of its type.
        what: the file and the name, in an error.
        least, most: bounds of a whole number.

    Raises:
        DamagedFileError: of another type, no text in Unicode, or out of bounds.
    """
    if isinstance(default, str):
        # an undecodable byte is half of a surrogate pair in Python, and nothing can be written of it
        if isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value):
            return value
        allowed = "a text in UTF-8"
    else:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and least <= value <= most:
            return value
        allowed = f"a whole number from {least} to {most}"
    raise DamagedFileError(
        f"{what} is {ascii(reprlib.repr(value))[1:-1]}, allowed is {allowed}",
        "correct it in the file, or delete it there",
    )


def parse_attributes(said: dict[str, Any], file: str, prefix: str = "") -> tuple[str, int, Provenance]:
    """Return environment, horizon and provenance as the attributes of a file or group say.

    Args:
        said: the attributes that are there.
        file: its name in an error.
        prefix: of the provenance's names.

    Raises:
        DamagedFileError: as `check_attribute`.
    """

    def value(name: str, default: _Value, least: int = 0, most: int = MOST_STEPS) -> _Value:
        return check_attribute(said.get(name, default), default, f"{file}: attribute '{name}'", least, most)

    usual = Provenance()
    provenance = Provenance(
        value(f"{prefix}seed", usual.seed, -MOST_SEED, MOST_SEED),
        value(f"{prefix}policy_digest", usual.policy_digest),
        value(f"{prefix}behaviour", usual.behaviour),
    )
    return value("env_id", ""), value("horizon", 0), provenance
