"""The policy that an evaluation attacks: a policy folder, somebody else's file, or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from harden.checkpoint import LoadedPolicy, load_policy, module_digest, require_task
from harden.config import PipelineConfig
from harden.data import DatasetWriter, open_dataset
from harden.envs.rollout import rollout
from harden.envs.vector import VectorEnv
from harden.errors import InputError, MissingInputError
from harden.exchange.opaque import OpaquePolicy, as_source, is_code, name_of, open_callable, tried_on
from harden.exchange.source import answer
from harden.nets import GaussianPolicy
from harden.progress import Reporter
from harden.seeds import episode_seeds, generator
from harden.stages.clone import CPU
from harden.stages.collect import Exploration, make_actor
from harden.stages.import_policy import Reading, bounds_of, distil, open_source, take_over

# a few answers outside the action range, or by less than rounding, are not worth a warning
_MATTERS, _ROUNDING = 0.01, 1e-5


def agent_name(named: str | Path | Callable[..., Any]) -> str:
    """Return what an agent is called."""
    return name_of(named) if callable(named) else str(named)


def open_agent(
    named: str | Path | Callable[..., Any], config: PipelineConfig, report: Reporter
) -> LoadedPolicy:
    """Return what is to be attacked.

    Weights that make our own architecture act as a file does are taken over, so that the policy has
    gradients; else it is only asked, and a warning says so where its answers are clipped.

    Args:
        named: a policy folder, a TorchScript or ONNX file, module:function, or a function. TorchScript and a
            function are code, and are run.
        config: gives the task.

    Raises:
        MissingInputError: not there; InputError: of another task, no policy at all, or code that fails.
    """
    path = Path(agent_name(named))
    # a function may be called as a folder is
    if path.is_dir() and not callable(named):
        loaded = load_policy(path, "harden train")
        require_task(loaded, config.task_row, f"the policy in {path}")
        return loaded
    if callable(named):
        source = as_source(named)
    elif not path.exists() and is_code(named):
        report.say(f"{named} is code: it is being imported and run, because you named it")
        source = open_callable(str(named))
    elif path.suffix in (".onnx", ".pt", ".ts"):
        source = open_source(path, Reading(spread="none"), bounds_of(config), report)
    else:
        if path.exists():
            raise InputError(f"{named} is no policy", "name an ONNX file (.onnx) or TorchScript (.pt, .ts)")
        raise MissingInputError(
            f"policy folder {named} is missing",
            "make it with: harden train; or name an ONNX or TorchScript file, or module:function",
        )
    task = config.task_row
    bounds, obs = bounds_of(config), tried_on(task.obs_dim)
    made = take_over(source, bounds, obs, task.act_dim, path)
    about: dict[str, Any] = {"variant": f"somebody else's ({source.kind})", "format": source.kind}
    if made is not None:
        about["how"] = "its weights, taken over exactly: it has gradients"
        return LoadedPolicy(made.policy, None, about | {"policy_digest": module_digest(made.policy)})
    answers, _ = answer(source, obs, task.act_dim, path)
    sizes, in_range = (task.obs_dim, task.act_dim), (bounds.low, bounds.high)
    policy = OpaquePolicy(lambda o: source.run(o)[0], *sizes, source.differentiable, in_range)
    about["how"] = "asked for actions" + (
        ", with gradients" if source.differentiable else " only: no gradients"
    )
    if clipped := _clipped(policy, answers):
        report.say(f"warning: {path}: {clipped}; scale them to that range")
        about["how"] += f"; {clipped}"
    return LoadedPolicy(policy, None, about | {"policy_digest": policy.digest()})


def _clipped(policy: OpaquePolicy, answers: Tensor) -> str:
    """Say how many answers, (B, act_dim), are not applied as they were given; "" where hardly any is."""
    outside = (policy.clip(answers) - answers).abs() > _ROUNDING
    share = float(outside.any(dim=1).float().mean())
    if share <= _MATTERS:
        return ""
    ranges = dict.fromkeys(f"[{low:g}, {high:g}]" for low, high in zip(*policy.bounds, strict=True))
    inside = " by ".join(ranges)
    return f"{100 * share:.0f} % of its answers lie outside the action range, {inside}, and are clipped"


def roll_out(
    config: PipelineConfig,
    policy: OpaquePolicy,
    out: Path,
    behaviours: Sequence[tuple[str, int]],
    report: Reporter,
) -> None:
    """Collect benign episodes of somebody else's policy into a data set.

    Args:
        behaviours: names as `collect` has them, and how many episodes of each.
    """
    task, options = config.task_row, config.collect
    most = max(episodes for _, episodes in behaviours)
    with (
        DatasetWriter(out, task) as writer,
        VectorEnv(task, min(options.envs, most), options.workers) as envs,
    ):
        for behaviour, episodes in behaviours:
            if not episodes:
                continue
            first = writer.info.episodes
            draw = generator("cpu", config.seed, "behaviour", first)
            explore = Exploration(envs.num_envs, task.act_dim, options, draw)
            act = make_actor(behaviour, policy, task, draw, config.train_epsilon, explore)
            seeds = episode_seeds(config.seed, "collect", first, episodes)
            report.say(f"collecting {episodes} episodes of the policy under evaluation ({behaviour})")
            data = rollout(envs, act, seeds.tolist())
            writer.append(
                data.transitions, seed=config.seed, policy_digest=policy.digest(), behaviour=behaviour
            )


def surrogate(
    config: PipelineConfig, policy: OpaquePolicy, data: Path, report: Reporter
) -> tuple[GaussianPolicy, float]:
    """Return a policy of ours that acts as somebody else's, for the stages that need one to fit critics.

    Args:
        data: where the policy went; it is fitted there.

    Returns:
        The policy, and the root mean square of its action error on held-out episodes.
    """
    dataset = open_dataset(data, config.task_row)
    rows = dataset.recent(config.imitation.rows)
    made = distil(policy.source(), bounds_of(config), config, rows, data, CPU, report)
    return made.policy, made.error
