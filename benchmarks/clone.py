"""Does a clone act as its teacher does? Logs of the released policy, a clone from them, both rolled out.

    python benchmarks/clone.py --json benchmarks/results/clone.json

The logs are `harden collect`'s and the clone `harden fit-policy --clone`'s, by the same functions; the clone
sees no simulation. Both are tried by `harden evaluate` on the same episodes, which are not those of the logs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harden.config.file import find_pipeline, load_config
from harden.stages.collect import collect
from harden.stages.evaluate import evaluate
from harden.stages.fit_policy import clone
from harden.storage.files import write_json
from harden.training.workspace import Workspace, versions

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
# logs as a deployed policy leaves them: nothing explores
LOGS = ["collect.min_std=0", "collect.correlation=0"]


def compare(seed: int, episodes: int, behaviour: str) -> dict[str, Any]:
    """Return what the logs hold, how well the clone predicts them, and how both policies do."""
    began = time.monotonic()
    config = load_config(find_pipeline(Path("ball-circle")), [f"seed={seed}", *LOGS])
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.named("clone", Path(folder))
        shard, _ = collect(config, place, episodes=episodes, behaviour=behaviour, policy_dir=RELEASED).work()
        done = clone(config, place).work()
        found = {
            name: evaluate(config, policy, ["natural"]).work()["results"][0]
            for name, policy in (("teacher", RELEASED), ("clone", done.folder))
        }
    logs = {"episodes": shard.episodes, "transitions": shard.transitions, "behaviour": behaviour}
    logs |= {"reward": shard.reward / shard.episodes, "cost": shard.cost / shard.episodes}
    kept = ("reward", "cost", "violation_rate")
    rolled_out = {name: {key: entry[key] for key in kept} for name, entry in found.items()}
    return {"seed": seed, "logs": logs, "fit": done.report, **rolled_out} | {
        "wall_time_s": round(time.monotonic() - began, 1)
    }


def main() -> None:
    """Compare over several seeds, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--episodes", type=int, default=40, help="episodes of logs")
    parser.add_argument("--behaviour", default="policy-sample", help="how the teacher acts in them")
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = []
    for seed in options.seeds:
        run = compare(seed, options.episodes, options.behaviour)
        runs.append(run)
        for name in ("teacher", "clone"):
            reward, cost = run[name]["reward"]["mean"], run[name]["cost"]["mean"]
            print(f"seed {seed} {name:<8} reward {reward:.1f} cost {cost:.2f}", flush=True)
    if options.json:
        command = f"python benchmarks/clone.py --json {options.json}"
        result = {"command": command, "task": "ball-circle", "runs": runs, "versions": versions()}
        write_json(options.json, result)
        print(f"-> {options.json}")


if __name__ == "__main__":
    main()
