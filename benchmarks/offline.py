"""Hardening from stored data alone: a clone of the logs, and what `train --offline` makes of it, attacked.

    python benchmarks/offline.py --logs wide narrow half-trained --seeds 0 1

One JSON for each kind of logs and seed in benchmarks/results/offline/; one that is there is not made again.
The logs are `harden collect`'s, and those of the half-trained policy go through a file in DSRL's layout and
`harden data import`. Nothing but the logs is seen until both policies are tried, on the same episodes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harden.config.file import find_pipeline, load_config
from harden.data.convert import export_data, read_log, store_log
from harden.data.dataset import open_dataset
from harden.data.formats.log import ImportOptions
from harden.nets.saved import load_policy
from harden.progress import Reporter
from harden.stages.collect import collect
from harden.stages.evaluate import evaluate
from harden.stages.fit_critics import fit_critics
from harden.stages.fit_policy import clone
from harden.stages.train import train
from harden.storage.files import write_json
from harden.training.workspace import Workspace, versions

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/offline"
RELEASED = ROOT / "checkpoints/released/ball-circle/cvpo"
CPU, EPISODES = torch.device("cpu"), 200
ATTACKS = ["natural", "mc", "mr", "mad"]
TRIAL = ["evaluate.episodes=20", "evaluate.attack_steps=30", "evaluate.restarts=3"]


class Logs(NamedTuple):
    """How logs come about.

    Args:
        teacher_steps: of a vanilla policy's own training; 0 is the released one.
        keys: of the pipeline that collects: how far roll-outs leave the policy's mean.
        through_dsrl: whether they go through a foreign file.
    """

    teacher_steps: int
    keys: tuple[str, ...]
    through_dsrl: bool


WIDE = ("collect.min_std=0.4", "collect.correlation=0.8")
NARROW = ("collect.min_std=0", "collect.correlation=0")
LOGS = {
    "wide": Logs(0, WIDE, False),
    "narrow": Logs(0, NARROW, False),
    "half-trained": Logs(16_000, WIDE, True),
}


def make_logs(logs: Logs, seed: int, work: Path, report: Reporter) -> Path:
    """Collect, unless it is there already; returns the data set."""
    made = work / "logs"
    if made.is_dir():
        return made
    teacher = RELEASED
    if logs.teacher_steps:
        place = Workspace.named("teacher", work)
        keys = [f"seed={seed}", "variant=cvpo", f"train.env_steps={logs.teacher_steps}"]
        config = load_config(find_pipeline(Path("ball-circle")), keys)
        teacher = train(config, place, overwrite=True, report=report).work().policy
    config = load_config(find_pipeline(Path("ball-circle")), [f"seed={seed}", *logs.keys])
    place = Workspace.named("collected", work)
    out = work / "native" if logs.through_dsrl else made
    collect(config, place, episodes=EPISODES, policy_dir=teacher, out=out, report=report).work()
    if logs.through_dsrl:
        export_data(out, work / "logs.h5", "dsrl")
        store_log(read_log(work / "logs.h5", None, ImportOptions()), made)
    return made


def clone_of(data: Path, seed: int, work: Path, report: Reporter) -> Path:
    """Return the folder of a clone of the logs, given critics of its own to attack by."""
    bare, own = work / "bare", Workspace.named("clone", work)
    config = load_config(find_pipeline(Path("offline")), [f"seed={seed}"])
    if not bare.is_dir():
        clone(config, Workspace.named("bare", work), data=data, out=bare, report=report).work()
    keys = [
        f"seed={seed}",
        "train.offline=false",
        "variant=cvpo",
        "critics.n_step_reward=10",
        "critics.n_step_cost=10",
    ]
    fit = load_config(find_pipeline(Path("offline")), keys)
    if not own.policy.is_dir():
        fit_critics(fit, own, steps=3000, data=data, policy_dir=bare, report=report).work()
    return own.policy


def run(name: str, seed: int, work: Path, keys: list[str]) -> dict[str, Any]:
    """Make the logs, harden from them, and try both policies."""
    began, report = time.monotonic(), Reporter(quiet=False)
    work.mkdir(parents=True, exist_ok=True)
    data = make_logs(LOGS[name], seed, work, report)
    info = open_dataset(data).info
    config = load_config(find_pipeline(Path("offline")), [f"seed={seed}", *TRIAL, *keys])
    place = Workspace.named("hardened", work)
    done = train(config, place, data=data, resume=place.state.is_file(), report=report).work()
    policies = {"clone": clone_of(data, seed, work, report), "hardened": done.policy}
    tried: dict[str, dict[str, Any]] = {}
    for policy, folder in policies.items():
        entries = evaluate(config, folder, ATTACKS, report=report).work()["results"]
        kept = ("reward", "cost", "violation_rate", "epsilon", "steps", "restarts")
        tried[policy] = {entry["attack"]: {key: entry[key] for key in kept} for entry in entries}

    def mean(policy: str, attack: str, what: str) -> float:
        return float(tried[policy][attack][what]["mean"])

    share = mean("hardened", "natural", "reward") / mean("clone", "natural", "reward")
    costs = [mean("hardened", attack, "cost") for attack in ("natural", "mc", "mr")]
    return {
        "logs": name,
        "seed": seed,
        "data": {
            "transitions": info.transitions,
            "reward": info.mean_reward,
            "cost": info.mean_cost,
        },
        "tried": tried,
        "natural_reward_share": share,
        "highest_cost": max(costs),
        "met": share >= 0.75 and max(costs) <= config.task_row.cost_limit,
        "world": load_policy(done.policy).manifest["offline"]["world"],
        "training_s": round(done.history[-1]["seconds"], 1),
        "wall_time_s": round(time.monotonic() - began, 1),
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }


def main() -> None:
    """Do what is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", nargs="+", choices=list(LOGS), default=list(LOGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--set", dest="keys", action="append", default=[], help="key=value of the pipeline")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/offline", help="where the runs are kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        for name in options.logs:
            out = options.results / f"{name}-seed{seed}.json"
            if not out.is_file():
                found = run(name, seed, options.work / f"{name}-{seed}", options.keys)
                write_json(out, found)
            found = json.loads(out.read_text())
            print(
                f"{name} seed {seed}: {100 * found['natural_reward_share']:.0f} % of the clone's reward, "
                f"a cost of {found['highest_cost']:.1f} at most",
                flush=True,
            )


if __name__ == "__main__":
    main()
