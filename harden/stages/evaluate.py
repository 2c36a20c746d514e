"""evaluate: a policy's reward and cost, natural and under attack."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harden.attacks import ATTACKS, PaperStrength, Strength
from harden.checkpoint import LoadedPolicy, load_policy, module_digest
from harden.config import PipelineConfig
from harden.envs.make import require_environment
from harden.envs.rollout import Progress
from harden.errors import InputError
from harden.evaluation.attacked import Tried, Victim, evaluate_policy, plan
from harden.evaluation.checks import check
from harden.evaluation.entries import Trial
from harden.files import write_json
from harden.nets import Critics
from harden.progress import Reporter
from harden.stages.independent import independent_critics
from harden.stages.workspace import versions
from harden.tasks import Task

FORMAT_VERSION = 1
_SAID_OF_POLICY = ("variant", "policy_digest", "critics_digest", "offline")


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
        steps, shared = options.attack_steps or 200, (options.norm, options.queries)
        strength = PaperStrength(steps, options.paper_rate, *tolerances, *shared)
    else:
        steps, shared = options.attack_steps or 50, (options.norm, options.queries)
        strength = Strength(steps, options.restarts, options.step_share, *shared)
    share = options.amad_share
    return Trial(options.episodes, config.eval_epsilon, strength, options.action, config.seed, share)


def _independent(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    attacks: Sequence[str],
    folder: Path,
    device: torch.device,
    report: Reporter,
) -> tuple[Critics | None, dict[str, Any]]:
    """Return independent critics where an attack asks them, and what the evaluation says of them."""
    if not any(ATTACKS[name].critics == "independent" for name in attacks if name in ATTACKS):
        return None, {}
    critics, about = independent_critics(config, loaded, folder, device=device, report=report)
    said = {"digest": module_digest(critics), "data_digest": about["inputs"]["data"]}
    return critics, {"independent_critics": {"folder": str(folder)} | said}


def threat_model(trials: Sequence[Trial], task: Task, tried: Tried) -> dict[str, Any]:
    """Return what the attacker may do, in raw units and beside how much each observation varies.

    The standard deviations are those over the states of the natural episodes.
    """
    std = tried.natural_obs.double().std(0)
    unit = task.epsilon_unit or (1.0,) * task.obs_dim
    return {
        "norm": trials[0].strength.norm,
        "centre": "the clean observation",
        "units": "raw observation, times epsilon_unit" if task.epsilon_unit else "raw observation",
        "epsilon_unit": list(unit),
        "observation_std": std.tolist(),
        "epsilon_over_std": [
            {
                "epsilon": e,
                "ratio": [e * u / s if s > 0 else None for u, s in zip(unit, std.tolist(), strict=True)],
            }
            for e in sorted({trial.epsilon for trial in trials})
        ],
    }


def _try(
    config: PipelineConfig,
    victim: Victim,
    attacks: Sequence[str],
    trials: Sequence[Trial],
    device: torch.device,
    report: Reporter,
) -> Tried:
    """Run the episodes and say how far they are."""
    steps_a_run = config.evaluate.episodes * config.task_row.horizon
    with report.track("evaluate", steps_a_run * len(plan(attacks, trials)), "steps") as track:

        def on_step(done: int, name: str, now: Progress) -> None:
            track(done * steps_a_run + now.steps, f"{name}: {now}")

        workers, task = config.collect.workers, config.task_row
        return evaluate_policy(victim, task, attacks, trials, workers=workers, device=device, on_step=on_step)


def evaluate(
    config: PipelineConfig,
    policy_dir: Path,
    attacks: list[str],
    *,
    device: torch.device,
    also: Sequence[PipelineConfig] = (),
    independent: Path | None = None,
    outs: Sequence[Path] = (),
    report: Reporter,
) -> dict[str, Any]:
    """Try a policy and write the evaluation file.

    Args:
        config: task, seed, and how to attack.
        policy_dir: the policy, with the critics that it is attacked with.
        attacks: names, natural first.
        also: further configurations to attack by on the same episodes, as `variations` makes them.
        independent: where independently trained critics are kept, beside the policy where not given.
        outs: JSON files to write it to.

    Returns:
        The evaluation, as in the file.

    Raises:
        MissingInputError: no such policy; DamagedFileError: not one of ours.
        InputError: a policy of another task, or a gradient attack on a policy without critics.
    """
    began = time.monotonic()
    require_environment(config.task_row)
    loaded = load_policy(policy_dir, "harden train")
    _check_task(config, loaded, policy_dir)
    trials = [_trial(one) for one in (config, *also)]
    folder = independent or policy_dir / "independent"
    rivals, about_rivals = _independent(config, loaded, attacks, folder, device, report)
    victim = Victim(loaded.policy, loaded.critics, rivals)
    tried = _try(config, victim, attacks, trials, device, report)
    about_policy = {name: loaded.about.get(name) for name in _SAID_OF_POLICY}
    evaluation = {
        "format_version": FORMAT_VERSION,
        "task": config.task_row.name,
        "env_id": config.task_row.env_id,
        "policy": {"path": str(policy_dir)} | about_policy,
        "seed": config.seed,
        "episodes": config.evaluate.episodes,
        "cost_limit": config.task_row.cost_limit,
        "action": config.evaluate.action,
        "results": tried.entries,
        "warnings": check(tried.entries),
        "threat_model": threat_model(trials, config.task_row, tried),
        **about_rivals,
        "wall_time_s": round(time.monotonic() - began, 1),
        "versions": versions(),
    }
    for out in outs:
        write_json(out, evaluation)
    return evaluation
