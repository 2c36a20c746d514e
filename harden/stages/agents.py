"""The policy that an evaluation attacks: a policy folder, somebody else's file, or a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.data import DatasetWriter, open_dataset
from harden.envs.rollout import rollout
from harden.envs.vector import VectorEnv
from harden.errors import InputError, MissingInputError
from harden.nets.saved import LoadedPolicy, load_policy, module_digest, require_task
from harden.policies.opaque import OpaquePolicy, as_source, is_code, name_of, open_callable, tried_on
from harden.policies.source import Source, answer, digest_files
from harden.progress import Reporter
from harden.seeds import episode_seeds, generator
from harden.stages.import_policy import (
    SUFFIXES,
    Made,
    Reading,
    bounds_of,
    clipped,
    distil,
    open_source,
    take_over,
)
from harden.training.collection import Exploration, make_actor
from harden.training.imitation import CPU

ADOPTED = "its weights, taken over exactly: it has gradients"


def agent_name(named: str | Path | Callable[..., Any]) -> str:
    """Return what an agent is called."""
    return name_of(named) if callable(named) else str(named)


def _open_foreign(named: str | Path | Callable[..., Any], config: PipelineConfig, report: Reporter) -> Source:
    """Open a policy that is no folder of ours; arguments and errors are those of `open_agent`."""
    path = Path(agent_name(named))
    if callable(named):
        return as_source(named)
    if not path.exists() and is_code(named):
        report.say(f"{named} is code: it is being imported and run, because you named it")
        return open_callable(str(named))
    if SUFFIXES.get(path.suffix) in ("onnx", "torchscript"):
        return open_source(path, Reading(spread="none"), bounds_of(config), report)
    if path.exists():
        raise InputError(f"{named} is no policy", "name an ONNX file (.onnx) or TorchScript (.pt, .ts)")
    raise MissingInputError(
        f"policy folder {named} is missing",
        "make it with: harden train; or name an ONNX or TorchScript file, or module:function",
    )


def open_agent(
    named: str | Path | Callable[..., Any], config: PipelineConfig, report: Reporter, adopt: bool = True
) -> LoadedPolicy:
    """Return what is to be attacked.

    The weights of an ONNX file that holds nothing but our architecture are taken over, for their gradients.
    Any other policy is asked as it is, and a warning says so where its answers are clipped.

    Args:
        named: a policy folder, a TorchScript or ONNX file, module:function, or a function. TorchScript and a
            function are code, and are run.
        config: gives the task.
        adopt: weights may be taken over.

    Raises:
        MissingInputError: not there; InputError: of another task, no policy at all, or code that fails.
    """
    path = Path(agent_name(named))
    # a function may be called as a folder is
    if path.is_dir() and not callable(named):
        loaded = load_policy(path, "harden train")
        require_task(loaded, config.task_row, f"the policy in {path}")
        return loaded
    source, task, bounds = _open_foreign(named, config, report), config.task_row, bounds_of(config)
    obs = tried_on(task.obs_dim)
    answers, _ = answer(source, obs, task.act_dim, path)
    about: dict[str, Any] = {"variant": f"somebody else's ({source.kind})", "format": source.kind}
    # a program that lets gradients through is asked itself
    if adopt and not source.differentiable and (made := take_over(source, bounds, obs, answers)):
        about["how"] = ADOPTED
        return LoadedPolicy(made.policy, None, about | {"policy_digest": module_digest(made.policy)})
    policy = OpaquePolicy(
        lambda o: source.run(o)[0],
        task.obs_dim,
        task.act_dim,
        source.differentiable,
        (bounds.low, bounds.high),
        digest_files(source.files) if source.files else "",
    )
    about["how"] = "asked for actions" + (
        ", with gradients" if source.differentiable else " only: no gradients"
    )
    if outside := clipped(answers, bounds):
        report.say(f"warning: {path}: {outside}")
        about["how"] += f"; {outside}"
    return LoadedPolicy(policy, None, about | {"policy_digest": policy.digest()})


def acts_alike(
    named: str | Path | Callable[..., Any],
    loaded: LoadedPolicy,
    config: PipelineConfig,
    obs: Tensor,
    report: Reporter,
) -> bool:
    """Return whether a policy whose weights were taken over acts as its file on states that it visited.

    Args:
        loaded: of `named`, by `open_agent`; any whose weights were not taken over is the policy itself.
        obs: the states, (B, obs_dim).
    """
    if loaded.about.get("how") != ADOPTED:
        return True
    source, bounds, rows = _open_foreign(named, config, report), bounds_of(config), obs.cpu()
    return take_over(source, bounds, rows, source.run(rows)[0]) is not None


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


def surrogate(config: PipelineConfig, policy: OpaquePolicy, data: Path, report: Reporter) -> Made:
    """Return a policy of ours that acts as somebody else's, for the stages that need one to fit critics.

    Args:
        data: where the policy went; it is fitted there.

    Returns:
        The policy, with its action error on held-out episodes.
    """
    rows = open_dataset(data, config.task_row).recent(config.imitation.rows)
    return distil(policy.source(), bounds_of(config), config, rows, data, CPU, report)
