"""Critics fitted for an evaluation: they owe the policy's own nothing, not data, weights or seed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from harden.config.pipeline import PipelineConfig, make_config
from harden.config.sections import PLAIN_ROLL_OUTS
from harden.data import open_dataset
from harden.errors import MissingInputError
from harden.nets import Critics
from harden.nets.saved import LoadedPolicy, load_critics, module_digest, save_critics, save_policy
from harden.policies.opaque import OpaquePolicy
from harden.progress import Reporter
from harden.seeds import derive
from harden.stages.agents import roll_out, surrogate
from harden.stages.collect import collect, open_collect
from harden.stages.fit_critics import fit_critics, open_fit_critics
from harden.storage.folders import require_folder
from harden.training.imitation import require_episodes
from harden.training.workspace import Workspace, describe

# one-step targets rank costs less well: their bootstrap is the noisy part (docs/experiments.md)
_N_STEP = 10


def fit_config(config: PipelineConfig, loaded: LoadedPolicy, purpose: str = "independent") -> PipelineConfig:
    """Return the configuration of the fit: the pipeline's critics, beside the policy as it is.

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
    said = [
        loaded.about.get("policy_digest") or module_digest(loaded.policy),
        # the row and not its name: a task of one's own keeps that when its radius changes
        *(config.task_row._asdict(), config.seed),
        config.critics.model_dump(mode="json"),
        config.networks.model_dump(mode="json"),
        *more,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _behaviours(episodes: int) -> tuple[tuple[str, int], ...]:
    """Return how many of the episodes the policy acts in by samples, and how many under noise as well."""
    noisy = episodes // 2
    return ("policy-sample", episodes - noisy), ("policy-noise", noisy)


def independent_critics(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    folder: Path,
    *,
    purpose: str = "independent",
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
    if isinstance(loaded.policy, OpaquePolicy):
        episodes = options.independent_episodes
        named = f"evaluate.independent_episodes is {episodes}, and somebody else's policy is imitated first"
        require_episodes(episodes, named)
    sizes = [options.independent_episodes, options.independent_steps]
    kept = folder / key_of(fit, loaded, fit.train_epsilon, sizes, fit.collect.envs)
    try:
        return load_critics(kept)
    except MissingInputError:
        require_folder(folder)
        report.say(f"fitting {purpose} critics to {options.independent_episodes} episodes -> {kept}")
    save_critics(kept, *_fitted(fit, loaded, device, report))
    return load_critics(kept)


def _fitted(
    fit: PipelineConfig, loaded: LoadedPolicy, device: torch.device, report: Reporter
) -> tuple[Critics, dict[str, Any]]:
    """Collect the episodes in a folder of their own, and return the critics that are fitted to them."""
    behaviours = _behaviours(fit.evaluate.independent_episodes)
    with tempfile.TemporaryDirectory() as scratch:
        place, bare = Workspace.named("independent", Path(scratch)), Path(scratch) / "bare"
        more: dict[str, Any] = {}
        if isinstance(loaded.policy, OpaquePolicy):
            roll_out(fit, loaded.policy, place.data, behaviours, report)
            policy, more["surrogate_error"] = surrogate(fit, loaded.policy, place.data, report)
            save_policy(bare, policy, None, describe(fit))
        else:
            # without its critics, or the fit would go on from them
            save_policy(bare, loaded.policy, None, loaded.about)
            for behaviour, episodes in behaviours:
                if episodes:
                    opened = open_collect(fit, place, episodes=episodes, behaviour=behaviour, policy_dir=bare)
                    collect(opened, report)
        steps = fit.evaluate.independent_steps
        fit_critics(open_fit_critics(fit, place, device=device, steps=steps, policy_dir=bare), report)
        critics, about = load_critics(place.critics)
        info = open_dataset(place.data, fit.task_row).info
        # critics that have never seen a cost know of no danger
        more["cost_seen"] = info.cost / info.episodes
    return critics, about | more
