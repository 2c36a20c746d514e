"""What of a pipeline each stage's result depends on: where it changes, the result is stale."""

from __future__ import annotations

from typing import Any

from harden.config.pipeline import PipelineConfig

_ALL = ("task", "own_task", "variant", "seed", "cost_limit")
_OWN = {
    "fit-critics": ("networks", "critics"),
    "e-step": ("estep", "by_hand"),
    "fit-policy": ("networks", "mstep", "by_hand", "adversary"),
}


def stage_sections(stage: str, config: PipelineConfig) -> dict[str, Any]:
    """Return the sections of the pipeline that a stage's result depends on, by name, as JSON has them.

    Args:
        stage: "fit-critics", "e-step" or "fit-policy".
        config: the pipeline.
    """
    variant = config.variant_row
    more = {
        # Q_c's future, the replayed observations; and the ceiling of lam, which rises with epsilon
        "adversary": {
            "fit-critics": variant.long_horizon or variant.attack_replay,
            "e-step": variant.adversarial,
        },
        "world": {"fit-critics": variant.imagined},
        "offline": {"fit-critics": config.train.offline, "e-step": config.train.offline},
        "ppo": {"fit-policy": variant.on_policy},
    }
    names = [*_ALL, *_OWN[stage], *(name for name, stages in more.items() if stages.get(stage))]
    whole = config.model_dump(mode="json")
    return {name: whole[name] for name in names}
