"""A run in a process of its own: train, try, write the ledger's entry. It can be killed and begun again.

`python -m harden.benchmark.job` reads a job as one line of JSON, and ends when its input is closed.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from harden.benchmark.ledger import entry_path, heading, write_failure
from harden.benchmark.tables import Job
from harden.config.pipeline import PipelineConfig, make_config
from harden.errors import HardenError, OtherConfigurationError
from harden.nets.saved import load_policy
from harden.progress import Reporter
from harden.stages.evaluate import evaluate
from harden.stages.train import train
from harden.storage.files import write_json
from harden.storage.folders import FolderLock
from harden.training.workspace import Workspace, versions

ATTACKS = ["natural", "mc", "mr"]
# the search for a radius takes as long as five to eight trials: for the attack that leads alone
BREAKING = "mc"
CURVE = ("refresh", "env_steps", "seconds", "reward", "cost", "cumulative_cost")
# whether the constraints were in force, of a method that has them
CONSTRAINTS = ("epsilon", "lam", "q_cost", "kappa", "kl_robust_mean", "beta_robust_mean")

# what a job is handed over as: a resolved configuration and paths
Spec = dict[str, Any]


def spec_of(job: Job, ledger: Path, work: Path) -> Spec:
    """Return a job as plain values; its paths are absolute."""
    return {
        "job": job._asdict() | {"config": job.config.model_dump(mode="json")},
        "ledger": str(ledger.resolve()),
        "work": str(work.resolve()),
    }


def job_of(spec: Spec) -> Job:
    """Return the job of plain values."""
    return Job(**(spec["job"] | {"config": make_config(spec["job"]["config"])}))


def workspace_of(spec: Spec) -> Workspace:
    """Return the folders of a job's run."""
    job = job_of(spec)
    return Workspace.named(job.name, Path(spec["work"]) / job.task / job.name)


def run_job(spec: Spec) -> Path:
    """Train and try one policy, going on from where an earlier attempt was stopped.

    Whatever goes wrong inside is written to the ledger's entry, whose path is returned.

    Raises:
        InputError: another process does the same run.
    """
    torch.set_num_threads(1)
    job, workspace = job_of(spec), workspace_of(spec)
    out = entry_path(Path(spec["ledger"]), job)
    with FolderLock(workspace.run.parent):
        try:
            write_json(out, _result(job, workspace))
        except HardenError as error:
            write_failure(out, job, str(error))
        except Exception as error:
            traceback.print_exc()
            write_failure(out, job, f"defect: {type(error).__name__}: {error}")
    return out


def _result(job: Job, workspace: Workspace) -> dict[str, Any]:
    trained = _learn(job.config, workspace)
    began = time.monotonic()
    trials, radii = tried(job.config, workspace.policy)
    return heading(job) | {
        "status": "finished",
        "policy_digest": load_policy(workspace.policy).manifest["policy_digest"],
        "trained": trained,
        "trials": trials,
        "breaking_radius": radii,
        "evaluation_s": round(time.monotonic() - began, 1),
        "versions": versions(),
    }


def _learn(config: PipelineConfig, workspace: Workspace) -> dict[str, Any]:
    """Train, or go on with what is there; returns the learning curve and what it cost."""

    # this is simulation: a rival may attack its policy while it acts
    options: dict[str, Any] = {"allow_attacked_collection": True, "report": Reporter()}
    try:
        done = train(config, workspace, resume=workspace.state.is_file(), **options).work()
    except OtherConfigurationError:
        # by a version of the program with other defaults; a full disk or a lock leaves the run to be resumed
        done = train(config, workspace, overwrite=True, **options).work()
    last = done.history[-1]
    held = [name for name in CONSTRAINTS if all(name in row for row in done.history)]
    return {
        "env_steps": last["env_steps"],
        "wall_time_s": round(last["seconds"], 1),
        "cumulative_cost": last["cumulative_cost"],
        "curve": {name: [round(row[name], 4) for row in done.history] for name in (*CURVE, *held)},
    }


def trials(steps: int | None) -> dict[str, dict[str, Any]]:
    """Return how a policy is tried, by name and in this order, as keys of the evaluation.

    The verdict that leads, twice its effort, and the authors' attack with their tolerances and with none.

    Args:
        steps: of each attack, in place of its own.
    """
    pgd, paper = steps or 50, steps or 200
    none = {"stop_value": 0.0, "stop_move": 0.0}
    strong = {"attack_style": "pgd", "starts": "corners"}
    return {
        "pgd": strong | {"attack_steps": pgd, "restarts": 5},
        "pgd-doubled": strong | {"attack_steps": 2 * pgd, "restarts": 10},
        "paper": {"attack_style": "paper", "attack_steps": paper, "stop_value": 1e-4, "stop_move": 1e-4},
        "paper-no-stop": {"attack_style": "paper", "attack_steps": paper} | none,
    }


def tried(config: PipelineConfig, policy: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Evaluate a policy in each of the trials, with the evaluation's seed 0; episodes as columns.

    The breaking radius under mc, which comes second, is searched with the effort of the first.

    Twice the effort is asked for where the first left the average cost within the limit: it can't make an
    unsafe policy safe, and it takes longer than all else.
    """
    results, radii = dict[str, list[dict[str, Any]]](), list[dict[str, Any]]()
    for name, keys in trials(config.evaluate.attack_steps).items():
        if name == "pgd-doubled":
            average = statistics.mean(entry["cost"]["mean"] for entry in results["pgd"])
            if average > config.task_row.cost_limit:
                continue
        options = config.evaluate.model_validate(config.evaluate.model_dump() | keys)
        trial = config.model_copy(update={"evaluate": options, "seed": 0})
        breaking = [BREAKING] if name == "pgd" else []
        evaluation = evaluate(trial, policy, ATTACKS, breaking=breaking).work()
        results[name] = [_columns(entry) for entry in evaluation["results"]]
        radii += evaluation.get("breaking_radius", [])
    return results, radii


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    episodes = entry["per_episode"]
    columns = {name: [round(row[name], 3) for row in episodes] for name in ("reward", "cost", "length")}
    return {k: v for k, v in entry.items() if k != "per_episode"} | {"by_episode": columns}


def _end_with_the_caller() -> None:
    """End when the input is closed: the sweep that asked for this run is gone."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    spec = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    run_job(spec)
