"""What the attacks of an evaluation ask beside the policy: critics and adversaries, kept or made here."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harden.attacks import ATTACKS
from harden.config.pipeline import PipelineConfig, make_config
from harden.config.sections import PLAIN_ROLL_OUTS
from harden.data import open_dataset
from harden.errors import MissingInputError
from harden.evaluation.entries import Trial
from harden.evaluation.episode_search import search_adversary
from harden.evaluation.planner import plan_adversary
from harden.evaluation.trials import Victim
from harden.nets import Critics
from harden.nets.saved import LoadedPolicy, load_critics, module_digest, save_critics, save_policy
from harden.policies.foreign import OpaquePolicy
from harden.progress import Reporter
from harden.seeds import derive
from harden.stages.collect import collect, open_collect
from harden.stages.fit_critics import fit_critics, open_fit_critics
from harden.stages.surrogate import roll_out, surrogate
from harden.storage.files import require_folder
from harden.training.imitation import require_episodes
from harden.training.workspace import Workspace, describe

# what is kept of an earlier way to fit is not taken for today's
_FITTED, _PLANNED = 2, 2
# one-step targets rank costs less well: their bootstrap is the noisy part (docs/experiments.md)
_N_STEP = 10
# what an evaluation says of critics that were fitted for it
_TOLD = ("cost_seen", "surrogate_error", "surrogate_share")


def prepare_attacks(
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
    wanted = {row.critics for row in rows}
    radii = sorted({trial.epsilon for trial in trials if trial.epsilon > 0})
    norm, own = trials[0].strength.norm, loaded.critics
    options: dict[str, Any] = {"device": device, "report": report}
    made: dict[str, Any] = {"critics": {"own": None if own is None else "the policy's own"}}
    victim = Victim(loaded.policy, own)
    if own is None and "own" in wanted:
        critics, about = fitted_critics(config, loaded, folder, "own", **options)
        victim = victim._replace(critics=critics)
        made["critics"] = {"own": "fitted here to benign roll-outs of the policy"}
        made["critics"] |= {key: about[key] for key in _TOLD if key in about}
    if "independent" in wanted:
        critics, about = fitted_critics(config, loaded, folder, "independent", **options)
        victim = victim._replace(independent=critics)
        made["independent_critics"] = {"folder": str(folder), "digest": module_digest(critics)}
        made["independent_critics"] |= {key: about[key] for key in _TOLD if key in about}
    if "learned" in wanted:
        planned = {r: _planned(config, loaded, r, norm, folder, **options) for r in radii}
        victim = victim._replace(learned={radius: critics for radius, (critics, _) in planned.items()})
        made["learned"] = [about["planned"] for _, about in planned.values()]
    if any(row.plays for row in rows):
        budget = config.evaluate.simulator_episodes
        searched = {
            radius: search_adversary(
                loaded.policy,
                config.task_row,
                epsilon=radius,
                norm=norm,
                budget=budget,
                workers=config.collect.workers,
                seed=derive(config.seed, "critic-free") % 2**32,
                **options,
            )
            for radius in radii
        }
        victim = victim._replace(adversaries={r: adversary for r, (adversary, _) in searched.items()})
        made["critic_free"] = [
            {"epsilon": radius, "episodes": budget, "costs": costs, "cost_seen": max(costs)}
            for radius, (_, costs) in searched.items()
        ]
    return victim, made


def fit_config(config: PipelineConfig, loaded: LoadedPolicy, purpose: str) -> PipelineConfig:
    """Return the configuration of a fit: the pipeline's critics, beside the policy as it is.

    A seed of its own draws other episodes and other first weights than training did, also with equal seeds.

    Args:
        purpose: what the critics are for, which names that seed.
    """
    tree: dict[str, Any] = config.model_dump() | {"variant": "cvpo", "preset": "none"}
    tree["seed"] = derive(config.seed, purpose) % 2**32
    if not isinstance(loaded.policy, OpaquePolicy):
        given = loaded.policy.architecture
        networks = {name: given[name] for name in ("init_std", "min_std", "max_std")}
        tree["networks"] |= networks | {"policy_hidden": given["hidden"]}
    tree["critics"] |= {"n_step_reward": _N_STEP, "n_step_cost": _N_STEP}
    # the noise in half of the episodes: a training at a margin does not choose it
    tree["adversary"]["epsilon"] = config.task_row.epsilon
    # the policy as it is, without what training adds to explore
    tree["collect"] |= PLAIN_ROLL_OUTS
    return make_config(tree)


def key_of(config: PipelineConfig, loaded: LoadedPolicy, *more: Any) -> str:
    """Return what a fit to a policy depends on, as a folder's name.

    Args:
        config: the fit's own.
        more: what this kind of fit depends on beside policy, task, seed, critics and networks; plain values.
    """
    parts = [
        loaded.manifest.get("policy_digest") or module_digest(loaded.policy),
        # the row and not its name: a task of one's own keeps that when its radius changes
        *(config.task_row._asdict(), config.seed),
        config.critics.model_dump(mode="json"),
        config.networks.model_dump(mode="json"),
        *more,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _kept(
    folder: Path, fit: Callable[[], tuple[Critics, dict[str, Any]]], report: Reporter
) -> tuple[Critics, dict[str, Any]]:
    """Return the critics that a folder keeps, fitted first where it keeps none."""
    try:
        return load_critics(folder)
    except MissingInputError:
        require_folder(folder.parent)
    report.say(f"fitting critics for the attacks -> {folder}")
    critics, about = fit()
    save_critics(folder, critics.cpu(), about)
    return load_critics(folder)


def fitted_critics(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    folder: Path,
    purpose: str,
    *,
    device: torch.device,
    report: Reporter,
) -> tuple[Critics, dict[str, Any]]:
    """Return critics of a frozen policy, fitted to benign roll-outs of it, or those of an earlier call.

    Half of the episodes act by samples, half under random noise on the observations as well: a policy that
    is safe shows its critics no cost otherwise. Of somebody else's policy the episodes are its own, and the
    fit's next actions those of a policy of ours that is fitted to it first.

    Args:
        config: gives the task, the seed, the critics' settings and the sizes (`evaluate.independent_*`).
        loaded: the policy; its own critics are not looked at.
        folder: where fits are kept, one a policy, seed and setting.
        purpose: names the seed: critics for two purposes are independent of each other.

    Returns:
        The critics, and what is known of them.

    Raises:
        InputError: too few episodes; DamagedFileError: what is kept there was altered; StorageError: nothing
            can be kept there.
    """
    fit, options = fit_config(config, loaded, purpose), config.evaluate
    sizes: list[Any] = [options.independent_episodes, options.independent_steps]
    more = [fit.train_epsilon, sizes, fit.collect.envs]
    if isinstance(loaded.policy, OpaquePolicy):
        episodes = options.independent_episodes
        named = f"evaluate.independent_episodes is {episodes}, and somebody else's policy is imitated first"
        require_episodes(episodes, named)
        more.append(_FITTED)
    return _kept(folder / key_of(fit, loaded, *more), lambda: _fitted(fit, loaded, device, report), report)


def _fitted(
    fit: PipelineConfig, loaded: LoadedPolicy, device: torch.device, report: Reporter
) -> tuple[Critics, dict[str, Any]]:
    """Collect the episodes in a folder of their own, and return the critics that are fitted to them."""
    noisy = fit.evaluate.independent_episodes // 2
    behaviours = (("policy-sample", fit.evaluate.independent_episodes - noisy), ("policy-noise", noisy))
    with tempfile.TemporaryDirectory() as scratch:
        workspace, bare = Workspace.named("independent", Path(scratch)), Path(scratch) / "bare"
        more: dict[str, Any] = {}
        if isinstance(loaded.policy, OpaquePolicy):
            roll_out(fit, loaded.policy, workspace.data, behaviours, report)
            copied = surrogate(fit, loaded.policy, workspace.data, report)
            more = {"surrogate_error": copied.error, "surrogate_share": copied.share}
            save_policy(bare, copied.policy, None, describe(fit))
        else:
            # without its critics, or the fit would go on from them
            save_policy(bare, loaded.policy, None, loaded.manifest)
            for behaviour, episodes in behaviours:
                if episodes:
                    opened = open_collect(
                        fit, workspace, episodes=episodes, behaviour=behaviour, policy_dir=bare
                    )
                    collect(opened, report)
        steps = fit.evaluate.independent_steps
        fit_critics(open_fit_critics(fit, workspace, device=device, steps=steps, policy_dir=bare), report)
        critics, about = load_critics(workspace.critics)
        info = open_dataset(workspace.data, fit.task_row).info
        # critics that have never seen a cost know of no danger
        more["cost_seen"] = info.mean_cost
    return critics, about | more


def _planned(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    epsilon: float,
    norm: Any,
    folder: Path,
    *,
    device: torch.device,
    report: Reporter,
) -> tuple[Critics, dict[str, Any]]:
    """Return the critics of an adversary trained against the policy: those kept, or trained now."""
    fit, options = fit_config(config, loaded, "learned"), config.evaluate
    sizes = [options.learned_rounds, options.learned_episodes, options.learned_steps]

    def train() -> tuple[Critics, dict[str, Any]]:
        adversary = plan_adversary(
            loaded.policy, fit, epsilon=epsilon, norm=norm, device=device, report=report
        )
        history = {
            "epsilon": epsilon,
            "episodes": (options.learned_rounds + 1) * options.learned_episodes,
            "steps": options.learned_rounds * options.learned_steps,
            "costs": adversary.costs,
            "cost_seen": adversary.seen,
            "best_round": adversary.best,
            "digest": module_digest(adversary.critics),
        }
        return adversary.critics, {"planned": history}

    return _kept(folder / f"learned-{key_of(fit, loaded, _PLANNED, epsilon, norm, sizes)}", train, report)
