"""evaluate: a policy's reward and cost, natural and under attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harden.attacks import PaperStrength, Strength
from harden.checkpoint import LoadedPolicy, load_policy
from harden.config import PipelineConfig
from harden.envs.rollout import Progress
from harden.errors import InputError
from harden.evaluation.attacked import Trial, evaluate_policy
from harden.files import write_json
from harden.progress import Reporter
from harden.stages.workspace import versions

FORMAT_VERSION = 1
_SAID_OF_POLICY = ("variant", "policy_digest", "critics_digest")


def _check_task(config: PipelineConfig, loaded: LoadedPolicy, folder: Path) -> None:
    task, given = config.task_row, loaded.policy.architecture
    if (given["obs_dim"], given["act_dim"]) != (task.obs_dim, task.act_dim):
        raise InputError(
            f"the policy in {folder} takes {given['obs_dim']} coordinates and gives {given['act_dim']}",
            f"task '{task.name}' has {task.obs_dim} and {task.act_dim}: name its pipeline with -p",
        )


def _trial(config: PipelineConfig) -> Trial:
    options = config.evaluate
    strength: Strength | PaperStrength
    if options.attack_style == "paper":
        tolerances = options.stop_value, options.stop_move
        strength = PaperStrength(options.attack_steps or 200, options.paper_rate, *tolerances, options.norm)
    else:
        strength = Strength(options.attack_steps or 50, options.restarts, options.step_share, options.norm)
    return Trial(options.episodes, config.eval_epsilon, strength, options.action, config.seed)


def evaluate(
    config: PipelineConfig,
    policy_dir: Path,
    attacks: list[str],
    *,
    device: torch.device,
    outs: Sequence[Path] = (),
    report: Reporter,
) -> dict[str, Any]:
    """Try a policy and write the evaluation file.

    Args:
        policy_dir: the policy, with the critics that it is attacked with.
        attacks: names, natural first.
        outs: JSON files to write it to.

    Returns:
        The evaluation, as in the file.

    Raises:
        MissingInputError: no such policy; DamagedFileError: not one of ours.
        InputError: a policy of another task, or a gradient attack on a policy without critics.
    """
    began = time.monotonic()
    loaded = load_policy(policy_dir, "harden train")
    _check_task(config, loaded, policy_dir)
    task, trial = config.task_row, _trial(config)
    steps_an_attack = trial.episodes * task.horizon
    with report.track("evaluate", steps_an_attack * len(attacks), "steps") as track:

        def on_step(name: str, now: Progress) -> None:
            before = attacks.index(name) * steps_an_attack
            track(before + now.steps, f"{name}: {now}")

        results = evaluate_policy(
            loaded.policy,
            loaded.critics,
            task,
            attacks,
            trial,
            workers=config.collect.workers,
            device=device,
            on_step=on_step,
        )
    evaluation = {
        "format_version": FORMAT_VERSION,
        "task": task.name,
        "env_id": task.env_id,
        "policy": {"path": str(policy_dir)} | {name: loaded.about.get(name) for name in _SAID_OF_POLICY},
        "seed": trial.seed,
        "episodes": trial.episodes,
        "cost_limit": task.cost_limit,
        "action": trial.action,
        "results": results,
        "wall_time_s": round(time.monotonic() - began, 1),
        "versions": versions(),
    }
    for out in outs:
        write_json(out, evaluation)
    return evaluation
