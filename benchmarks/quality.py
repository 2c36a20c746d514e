"""Train a task's pipeline and try what comes out: one JSON a task, variant and seed, for docs/results.md.

    python benchmarks/quality.py ball-circle safer-long --seeds 0 1 2 --release 0

A run that was stopped goes on where it was, and a finished one of the same configuration is not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from harden.checkpoint import load_policy
from harden.config import PipelineConfig
from harden.files import write_json
from harden.pipeline_file import find_pipeline, load_config
from harden.progress import Reporter
from harden.stages.evaluate import evaluate
from harden.stages.train import train
from harden.stages.workspace import Workspace, versions, workspace

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/quality"
CPU = torch.device("cpu")
ATTACKS = ["natural", "mc", "mr"]
# the verdict that leads, twice its effort, and the authors' attack with their tolerances and with none
TRIALS: dict[str, dict[str, Any]] = {
    "pgd": {"attack_style": "pgd", "attack_steps": 50, "restarts": 5},
    "pgd-doubled": {"attack_style": "pgd", "attack_steps": 100, "restarts": 10},
    "paper": {"attack_style": "paper", "attack_steps": 200, "stop_value": 1e-4, "stop_move": 1e-4},
    "paper-no-stop": {"attack_style": "paper", "attack_steps": 200, "stop_value": 0.0, "stop_move": 0.0},
}
CURVE = ("refresh", "env_steps", "seconds", "reward", "cost", "cumulative_cost")


def learn(config: PipelineConfig, place: Workspace, report: Reporter) -> dict[str, Any]:
    """Train, or go on with what is there; returns the learning curve and what it cost."""
    # this is simulation: a rival may attack its policy while it acts
    options: dict[str, Any] = {"resume": place.state.is_file(), "allow_attacked_collection": True}
    done = train(config, place, device=CPU, report=report, **options)
    last = done.history[-1]
    return {
        "env_steps": last["env_steps"],
        "wall_time_s": round(last["seconds"], 1),
        "cumulative_cost": last["cumulative_cost"],
        "curve": {name: [round(row[name], 3) for row in done.history] for name in CURVE},
    }


def tried(config: PipelineConfig, policy: Path) -> dict[str, Any]:
    """Evaluate a policy in each of TRIALS; episodes are left out, their summaries stay."""
    found = {}
    for name, keys in TRIALS.items():
        options = config.evaluate.model_validate(config.evaluate.model_dump() | keys)
        one = config.model_copy(update={"evaluate": options, "seed": 0})
        entries = evaluate(one, policy, ATTACKS, device=CPU, report=Reporter(quiet=True))["results"]
        found[name] = [{k: v for k, v in entry.items() if k != "per_episode"} for entry in entries]
    return found


def release(place: Workspace, config: PipelineConfig) -> None:
    """Copy a run's policy to checkpoints/released, with its curve and its evaluation."""
    # as a reader of the repository would name it: the evaluation says which policy it tried
    folder = Path(os.path.relpath(ROOT / "checkpoints/released" / config.task / config.variant))
    shutil.copytree(place.policy, folder, dirs_exist_ok=True)
    shutil.copy(place.run / "learning_curve.csv", folder)
    one = config.model_copy(update={"seed": 0})
    evaluate(
        one,
        folder,
        ["natural", "random", "mc", "mr"],
        device=CPU,
        outs=[folder / "evaluation.json"],
        report=Reporter(True),
    )


def run(task: str, variant: str, seed: int, work: Path, keys: list[str]) -> tuple[PipelineConfig, Workspace]:
    """Train and try one seed, and write its JSON, unless it is there."""
    config = load_config(find_pipeline(Path(task)), [f"variant={variant}", f"seed={seed}", *keys])
    place = workspace(f"{task}-{variant}-{seed}", work)
    out = RESULTS / task / f"{variant}-seed{seed}.json"
    described = config.model_dump(mode="json", exclude={"evaluate": True, "collect": {"workers"}})
    if out.is_file() and json.loads(out.read_text())["config"] == described:
        print(f"{out.relative_to(ROOT)} is there already", file=sys.stderr)
        return config, place
    trained = learn(config, place, Reporter(quiet=False))
    result = {
        "task": task,
        "variant": variant,
        "seed": seed,
        "episodes": config.evaluate.episodes,
        "epsilon": config.eval_epsilon,
        "policy_digest": load_policy(place.policy).about["policy_digest"],
        "config": described,
        "trained": trained,
        "trials": tried(config, place.policy),
        "versions": versions(),
    }
    write_json(out, result)
    return config, place


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
    parser.add_argument("--work", type=Path, default=ROOT / "runs/quality", help="where the runs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        config, place = run(options.task, options.variant, seed, options.work, options.keys)
        if seed == options.release:
            release(place, config)


if __name__ == "__main__":
    main()
