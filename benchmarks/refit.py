"""Fit critics to each released policy as it is published, and show MC under both sets.

    python benchmarks/refit.py --json benchmarks/results/refit.json [--ship] [TASK/VARIANT ...]

Roll-outs are benign, by the policy and as wide as its pipeline's; the fit goes on from the critics that the
release had. With --ship the release takes the new set, unless its own attacks harder. Training ends with such
a fit by itself; this is for policies that were released before it did.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from harden.config.file import find_pipeline, load_config
from harden.nets.saved import load_policy, module_digest, save_policy
from harden.stages.collect import collect
from harden.stages.evaluate import evaluate
from harden.stages.fit_critics import fit_critics
from harden.storage.files import read_json, write_json
from harden.training.workspace import Workspace, versions

RELEASED = Path(__file__).parents[1] / "checkpoints/released"
# costs an episode that differ by less are those of equal attacks
NOISE = 0.1
CPU = torch.device("cpu")


def refit(release: Path, episodes: int, steps: int, tried: int, ship: bool) -> dict[str, Any]:
    """Return the MC cost of a release under the critics that it has and under new ones.

    Args:
        release: its folder.
        episodes: benign roll-outs that the critics learn from.
        steps: gradient steps.
        tried: episodes of each evaluation.
        ship: whether the release takes the new critics where they attack at least as hard.
    """
    began = time.monotonic()
    task, variant = release.parent.name, release.name
    keys = [f"variant={variant}", f"evaluate.episodes={tried}", "evaluate.attack_steps=50"]
    old = load_policy(release)
    # the policy as it is, whatever its pipeline says of a new one today
    own = {name: old.policy.architecture[name] for name in ("init_std", "min_std", "max_std", "obs_scale")}
    keys += [f"networks.{name}={value}" for name, value in own.items()]
    config = load_config(find_pipeline(Path(task)), keys)
    with tempfile.TemporaryDirectory() as folder:
        place = Workspace.named("refit", Path(folder))
        acting = {"episodes": episodes, "behaviour": "policy-sample", "policy_dir": release}
        shard, _ = collect(config, place, **acting).work()
        fit_critics(config, place, steps=steps, policy_dir=release).work()
        new = load_policy(place.policy)
        assert module_digest(new.policy) == module_digest(old.policy)
        found = {
            name: _costs(evaluate(config, path, ["natural", "mc"]).work())
            for name, path in (("shipped", release), ("refitted", place.policy))
        }
    harder = found["refitted"]["mc"]["cost"] >= found["shipped"]["mc"]["cost"] - NOISE
    if ship and harder:
        of_critics = {"episodes": episodes, "steps": steps, "made_by": "python benchmarks/refit.py --ship"}
        save_policy(release, old.policy, new.critics, old.manifest | {"refitted_critics": of_critics})
    return {
        "task": task,
        "variant": variant,
        "policy_digest": module_digest(old.policy),
        "collected": {"episodes": shard.episodes, "reward": shard.reward / shard.episodes},
        "epsilon": config.eval_epsilon,
        "restarts": config.evaluate.restarts,
        **found,
        "takes": "refitted" if harder else "shipped",
        "wall_time_s": round(time.monotonic() - began, 1),
    }


def _costs(evaluation: dict[str, Any]) -> dict[str, Any]:
    return {
        entry["attack"]: {"reward": entry["reward"]["mean"], "cost": entry["cost"]["mean"]}
        for entry in evaluation["results"]
    }


def main() -> None:
    """Refit the releases that are named, or all, print, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("releases", nargs="*", help="such as ball-circle/safer-long; all where none is named")
    parser.add_argument("--episodes", type=int, default=100, help="benign roll-outs of each")
    parser.add_argument("--steps", type=int, default=3000, help="gradient steps of the critics")
    parser.add_argument("--tried", type=int, default=50, help="episodes of each evaluation")
    parser.add_argument("--ship", action="store_true", help="put the new critics into the releases")
    parser.add_argument("--json", type=Path, help="write the result there; rows of other releases stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    known = sorted(
        f"{path.parent.parent.name}/{path.parent.name}" for path in RELEASED.glob("*/*/manifest.json")
    )
    rows: dict[str, Any] = {}
    if options.json and options.json.is_file():
        rows = read_json(options.json, "benchmarks/refit.py")["releases"]
    sizes = {"episodes": options.episodes, "steps": options.steps, "tried": options.tried}
    for name in options.releases or known:
        rows[name] = refit(RELEASED / name, ship=options.ship, **sizes)
        print(name, json.dumps(rows[name]), flush=True)
        if options.json:
            whole = {"command": "python benchmarks/refit.py --ship", **sizes, "releases": rows}
            write_json(options.json, whole | {"versions": versions()})


if __name__ == "__main__":
    main()
