"""Train a task's pipeline and try what comes out, into the ledger, for docs/results.md; and release a policy.

    python benchmarks/quality.py ball-circle safer-long --seeds 0 1 2 --release 0

It is `harden benchmark` for one variant, seed after seed in this process. A run that was stopped goes on
where it was, and a finished one of the same configuration is not repeated.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from harden.benchmark.job import run_job, spec_of, workspace_of
from harden.benchmark.sweep import what_is_left
from harden.benchmark.tables import Budget, Job, make_job
from harden.stages.evaluate import evaluate
from harden.storage.files import read_json
from harden.training.workspace import Workspace

ROOT = Path(__file__).parents[1]
LEDGER = ROOT / "benchmarks/results/ledger"


def release(place: Workspace, job: Job) -> None:
    """Copy a run's policy to checkpoints/released, with its curve and its evaluation."""
    # as a reader of the repository would name it: the evaluation says which policy it tried
    folder = Path(os.path.relpath(ROOT / "checkpoints/released" / job.task / job.variant))
    shutil.copytree(place.policy, folder, dirs_exist_ok=True)
    shutil.copy(place.run / "learning_curve.csv", folder)
    config = job.config.model_copy(update={"seed": 0})
    evaluate(config, folder, ["natural", "random", "mc", "mr"], outs=[folder / "evaluation.json"]).work()


def main() -> None:
    """Run the seeds asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task")
    parser.add_argument("variant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--release", type=int, help="copy this seed's policy to checkpoints/released")
    parser.add_argument("--set", dest="keys", action="append", default=[], help="key=value of the pipeline")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/benchmark", help="where the runs are kept")
    options = parser.parse_args()
    for seed in options.seeds:
        job = make_job(options.task, options.variant, seed, Budget(keys=tuple(options.keys)))
        spec = spec_of(job, LEDGER, options.work)
        if what_is_left([job], LEDGER, again=True).todo:
            entry = read_json(run_job(spec), "this")
            if entry["status"] == "failed":
                sys.exit(f"error: {entry['reason']}")
        else:
            print(f"{job.task} {job.name} is in the ledger already", file=sys.stderr)
        if seed == options.release:
            release(workspace_of(spec), job)


if __name__ == "__main__":
    main()
