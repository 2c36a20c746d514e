"""The order of the stages, and which of their results are current."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.pipeline import PipelineConfig, stage_sections
from harden.data import open_dataset, read_targets
from harden.errors import HardenError, MissingInputError
from harden.evaluation.reading import load_evaluation
from harden.evaluation.reference import DOES_NOTHING
from harden.nets.saved import load_critics, load_policy
from harden.storage.files import digest_file, read_errors
from harden.storage.folders import FolderLock
from harden.training.state import load_state
from harden.training.workspace import Workspace


class StageStatus(NamedTuple):
    """A stage's command, "done", "stale" or "missing", and why in words.

    The stage "run" is a training as a whole: "running", "resumable" or "done".
    """

    stage: str
    status: str
    why: str


# why a stage's result is stale, "" where it is not, and what is said of it where it is done
Checked = tuple[str, str]


class _Known(NamedTuple):
    """What the policy's folder says of itself, {} where there is none, and digests of the rest on disk."""

    manifest: dict[str, Any]
    data: str
    critics: str

    @property
    def targets(self) -> str:
        """The digest of the targets that the policy was fitted to, which are older than it."""
        return str(self.manifest.get("targets_digest", ""))

    @property
    def policies(self) -> tuple[Any, ...]:
        """The policy that is kept and the one that learns on."""
        return self.manifest.get("policy_digest", ""), self.manifest.get("acting_digest", "")


def _changed(stage: str, config: PipelineConfig, recorded: dict[str, Any]) -> str:
    for section, now in stage_sections(stage, config).items():
        before = recorded.get(section)
        if isinstance(before, dict) and isinstance(now, dict):
            # where a task is simulated is recorded, and no part of what it is
            before = {key: value for key, value in before.items() if key in now or section != "task"}
        if before != now:
            short = "" if isinstance(now, dict) else f" ({before}, here {now})"
            return f"'{section}' in the pipeline changed since{short}"
    return ""


def _collect_status(config: PipelineConfig, workspace: Workspace, known: _Known) -> Checked:
    try:
        info = open_dataset(workspace.data, config.task_row).info
    except MissingInputError:
        if workspace.policy.is_dir() and known.manifest.get("offline"):
            return "", "not by this pipeline: the run learned from data given by --data"
        raise
    behaviours = ", ".join(sorted({shard.behaviour for shard in info.shards}))
    return "", f"{info.transitions:,} transitions, {info.episodes:,} episodes ({behaviours})"


def _critics_status(config: PipelineConfig, workspace: Workspace, known: _Known) -> Checked:
    _, manifest = load_critics(workspace.critics)
    inputs = manifest.get("inputs", {})
    why = _changed("fit-critics", config, manifest.get("config", {}))
    if not why and known.data and inputs.get("data") != known.data:
        why = "the data set changed since"
    # the policy that comes out of a round is newer than the critics of that round, as it should be
    parent = known.manifest.get("inputs", {}).get("policy", "")
    if not why and inputs.get("policy") not in (*known.policies, parent):
        why = "the policy changed since"
    return why, "fits the data and the policy"


def _estep_status(config: PipelineConfig, workspace: Workspace, known: _Known) -> Checked:
    _, header = read_targets(workspace.targets)
    why = ""
    # a run's last targets are older than the critics that it ends with, as they should be
    fitted = digest_file(workspace.targets) == known.targets
    of_the_run = fitted and "ending" in known.manifest
    if known.data and header.data_digest != known.data:
        why = "the data set changed since"
    elif header.critics_digest != known.critics and not of_the_run:
        why = "the critics changed since"
    elif header.policy_digest not in known.policies and not fitted:
        why = "the policy changed since"
    elif header.settings:
        why = _changed("e-step", config, json.loads(header.settings))
    return why, f"{header.status}, eta {header.eta:.3g}, lam {header.lam:.3g}"


def _policy_status(config: PipelineConfig, workspace: Workspace, known: _Known) -> Checked:
    manifest = load_policy(workspace.policy).manifest
    if workspace.state.is_file():
        # the policy is made from it, and so is all that comes next
        load_state(workspace.state, config, torch.device("cpu"))
    why = _changed("fit-policy", config, manifest.get("config", {}))
    cloned = "clone" in manifest or "clone" in manifest.get("origin", {})
    if not (why or known.targets or cloned or config.variant_row.on_policy):
        raise MissingInputError("as the run began: it was fitted to no targets yet")
    critics, data = manifest.get("critics_digest"), manifest.get("inputs", {}).get("data")
    if known.targets:
        # the folder holds the newest critics; what the policy was fitted with, its targets say
        if not workspace.targets.is_file():
            why = why or f"the targets that it was fitted to are not in {workspace.targets}"
        else:
            header = read_targets(workspace.targets)[1]
            critics, data = header.critics_digest, header.data_digest
            if digest_file(workspace.targets) != known.targets:
                why = why or f"it was fitted to other targets than are in {workspace.targets}"
    if not why and known.critics and critics != known.critics and "ending" not in manifest:
        why = "the critics changed since"
    if not why and known.data and data != known.data:
        why = "the data set changed since"
    return why, "; ".join(
        [f"digest {manifest['policy_digest'][:12]}", *manifest.get("ending", {}).get("warnings", [])]
    )


def _evaluate_status(config: PipelineConfig, workspace: Workspace, known: _Known) -> Checked:
    evaluation = load_evaluation(workspace.evaluation)
    if evaluation["policy"].get("policy_digest") != known.policies[0]:
        return "the policy changed since", ""
    attacks = ", ".join(dict.fromkeys(entry["attack"] for entry in evaluation["results"]))
    idle = [w["message"] for w in evaluation.get("warnings", ()) if w["check"] == DOES_NOTHING]
    return "", "; ".join([attacks, *(f"{DOES_NOTHING}: {message}" for message in idle)])


def _known(config: PipelineConfig, workspace: Workspace) -> _Known:
    def read(part: Callable[[], Any], otherwise: Any = "") -> Any:
        try:
            with read_errors(Path()):
                return part()
        except HardenError:
            return otherwise

    return _Known(
        read(lambda: load_policy(workspace.policy).manifest, {}),
        read(lambda: open_dataset(workspace.data, config.task_row).info.digest),
        read(lambda: load_critics(workspace.critics)[1].get("critics_digest", "")),
    )


def _run_status(config: PipelineConfig, workspace: Workspace) -> list[StageStatus]:
    """Return how far the training is, and whether a process works on it or its data now; [] where none is."""
    writing = [folder for folder in (workspace.data, workspace.imagined) if FolderLock.held(folder)]
    with contextlib.suppress(HardenError), read_errors(workspace.run):
        record = load_state(workspace.state, config, torch.device("cpu"))[1]
        if record.history is not None:
            done, of = len(record.history), f"of {config.refreshes} refreshes"
            if writing and not record.ended:
                why = (
                    f"{done} {of} are stored, the next is under way" if done < config.refreshes else "it ends"
                )
                return [StageStatus("run", "running", why)]
            if not record.ended:
                on = f"{done} {of} are stored; go on with: harden train -p {workspace.name} --resume"
                return [StageStatus("run", "resumable", on)]
            if not writing:
                return [StageStatus("run", "done", f"{done} {of}")]
    return [StageStatus("run", "running", f"a process is writing {folder}") for folder in writing]


def status(config: PipelineConfig, workspace: Workspace) -> list[StageStatus]:
    """Return for each stage whether its result is done, stale or missing under the pipeline as it is now."""
    known = _known(config, workspace)
    checks: dict[str, Callable[[PipelineConfig, Workspace, _Known], Checked]] = {
        "collect": _collect_status,
        "fit-critics": _critics_status,
        "e-step": _estep_status,
        "fit-policy": _policy_status,
        "evaluate": _evaluate_status,
    }
    if config.variant_row.on_policy:
        del checks["e-step"]
    rows = _run_status(config, workspace)
    for stage, check in checks.items():
        try:
            with read_errors(workspace.run):
                why, done = check(config, workspace, known)
            rows.append(StageStatus(stage, "stale" if why else "done", why or done))
        except MissingInputError as error:
            rows.append(StageStatus(stage, "missing", error.message))
        except HardenError as error:
            rows.append(StageStatus(stage, "stale", error.message))
    return rows
