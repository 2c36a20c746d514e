"""Are the critics right? Q values beside Monte Carlo returns on held-out roll-outs of a policy.

    python benchmarks/critics.py --json benchmarks/results/critics.json

Roll-outs of the released vanilla policy are collected, critics are fitted to them from nothing by the stage
itself, and judged on roll-outs from other seeds. Rows whose discounted future the time limit cut by more than
2 % do not count.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harden.checkpoint import load_critics, load_policy, save_policy
from harden.config import find_pipeline, load_config
from harden.data import open_dataset
from harden.evaluation.calibration import calibrate
from harden.files import write_json
from harden.progress import Reporter
from harden.stages.collect import collect
from harden.stages.fit_critics import fit_critics
from harden.stages.workspace import versions, workspace

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
HELD_OUT_SEED = 1


def judge(policy: Path, seed: int, episodes: int, steps: int, held_out: int) -> dict[str, Any]:
    """Return how right the critics are that are fitted to `episodes` roll-outs of a policy."""
    began = time.monotonic()
    config = load_config(find_pipeline(Path("ball-circle")), ["variant=cvpo", f"seed={seed}"])
    other = config.model_copy(update={"seed": seed + HELD_OUT_SEED})
    quiet, cpu = Reporter(quiet=True), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        place, apart = workspace("fitted", Path(folder)), workspace("held-out", Path(folder))
        # without its critics, or the fit would go on from them
        bare = Path(folder) / "policy"
        loaded = load_policy(policy)
        save_policy(bare, loaded.policy, None, loaded.about)
        collect(config, place, episodes=episodes, behaviour="policy-sample", policy_dir=bare, report=quiet)
        collect(other, apart, episodes=held_out, behaviour="policy-sample", policy_dir=bare, report=quiet)
        fit_critics(config, place, device=cpu, steps=steps, policy_dir=bare, report=quiet)
        rollouts = open_dataset(apart.data, config.task_row)
        critics, _ = load_critics(place.critics)
        found = calibrate(critics, rollouts.read(0, rollouts.info.transitions), config.critics.gamma)
    return {"seed": seed, **found, "wall_time_s": round(time.monotonic() - began, 1)}


def main() -> None:
    """Judge over several seeds, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=RELEASED)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 10])
    parser.add_argument("--episodes", type=int, default=300, help="episodes that the critics are fitted to")
    parser.add_argument("--steps", type=int, default=20_000, help="gradient steps")
    parser.add_argument("--held-out", type=int, default=100, help="episodes that they are judged on")
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    sizes = {"episodes": options.episodes, "steps": options.steps, "held_out": options.held_out}
    result = {
        "command": "python benchmarks/critics.py",
        "task": "ball-circle",
        **sizes,
        "runs": [judge(options.policy, seed, **sizes) for seed in options.seeds],
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
