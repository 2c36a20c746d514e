"""The order of the stages, and which of their results are current."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from harden.config.pipeline import PipelineConfig, stage_sections
from harden.data.manifest import read_info
from harden.data.targets import read_header
from harden.errors import HardenError, MissingInputError
from harden.evaluation.reading import load_evaluation
from harden.evaluation.schema import DOES_NOTHING
from harden.storage.files import digest_file, read_errors
from harden.storage.folders import FolderLock
from harden.storage.tensor_file import read_description
from harden.training.record import read_record
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


def _policy_manifest(workspace: Workspace) -> dict[str, Any]:
    """Return what the run's policy says of itself; the file proves it, and nothing here waits for torch."""
    if not workspace.policy.is_dir():
        raise MissingInputError(f"policy folder {workspace.policy} is missing", "make it with: harden train")
    return read_description(workspace.policy / "policy.safetensors", "harden train")


def _critics_manifest(workspace: Workspace) -> dict[str, Any]:
    return read_description(workspace.critics / "critics.safetensors", "harden fit-critics")


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
        info = read_info(workspace.data, config.task_row)
    except MissingInputError:
        if workspace.policy.is_dir() and known.manifest.get("offline"):
            return "", "not by this pipeline: the run learned from data given by --data"
        raise
    behaviours = ", ".join(sorted({shard.behaviour for shard in info.shards}))
    return "", f"{info.transitions:,} transitions, {info.episodes:,} episodes ({behaviours})"


def _critics_status(config: PipelineConfig, workspace: Workspace, known: _Known) -> Checked:
    manifest = _critics_manifest(workspace)
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
    header = read_header(workspace.targets)
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
    manifest = _policy_manifest(workspace)
    if workspace.state.is_file():
        # the policy is made from it, and so is all that comes next
        read_record(workspace.state, config)
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
            header = read_header(workspace.targets)
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
        read(lambda: _policy_manifest(workspace), {}),
        read(lambda: read_info(workspace.data, config.task_row).digest),
        read(lambda: _critics_manifest(workspace).get("critics_digest", "")),
    )


def _run_status(config: PipelineConfig, workspace: Workspace) -> list[StageStatus]:
    """Return how far the training is, and whether a process works on it or its data now; [] where none is."""
    writing = [folder for folder in (workspace.data, workspace.imagined) if FolderLock.held(folder)]
    with contextlib.suppress(HardenError), read_errors(workspace.run):
        record = read_record(workspace.state, config)
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
