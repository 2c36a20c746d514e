"""What is stored of a run beside the learner, and read without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from harden.config.pipeline import PipelineConfig
from harden.errors import DamagedFileError, InputError
from harden.storage.tensor_file import read_description

Row = dict[str, float]


@dataclasses.dataclass
class RunRecord:
    """What is stored beside a learner: where it comes from and what it has learned from.

    Args:
        history: a row a refresh of the learning curve; None for a state that single stages made.
        warm_up: critic steps before the first round.
        data_digest: of the data set that the critics learned from.
        parent: digest of the policy that the critics were fitted for.
        targets_digest: of the file of targets that the policy was fitted to.
        kept: which policy a run publishes, in words.
        origin: what the first policy's folder says of where it comes from.
        offline: of a run on stored data: their digest and size, how well the clone of them acts, and how well
            the world model of them predicts.
        run_config: the configuration of `train`, where stages by hand may have had another since.
        start: reward and cost of the given policy that a run started from.
        safest: refresh, reward, cost and expected cost under attack of the policy that `train.keep` keeps.
        ended: the run was ended, and is not ended again.
        ending: the published policy's reward and cost, and warnings, one sentence each.
        config: the configuration of the last commit.
        versions: of what a result depends on, at the last commit.
        before: digests of critics/ and policy/ when the last commit began.
        acting_digest: of the policy that collects, which is not the published one where that is an average.
    """

    history: list[Row] | None = None
    warm_up: int | None = None
    data_digest: str | None = None
    parent: str | None = None
    targets_digest: str | None = None
    kept: str | None = None
    origin: dict[str, Any] | None = None
    offline: dict[str, Any] | None = None
    run_config: dict[str, Any] | None = None
    start: Row | None = None
    safest: Row | None = None
    ended: bool | None = None
    ending: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    before: list[str] | None = None
    acting_digest: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what is known, by name."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> RunRecord:
        """Return the record in a stored description, which says more."""
        return cls(**{field.name: stored.get(field.name) for field in dataclasses.fields(cls)})


def read_record(path: Path, config: PipelineConfig) -> RunRecord:
    """Read the record in a run's state; errors as `load_state`, which reads the learner too."""
    stored = read_description(path, begin_anew(path))
    require_state_of(path, stored, config)
    return RunRecord.from_dict(stored)


def begin_anew(path: Path) -> str:
    """Return the command that begins the run anew whose state can't be read."""
    # a run's folder has its pipeline's name
    return f"harden train -p {path.absolute().parent.name} --overwrite"


def require_state_of(path: Path, stored: dict[str, Any], config: PipelineConfig) -> None:
    """Refuse what is no run's state (DamagedFileError), or the state of another task (InputError)."""
    if stored.get("kind") != "state":
        raise DamagedFileError(f"{path} is a {stored.get('kind')}, not a run's state")
    if stored.get("task") != config.task_row.name:
        raise InputError(
            f"{path} is of task '{stored.get('task')}', the pipeline's is '{config.task_row.name}'",
            "use the pipeline that the run was made with",
        )
