"""Small fixed-seed trainings of each kind, and a digest of the policy that each of them publishes.

A change of structure must leave every digest as it was: run the command before and after it, on the same
machine.

    python benchmarks/policy_digests.py --json before.json
    python benchmarks/policy_digests.py --same-as before.json

The commands run the package that this file stands beside, and the digest is made from the stored tensors
alone, so that the check does not depend on the code that it checks.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "networks.policy_hidden": "[32, 32]",
    "networks.critic_hidden": "[32, 32]",
    "networks.init_std": "0.5",
    "networks.max_std": "1.0",
    "collect.envs": "4",
    "collect.workers": "0",
    "collect.episodes": "4",
    "collect.min_std": "0.0",
    "collect.correlation": "0.5",
    "collect.mean_share": "0.5",
    "critics.batch": "64",
    "critics.gamma_reward": "0.97",
    "critics.scale_rewards": "false",
    "critics.n_step_reward": "3",
    "critics.steps": "100",
    "estep.particles": "8",
    "estep.states": "300",
    "estep.lam_max": "8.0",
    "estep.limit_start": '"limit"',
    "mstep.steps": "60",
    "mstep.learning_rate": "0.001",
    "mstep.learning_rate_end": "0.001",
    "mstep.kl_mean": "0.02",
    "mstep.kl_std": "0.002",
    "imitation.steps": "200",
    "imitation.check_every": "50",
    "train.env_steps": "4800",
    "train.episodes": "4",
    "train.warm_up_episodes": "4",
    "train.warm_up_critic_steps": "50",
    "train.rounds": "20",
    "train.final_critic_steps": "20",
    "train.states": "64",
    "train.policy_steps": "4",
    "train.average": "0.3",
    "adversary.ramp_start": "0.0",
    "adversary.ramp": "0.5",
    "adversary.steps": "3",
    "adversary.lam_max": "8.0",
    "world.hidden": "[32]",
    "world.first_steps": "50",
    "world.steps": "20",
    "world.chains": "20",
    "world.length": "10",
    "world.every": "10",
    "offline.refreshes": "3",
    "offline.world_steps": "600",
    "offline.length": "20",
    "offline.calibrated": "1e6",
    "ppo.actor_steps": "20",
    "ppo.value_steps": "20",
}
# kind: (pipeline's name, its variant, commands)
KINDS: dict[str, tuple[str, list[str]]] = {
    "online safer": ("safer", ["train"]),
    "online safer-long": ("safer-long", ["train"]),
    "online safer-model": ("safer-model", ["train"]),
    "online adv-em-cvpo": ("adv-em-cvpo", ["train"]),
    "on-policy sa-ppol-mc": ("sa-ppol-mc", ["train"]),
    "offline safer-model": (
        "safer-model",
        ["collect --episodes 20 --behaviour random", "train --offline --set cost_limit=200"],
    ),
    "by hand safer": ("safer", ["collect", "fit-critics", "e-step", "fit-policy"]),
    "clone": ("safer", ["collect --behaviour random", "fit-policy --clone"]),
}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's tensors: names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, values in sorted(load_file(path).items()):
        whole.update(f"{name} {values.dtype} {values.shape} ".encode() + values.tobytes())
    return whole.hexdigest()


def run(kind: str, folder: Path) -> dict[str, str]:
    """Run a kind's commands in a folder of their own; return the digests of the policy and its critics."""
    variant, commands = KINDS[kind]
    pipeline = folder / "same.toml"
    pipeline.write_text(f'task = "ball-circle"\nvariant = "{variant}"\n')
    settings = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
    for command in commands:
        words = [sys.executable, "-m", "harden", *command.split(), "-p", str(pipeline), "--quiet", *settings]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=_environment())
    policy = folder / "checkpoints" / "same" / "policy"
    return {path.stem: digest(path) for path in sorted(policy.glob("*.safetensors"))}


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def main() -> int:
    """Print each kind's digest; with --same-as, return 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the digests there")
    parser.add_argument("--same-as", type=Path, help="a file that --json wrote: compare with it")
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    before = json.loads(given.same_as.read_text()) if given.same_as else {}
    found, differing = {}, []
    for kind in given.kinds:
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = run(kind, Path(folder))
        same = found[kind] == before.get(kind)
        if before and not same:
            differing.append(kind)
        print(
            f"{kind:<24}{found[kind]['policy'][:16]}  {('same' if same else 'DIFFERS') if before else ''}",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
