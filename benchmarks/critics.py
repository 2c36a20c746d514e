"""Are the critics right? Q values beside Monte Carlo returns on held-out roll-outs of a policy.

    python benchmarks/critics.py --json benchmarks/results/critics.json

Roll-outs of a policy are collected, critics are fitted to them from nothing by the stage itself, and judged
at states and actions of other episodes, whose value is the mean return of several roll-outs from there
(calibration.py). Two policies: the released one, which hardly ever costs anything, so that
its Q_c has little to rank, and a reckless one, trained as if cost weighed nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from calibration import branch, calibrate

from harden.config.file import find_pipeline, load_config
from harden.config.sections import PLAIN_ROLL_OUTS
from harden.nets.saved import load_critics, load_policy, save_policy
from harden.stages.collect import collect
from harden.stages.fit_critics import fit_critics
from harden.stages.train import train
from harden.storage.files import write_json
from harden.training.workspace import Workspace, versions

RELEASED = Path(__file__).parents[1] / "checkpoints/released/ball-circle/cvpo"
RECKLESS = ("variant=cvpo", "estep.lam_max=0.001", "train.env_steps=12000")
N_STEP = 10
HELD_OUT_SEED = 1


def reckless_policy(folder: Path) -> Path:
    """Train for six refreshes without a limit, and return the policy's folder."""
    config = load_config(find_pipeline(Path("ball-circle")), RECKLESS)
    place = Workspace.named("reckless", folder)
    return train(config, place).work().policy


def judge(policy: Path, seed: int, episodes: int, steps: int, points: int, branches: int) -> dict[str, Any]:
    """Return how right the critics are that are fitted to `episodes` roll-outs of a policy."""
    began = time.monotonic()
    # one-step targets rank costs less well: their bootstrap is the noisy part (docs/experiments.md)
    keys = [
        "variant=cvpo",
        f"seed={seed}",
        f"critics.n_step_reward={N_STEP}",
        f"critics.n_step_cost={N_STEP}",
    ]
    # its own roll-outs: n-step targets do not correct for wider ones
    keys += [f"collect.{name}={value}" for name, value in PLAIN_ROLL_OUTS.items()]
    config = load_config(find_pipeline(Path("ball-circle")), keys)
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.named("fitted", Path(folder))
        # without its critics, or the fit would go on from them
        bare = Path(folder) / "policy"
        loaded = load_policy(policy)
        save_policy(bare, loaded.policy, None, loaded.manifest)
        collect(config, place, episodes=episodes, behaviour="policy-sample", policy_dir=bare).work()
        fit_critics(config, place, steps=steps, policy_dir=bare).work()
        critics, _ = load_critics(place.critics)
    gammas, other = (config.critics.gamma_reward, config.critics.gamma_cost), seed + HELD_OUT_SEED
    held_out = branch(loaded.policy, config.task_row, gammas, points=points, branches=branches, seed=other)
    found = calibrate(critics, held_out)
    return {"seed": seed, **found, "wall_time_s": round(time.monotonic() - began, 1)}


def main() -> None:
    """Judge both policies over several seeds, print, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 10])
    parser.add_argument("--episodes", type=int, default=300, help="episodes that the critics are fitted to")
    parser.add_argument("--steps", type=int, default=8_000, help="gradient steps")
    parser.add_argument("--points", type=int, default=100, help="states and actions that they are judged at")
    parser.add_argument("--branches", type=int, default=24, help="roll-outs from each of them")
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = {name: getattr(options, name) for name in ("episodes", "steps", "points", "branches")}
    with tempfile.TemporaryDirectory() as folder:
        policies = {"released": RELEASED, "reckless": reckless_policy(Path(folder))}
        judged = {
            name: [judge(policy, seed, **sizes) for seed in options.seeds]
            for name, policy in policies.items()
        }
    result = {
        "command": "python benchmarks/critics.py",
        "task": "ball-circle",
        "reckless": "harden train " + " ".join(f"--set {key}" for key in RECKLESS),
        "n_step": N_STEP,
        **sizes,
        "policies": judged,
        "versions": versions(),
    }
    print(json.dumps(result, indent=2))
    if options.json:
        write_json(options.json, result)


if __name__ == "__main__":
    main()
