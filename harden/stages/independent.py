"""Critics for an evaluation that owe the policy's own nothing: other data, other weights, other seed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from harden.checkpoint import LoadedPolicy, load_critics, module_digest, save_critics, save_policy
from harden.config import PipelineConfig, make_config
from harden.errors import MissingInputError
from harden.nets import Critics
from harden.progress import Reporter
from harden.seeds import derive
from harden.stages.collect import collect
from harden.stages.fit_critics import fit_critics
from harden.stages.workspace import workspace

# one-step targets rank costs less well: their bootstrap is the noisy part (docs/experiments.md)
_N_STEP = 10


def fit_config(config: PipelineConfig, loaded: LoadedPolicy) -> PipelineConfig:
    """Return the configuration of the fit: the pipeline's critics, beside the policy as it is.

    A seed of its own draws other episodes and other first weights than training did, also with equal seeds.
    """
    given = loaded.policy.architecture
    networks = {name: given[name] for name in ("init_std", "min_std", "max_std")}
    tree: dict[str, Any] = config.model_dump() | {"variant": "cvpo", "preset": "none"}
    tree["seed"] = derive(config.seed, "independent") % 2**32
    tree["networks"] |= networks | {"policy_hidden": given["hidden"]}
    tree["critics"] |= {"n_step": _N_STEP}
    # the policy as it is, without what training adds to explore
    tree["collect"] |= {"min_std": 0.0, "correlation": 0.0}
    return make_config(tree)


def _key(config: PipelineConfig, loaded: LoadedPolicy) -> str:
    """Return what a fit depends on, as a folder's name."""
    options = config.evaluate
    said = [
        module_digest(loaded.policy),
        *(config.task, config.seed, config.train_epsilon),
        *(options.independent_episodes, options.independent_steps),
        config.critics.model_dump(mode="json"),
        config.networks.model_dump(mode="json"),
        config.collect.envs,
    ]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def independent_critics(
    config: PipelineConfig,
    loaded: LoadedPolicy,
    folder: Path,
    *,
    device: torch.device,
    report: Reporter,
) -> tuple[Critics, dict[str, Any]]:
    """Return critics of a frozen policy, fitted to benign roll-outs of it, or those of an earlier call.

    Half of the episodes act by samples, half under random noise on the observations as well: a policy that
    is safe shows its critics no cost otherwise.

    Args:
        config: gives the task, the seed, the critics' settings and the sizes (`evaluate.independent_*`).
        loaded: the policy; its own critics are not looked at.
        folder: where fits are kept, one a policy, seed and setting.

    Returns:
        The critics, and what is known of them.

    Raises:
        DamagedFileError: what is kept there was altered; StorageError: nothing can be kept there.
    """
    fit, options = fit_config(config, loaded), config.evaluate
    kept = folder / _key(fit, loaded)
    try:
        return load_critics(kept)
    except MissingInputError:
        report.say(f"fitting independent critics to {options.independent_episodes} episodes -> {kept}")
    with tempfile.TemporaryDirectory() as scratch:
        place = workspace("independent", Path(scratch))
        # without its critics, or the fit would go on from them
        bare = Path(scratch) / "bare"
        save_policy(bare, loaded.policy, None, loaded.about)
        noisy = options.independent_episodes // 2
        for behaviour, episodes in (
            ("policy-sample", options.independent_episodes - noisy),
            ("policy-noise", noisy),
        ):
            if episodes:
                collect(fit, place, episodes=episodes, behaviour=behaviour, policy_dir=bare, report=report)
        fit_critics(
            fit, place, device=device, steps=options.independent_steps, policy_dir=bare, report=report
        )
        critics, about = load_critics(place.critics)
    save_critics(kept, critics, about)
    return critics, load_critics(kept)[1]
