"""A small sweep of the benchmark."""

from __future__ import annotations

from support.commands import SMALL

TINY = SMALL | {
    "train.env_steps": "800",
    "evaluate.episodes": "1",
    "evaluate.attack_steps": "1",
    # no on-policy run survives this, and no other run has it
    "ppo.value_learning_rate": "1e9",
}
WORDS = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
SWEEP = ["benchmark", "table5", "--task", "ball-circle", "--variant", "cvpo,ppol", "--seeds", "0", *WORDS]
SWEEP += ["--label", "tiny", "--workers", "2"]
