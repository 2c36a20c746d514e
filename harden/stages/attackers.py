"""What the attacks of an evaluation ask beside the policy: critics, its own or fitted, and adversaries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harden.attacks import ATTACKS, LinearAdversary
from harden.attacks.ball import Norm
from harden.config.pipeline import PipelineConfig
from harden.errors import MissingInputError
from harden.evaluation.attacked import Victim
from harden.evaluation.entries import Trial
from harden.evaluation.episode_search import search_adversary
from harden.evaluation.planner import plan_adversary
from harden.nets import Critics, GaussianPolicy
from harden.nets.saved import LoadedPolicy, load_critics, module_digest, save_critics
from harden.progress import Reporter
from harden.seeds import derive
from harden.stages.independent import fit_config, independent_critics, key_of
from harden.storage.folders import require_folder

_OF_POLICY = "the policy's own"
# what is kept of an earlier way to train the adversary is not taken for today's
_PLANNER = 2


def arm(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    attacks: Sequence[str],
    trials: Sequence[Trial],
    folder: Path,
    *,
    device: torch.device,
    report: Reporter,
) -> tuple[Victim, dict[str, Any]]:
    """Return the policy with all that the attacks ask, and what an evaluation says of it.

    Args:
        attacks: names; nothing is fitted or searched that none of them asks.
        trials: an adversary is found for each radius among them.
        folder: where critics that are fitted here are kept.

    Returns:
        The victim, and {"critics": {"own", ...}, "independent_critics", "learned", "critic_free"} as far as
        there is something to say.
    """
    rows = [ATTACKS[name] for name in attacks if name in ATTACKS]
    asked = {row.critics for row in rows}
    radii = sorted({trial.epsilon for trial in trials if trial.epsilon > 0})
    policy, own = loaded.policy, loaded.critics
    said: dict[str, Any] = {}
    which: dict[str, Any] = {"own": _OF_POLICY if own is not None else None}
    options: dict[str, Any] = {"device": device, "report": report}
    if own is None and "own" in asked:
        report.say("the policy brings no critics: fitting some to benign roll-outs of it")
        own, about = independent_critics(config, loaded, folder, purpose="own", **options)
        which["own"] = "fitted here to benign roll-outs of the policy"
        which |= {key: about[key] for key in ("surrogate_error", "cost_seen") if key in about}
    independent = None
    if "independent" in asked:
        independent, about = independent_critics(config, loaded, folder, **options)
        digests = {"digest": module_digest(independent), "data_digest": about["inputs"]["data"]}
        seen = {"cost_seen": about["cost_seen"]} if "cost_seen" in about else {}
        said["independent_critics"] = {"folder": str(folder)} | digests | seen
    learned: dict[float, Critics] = {}
    if "learned" in asked:
        said["learned"] = []
        for radius in radii:
            learned[radius], history = _planned(config, loaded, radius, trials[0], folder, **options)
            said["learned"].append(history)
    found: dict[float, LinearAdversary] = {}
    if any(row.plays for row in rows):
        norm = trials[0].strength.norm
        found, said["critic_free"] = _searched(config, policy, radii, norm, **options)
    return Victim(policy, own, independent, learned, found), {"critics": which} | said


def _searched(
    config: PipelineConfig,
    policy: GaussianPolicy,
    radii: Sequence[float],
    norm: Norm,
    *,
    device: torch.device,
    report: Reporter,
) -> tuple[dict[float, LinearAdversary], list[dict[str, Any]]]:
    """Return the adversaries that the simulator's cost alone found, by radius, and how their search went."""
    found, history = dict[float, LinearAdversary](), list[dict[str, Any]]()
    budget = config.evaluate.simulator_episodes
    for radius in radii:
        found[radius], costs = search_adversary(
            policy,
            config.task_row,
            epsilon=radius,
            norm=norm,
            budget=budget,
            workers=config.collect.workers,
            seed=derive(config.seed, "critic-free") % 2**32,
            device=device,
            report=report,
        )
        seen = {"costs": costs, "cost_seen": max(costs)}
        history.append({"epsilon": radius, "episodes": budget} | seen)
    return found, history


def _planned(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    epsilon: float,
    trial: Trial,
    folder: Path,
    *,
    device: torch.device,
    report: Reporter,
) -> tuple[Critics, dict[str, Any]]:
    """Return the critics of an adversary trained against the policy: those kept, or trained now."""
    fit, options = fit_config(config, loaded, "learned"), config.evaluate
    sizes = [options.learned_rounds, options.learned_episodes, options.learned_steps]
    kept = folder / f"learned-{key_of(fit, loaded, _PLANNER, epsilon, trial.strength.norm, sizes)}"
    try:
        critics, about = load_critics(kept)
        return critics, about["planned"]
    except MissingInputError:
        require_folder(folder)
        report.say(f"training an adversary at epsilon {epsilon:g} -> {kept}")
    found = plan_adversary(
        loaded.policy, fit, epsilon=epsilon, norm=trial.strength.norm, device=device, report=report
    )
    history = {
        "epsilon": epsilon,
        "episodes": (options.learned_rounds + 1) * options.learned_episodes,
        "steps": options.learned_rounds * options.learned_steps,
        "costs": found.costs,
        "cost_seen": found.seen,
        "best_round": found.best,
        "digest": module_digest(found.critics),
    }
    save_critics(kept, found.critics.cpu(), {"planned": history})
    return load_critics(kept)[0], history
