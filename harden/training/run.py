"""A run: its learner and record, how it begins, how it is taken up again, and how it is stored."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harden.config.pipeline import PipelineConfig
from harden.data.manifest import shard_files
from harden.errors import HardenError, InputError, MissingInputError, OtherConfigurationError
from harden.method.learner import Learner, new_learner
from harden.nets.saved import (
    LoadedPolicy,
    load_critics,
    load_policy,
    module_digest,
    save_critics,
    save_policy,
)
from harden.progress import Reporter
from harden.storage.files import clear_unfinished, read_json, write_json
from harden.storage.folders import FolderLock, recover_replaced, whole_folder
from harden.training.record import Row, RunRecord
from harden.training.state import load_state, save_state
from harden.training.workspace import Workspace, describe, versions

# what changes nothing of what is learned
_MAY_DIFFER: dict[str, set[str] | bool] = {
    "collect": {"workers"},
    "task": {"python", "timeout"},
    "evaluate": True,
    "by_hand": True,
}


@dataclasses.dataclass
class Run:
    """A learner on its way, and where it is stored.

    Args:
        config: the pipeline.
        workspace: its folders.
        learner: the stages change it in place.
        record: what is stored beside the learner.
        stored: whether a state is there already.
    """

    config: PipelineConfig
    workspace: Workspace
    learner: Learner
    record: RunRecord
    stored: bool = False

    @property
    def history(self) -> list[Row]:
        """The learning curve of a run that `train` began, a row a refresh."""
        assert self.record.history is not None
        return self.record.history

    def commit(self, **changes: Any) -> None:
        """Write the learner: first the state, which alone decides, then the folders made from it.

        Args:
            changes: fields of the record that are new.
        """
        workspace = self.workspace
        self.record = dataclasses.replace(
            self.record,
            config=self.config.model_dump(mode="json"),
            versions=versions(),
            acting_digest=module_digest(self.learner.policy),
            before=_digests_in_folders(workspace),
            **changes,
        )
        description = describe(self.config) | self.record.as_dict()
        save_state(workspace.state, self.learner, description)
        self._write_folders()
        self.stored = True

    def _write_folders(self) -> None:
        workspace, learner, record = self.workspace, self.learner, self.record
        inputs = {"data": record.data_digest or "", "policy": record.parent or ""}
        shared = describe(self.config) | record.as_dict() | {"inputs": inputs}
        for key in ("history", "before", "run_config"):
            shared.pop(key, None)
        save_critics(workspace.critics, learner.critics, shared)
        # while the policy is still the one that came in, it is described as that one
        origin = record.origin or {}
        if origin.get("policy_digest") == module_digest(learner.average):
            shared |= {k: origin[k] for k in ("variant", "made_by", "clone", "imported") if k in origin}
        if "refused" in (record.ending or {}):
            shutil.rmtree(workspace.policy, ignore_errors=True)
        else:
            save_policy(workspace.policy, learner.average, learner.critics, shared)
        write_json(workspace.run / "config.json", record.run_config or record.config)

    def renew_folders(self) -> None:
        """Write the folders made from the state once more where a kill left them one commit behind it."""
        now = [module_digest(self.learner.critics), module_digest(self.learner.average)]
        triples = zip(_digests_in_folders(self.workspace), self.record.before or now, now, strict=True)
        if any(in_folder == before != own for in_folder, before, own in triples):
            self._write_folders()


def _digests_in_folders(workspace: Workspace) -> list[str]:
    """Return the digests that the critics' and the policy's folders give of themselves, "" without one."""
    digests = []
    for folder, key in ((workspace.critics, "critics_digest"), (workspace.policy, "policy_digest")):
        try:
            digests.append(str(read_json(folder / "manifest.json", "").get(key, "")))
        except HardenError:
            digests.append("")
    return digests


def origin_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what a policy folder says of where its policy comes from, to be handed on with the state."""
    keys = ("variant", "made_by", "clone", "imported", "inputs", "policy_digest")
    return manifest.get("origin", {key: manifest[key] for key in keys if key in manifest})


def which_policy(config: PipelineConfig) -> str:
    """Return which policy a run publishes, in words; the rule looks at no roll-out."""
    if config.train.keep is not None:
        share = f"{config.train.keep:.0%} of the reward that training started from"
        return f"safest: the average with the lowest expected cost under attack that keeps {share}"
    if config.train.average == 0:
        return "last: the policy at the end of the last refresh"
    return f"average: the running average over {config.train.average:g} of training's rounds"


def open_for_stage(
    config: PipelineConfig,
    workspace: Workspace,
    device: torch.device,
    policy_dir: Path | None = None,
    critics_dir: Path | None = None,
    *,
    given: LoadedPolicy | None = None,
    refresh: int | None = None,
) -> Run:
    """Return what a single stage works on: the stored learner, or one begun from what is there.

    Args:
        policy_dir, critics_dir: named by the user instead of the workspace's own.
        given: the policy in `policy_dir` where that is no folder.
        refresh: of `train`, whose learning goes on; without one, a stage by hand goes on from the policy that
            the run published.

    Raises:
        InputError: the state, the policy and the critics do not belong together.
    """
    policy_path, critics_path = policy_dir or workspace.policy, critics_dir or workspace.critics
    policy = given
    if policy is None and (policy_dir or policy_path.is_dir()):
        policy = load_policy(policy_path)
    critics = load_critics(critics_path)[0] if critics_dir or critics_path.is_dir() else None
    if not workspace.state.is_file():
        learner = new_learner(config, device, policy)
        if critics is not None:
            learner = Learner(learner.policy, critics, config, device, values=learner.values)
        record = RunRecord(origin=None if policy is None else origin_of(policy.manifest))
        return Run(config, workspace, learner, record)
    learner, record = load_state(workspace.state, config, device)
    _require_same(config, record, workspace)
    # what a kill left one commit behind belongs to the state too, and is written anew with it
    critics_before, policy_before = record.before or ["", ""]
    for name, path, found, own, before in (
        ("policy", policy_path, policy.policy if policy else None, learner.average, policy_before),
        ("critics", critics_path, critics, learner.critics, critics_before),
    ):
        if found is not None and module_digest(found) not in (module_digest(own), before):
            raise InputError(
                f"the {name} in {path} and the run's state in {workspace.state} do not belong together",
                "leave it out to go on with the run's own, or begin under another pipeline's name, with -p"
                if path in (policy_dir, critics_dir)
                else f"go on from the state with: harden train -p {workspace.name} --resume",
            )
    if refresh is None:
        learner.policy.load_state_dict(learner.average.state_dict())
    # what was published is about to change: what was found of it holds no more
    record = dataclasses.replace(record, ending=None, warm_up=None)
    return Run(config, workspace, learner, record, stored=True)


def _require_same(config: PipelineConfig, record: RunRecord, workspace: Workspace) -> None:
    """Refuse to go on as something else: what is written beside the state would say what it is not."""
    recorded, now = record.config or {}, config.model_dump(mode="json", include={"variant", "networks"})
    for key, value in now.items():
        if recorded.get(key, value) != value:
            raise OtherConfigurationError(
                f"the state in {workspace.state} was made with another '{key}' "
                f"({recorded[key]}, here {value})",
                "go on with its own, or begin under another pipeline's name",
            )


def _difference(old: Any, new: Any, path: str = "") -> str | None:
    """Return the first key of `new` that `old` has another value for, with both; None where there is none."""
    if isinstance(old, dict) and isinstance(new, dict):
        differences = (_difference(old.get(k), new[k], f"{path}.{k}" if path else k) for k in new)
        return next(filter(None, differences), None)
    return f"'{path}' ({old}, here {new})" if old != new else None


def mend_run(run: Run, report: Reporter) -> None:
    """Mend what a killed process left of a run's folders.

    A warning is given where the run goes on with another number of threads than it began with.
    """
    workspace = run.workspace
    threads, now = (run.record.versions or {}).get("threads"), versions()["threads"]
    if threads not in (None, now):
        report.say(
            f"warning: the run had --threads {threads} so far and has {now} now: it ends at another policy "
            f"than without the interruption; --threads {threads} would not"
        )
    for folder in (workspace.run, workspace.critics, workspace.policy):
        if folder.is_dir():
            clear_unfinished(folder)
    run.renew_folders()


def load_run(config: PipelineConfig, workspace: Workspace, device: torch.device) -> Run:
    """Return a run that has begun.

    Raises:
        MissingInputError: no run; OtherConfigurationError: made with another one; InputError: made by single
            stages, or there are other results or data where a run would be.
    """
    if not workspace.state.is_file():
        # what is there without a state has a line of its own, which says how to keep it
        require_free(workspace, collects=not config.train.offline)
        raise MissingInputError(
            f"no run to resume in {workspace.run}", f"begin one with: harden train -p {workspace.name}"
        )
    learner, record = load_state(workspace.state, config, device)
    if record.history is None:
        raise InputError(
            f"the state in {workspace.run} was made by single stages",
            f"begin a run with: harden train -p {workspace.name} --overwrite",
        )
    new = config.model_dump(mode="json", exclude=_MAY_DIFFER)
    # stages by hand since may have had settings of their own
    different = _difference(record.run_config or record.config or {}, new)
    if different:
        raise OtherConfigurationError(
            f"the run in {workspace.run} was made with another {different}",
            "resume it with its own (config.json there holds all of it), or begin anew with --overwrite",
        )
    return Run(config, workspace, learner, record, stored=True)


def warm_up_steps(config: PipelineConfig, learner: Learner, start: LoadedPolicy | None) -> int:
    """Return the critic steps before the first round: more for a given policy without critics."""
    usual = config.train.warm_up_critic_steps
    if start is None or (start.critics and start.critics.alike(learner.critics)):
        return usual
    return max(usual, config.critics.steps)


@contextlib.contextmanager
def new_run(workspace: Workspace, *, collects: bool, overwrite: bool) -> Iterator[Workspace]:
    """Begin a run beside what is there, which goes when the new one stands, and not before.

    Args:
        collects: whether the run makes its own data set; else it reads one, which stays.
        overwrite: whether an earlier run, and the data set of one that collects, may go.

    Returns:
        The workspace in whose run folder the state is to be put, inside the `with`.

    Raises:
        InputError: something is there and may not go, or another process is writing it.
        StorageError: no room or no permission; what was there is there.
    """
    recover_replaced(workspace.run, (workspace.run, workspace.data))
    with contextlib.ExitStack() as held:
        if not overwrite:
            require_free(workspace, collects)
        if collects and workspace.data.is_dir():
            held.enter_context(FolderLock(workspace.data))
        gone = [workspace.run, *([workspace.data] if collects else [])] if overwrite else []
        fresh = held.enter_context(whole_folder(workspace.run, gone))
        yield workspace._replace(run=fresh)


def require_free(workspace: Workspace, collects: bool) -> None:
    """Refuse to begin a run where something is that it would discard.

    Raises:
        InputError: a run, other results, or data of a run that collects.
    """
    both = "both" if collects else "it"
    if workspace.state.is_file():
        raise InputError(
            f"{workspace.run} holds an earlier run",
            f"go on with --resume, or discard {both} with --overwrite",
        )
    if workspace.run.is_dir() and any(workspace.run.iterdir()):
        raise InputError(
            f"{workspace.run} holds what no run made",
            f"begin from its policy elsewhere with --init {workspace.policy}, or discard {both} with "
            "--overwrite",
        )
    if collects and workspace.data.is_dir() and shard_files(workspace.data):
        raise InputError(
            f"{workspace.data} holds data, and no run goes with them",
            f"learn from them with: harden train --offline --data {workspace.data}; train under another "
            "pipeline's name, or discard them with --overwrite",
        )


def begin_run(
    config: PipelineConfig, workspace: Workspace, learner: Learner, given: LoadedPolicy | None, **more: Any
) -> None:
    """Store the state that a run begins with: so it can be resumed from its first moment.

    Args:
        given: the policy that the run starts from, None where a run begins with an untrained one or a clone.
        more: further fields of the record.
    """
    record = RunRecord(
        history=[],
        warm_up=warm_up_steps(config, learner, given),
        parent=module_digest(learner.policy),
        run_config=config.model_dump(mode="json"),
        origin=None if given is None else origin_of(given.manifest),
    )
    Run(config, workspace, learner, record).commit(**more)
