"""policy export, import and info: a policy out to a robot, somebody else's in, what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.tasks import Task
from harden.data import data_files, open_dataset
from harden.errors import InputError
from harden.method.learner import new_learner
from harden.nets import GaussianPolicy
from harden.nets.saved import load_policy, policy_files, save_policy
from harden.policies.adopt import Bounds, set_spread, task_bounds
from harden.policies.export import Exported, export_policy
from harden.policies.foreign import ForeignPolicy, answer
from harden.policies.open import Reading, adopted_policy, clipping_warning, open_file
from harden.policies.state_dict import KEPT_INSIDE
from harden.progress import QUIET, Reporter
from harden.seeds import generator
from harden.stages.fit_policy import free_folder
from harden.stages.ready import Ready
from harden.storage.files import require_apart, require_folder, require_writable
from harden.training.imitation import CPU, distil_loss, fit_imitation, score, split_episodes
from harden.training.workspace import describe
from harden.types import Transitions

_DRAWN = 10_000


def check_observations(
    data: Path | None, reach: float, obs_dim: int, task: Task | None
) -> tuple[Tensor, str]:
    """Return observations to compare policies on, of a data set or drawn, and what they are in words.

    Args:
        data: a data set, None to draw.
        reach: half-width of the uniform range that each coordinate is drawn from.

    Raises:
        InputError: a data set of other observations.
    """
    if data is not None:
        obs = open_dataset(data, task).recent(_DRAWN).obs
        if obs.shape[1] != obs_dim:
            raise InputError(
                f"{data} has observations of {obs.shape[1]} coordinates", f"the policy takes {obs_dim}"
            )
        return obs, f"{len(obs):,} observations of {data}"
    drawn = torch.rand(_DRAWN, obs_dim, generator=generator("cpu", 0, "check-observations"))
    return reach * (2 * drawn - 1), f"{_DRAWN:,} observations drawn from [-{reach:g}, {reach:g}]"


def export(
    policy_dir: Path, kind: str, out: Path, *, data: Path | None = None, reach: float = 2.0
) -> Ready[tuple[Exported, str]]:
    """Write a policy for a robot, checked against the original.

    Args:
        policy_dir: a policy folder.
        kind: onnx, torchscript or safetensors.
        out: the file.
        data, reach: what it is checked on, as in `check_observations`.

    Returns:
        What `export_policy` returns, and what the policy was checked on in words.

    Raises:
        MissingInputError: no policy or data; StorageError: `out` can't be written.
        InputError: `out` is part of them, or the data set has other observations; HardenError: as
            `export_policy`.
    """
    loaded = load_policy(policy_dir)
    obs, words = check_observations(data, reach, loaded.policy.architecture["obs_dim"], None)
    require_apart(out, *policy_files(policy_dir), *(data_files(data) if data else ()))
    require_writable(out)
    return Ready(lambda: (export_policy(loaded, kind, out, obs), words), [policy_dir, data], [out])


def policy_info(folder: Path) -> dict[str, str]:
    """Return what a policy folder holds, label to text."""
    policy, critics, manifest = load_policy(folder)
    shape = policy.architecture

    def count(module: torch.nn.Module) -> str:
        return f"{sum(weights.numel() for weights in module.parameters()):,} parameters"

    widths = " x ".join(str(width) for width in (shape["obs_dim"], *shape["hidden"], shape["act_dim"]))
    held = f"none: harden fit-critics -p PIPELINE --policy {folder} puts the policy with some into that run"
    if critics is not None:
        counts = critics.architecture
        held = f"{counts['reward_count']} of reward, {counts['cost_count']} of cost, {count(critics)}"
        held += f", digest {manifest['critics_digest']}"
    sources = [f"{name} {digest}" for name, digest in manifest.get("inputs", {}).items() if digest]
    return {
        "architecture": f"Gaussian MLP {widths}, {count(policy)}",
        "actions": f"from {shape['low']} to {shape['high']}, tanh-squashed mean",
        "spread": f"{shape['min_std']:g} to {shape['max_std']:g} of half the action range",
        "task": f"{manifest.get('task', 'unknown')} ({manifest.get('env_id', 'unknown')})",
        "variant": str(manifest.get("variant", "unknown")),
        "made by": str(manifest.get("made_by", "harden train or its stages")),
        "digest": str(manifest["policy_digest"]),
        "made from": ", ".join(sources),
        "critics": held,
    }


# of the action range; a copy that is further off acts otherwise than its original
_FAILED = 0.1


class Imported(NamedTuple):
    """How a policy was imported.

    Args:
        exact: its weights were taken over; else it was distilled.
        error: of the actions: the largest difference where exact, root mean square on held-out episodes where
            distilled, in the action space's units.
        checked_on: which observations that was measured on, in words.
        spread: where the spread comes from, in words.
        clipped: what was clipped to the action range, in words, "" where hardly anything was.
    """

    exact: bool
    error: float
    checked_on: str
    spread: str
    clipped: str


class Distilled(NamedTuple):
    """Our policy fitted to the answers of another.

    Args:
        policy: ours.
        error: root mean square of its actions on held-out episodes, in the action space's units.
        share: the same as a share of the action range.
        spread: where its spread comes from, in words.
    """

    policy: GaussianPolicy
    error: float
    share: float
    spread: str


def _default_spread(bounds: Bounds) -> str:
    return f"{bounds.init_std:g} of half the action range, networks.init_std: the file brings none"


def distil(
    foreign: ForeignPolicy,
    config: PipelineConfig,
    rows: Transitions,
    path: Path,
    device: torch.device,
    report: Reporter,
) -> Distilled:
    """Return our policy fitted to another's answers to the observations of whole episodes.

    Args:
        rows: the episodes.
        path: what the other policy is called where it fails.
    """
    options, bounds = config.imitation, task_bounds(config)
    mean, std = answer(foreign, rows.obs, config.task_row.act_dim, path)
    policy = new_learner(config, CPU).policy
    set_spread(policy, torch.full_like(policy.half_range, bounds.init_std))
    spread = KEPT_INSIDE
    if std is None:
        std, spread = (bounds.init_std * policy.half_range).expand_as(mean), _default_spread(bounds)
    margin = 0.01 * (policy.max_std - policy.min_std)
    floor, ceiling = policy.min_std + margin, policy.max_std - margin
    std = torch.maximum(torch.minimum(std, ceiling * policy.half_range), floor * policy.half_range)
    split = split_episodes(rows, options.held_out, config.seed)
    columns = (rows.obs, policy.clip(mean), std)
    fit, stop, held_out = (tuple(column[part] for column in columns) for part in split[:3])
    fit_imitation(
        policy, distil_loss, fit, stop, options, seed=config.seed, device=device, logs=None, report=report
    )
    error = score(policy, *held_out[:2]).action_error
    with torch.no_grad():
        off = (policy.mean(held_out[0]) - held_out[1]) / (2 * policy.half_range)
    return Distilled(policy, error, float(off.square().mean().sqrt()), spread)


def import_policy(
    config: PipelineConfig,
    path: Path,
    out: Path,
    *,
    reading: Reading = Reading(),  # noqa: B008
    data: Path | None = None,
    reach: float = 2.0,
    overwrite: bool = False,
    device: torch.device = CPU,
    report: Reporter = QUIET,
) -> Ready[Imported]:
    """Make a policy folder, without critics, of a policy in another format.

    Weights are taken over where the file holds nothing but our architecture; else a new policy is fitted to
    its answers on the data set's observations.

    Args:
        config: gives the task.
        path: a state dict in safetensors, a TorchScript or an ONNX file. TorchScript is a program and is run.
        out: the policy's folder.
        reading: what the file does not say of itself.
        data: a data set: the actions are compared on its observations, and a distillation learns from them.
        reach: without data, half-width of the range that observations are drawn from.
        overwrite: replace a policy that is there.
        device: where a distillation is computed.

    Raises:
        MissingInputError: no such file; DamagedFileError: not what its name promises.
        InputError: one that can't be read as such, a policy of another task, or a policy is there; a
            distillation without data, or one that failed; StorageError: it can't be written.
    """
    free_folder(out, overwrite)
    task, bounds = config.task_row, task_bounds(config)
    obs, checked_on = check_observations(data, reach, task.obs_dim, task)
    foreign = open_file(path, reading, bounds, obs, report)
    answers, _ = answer(foreign, obs, task.act_dim, path)
    require_folder(out)

    def work() -> Imported:
        data_digest, clipped = "", clipping_warning(answers, bounds)
        adopted = adopted_policy(foreign, obs, answers)
        if adopted is not None:
            policy, error = adopted
            done = Imported(True, error, checked_on, foreign.spread or _default_spread(bounds), clipped)
        elif data is not None:
            dataset = open_dataset(data, task)
            rows, data_digest = dataset.recent(config.imitation.rows), dataset.info.digest
            made = distil(foreign, config, rows, path, device, report)
            if made.share > _FAILED:
                raise InputError(
                    f"{path} can't be distilled: on held-out episodes of {data} the copy's actions are "
                    f"off by {100 * made.share:.0f} % of the action range",
                    clipped or "nothing was written; give more data of its own, or raise imitation.steps",
                )
            policy = made.policy
            done = Imported(False, made.error, f"held-out episodes of {data}", made.spread, clipped)
        else:
            raise InputError(
                f"{path} holds more than an MLP such as ours, so that its weights can't be taken over",
                "to distil it give observations with --data DATA",
            )
        made_of = {"data": data_digest, "policy": "", "file": foreign.identity}
        imported = {"format": foreign.kind} | done._asdict()
        words = {"variant": "imported", "made_by": "harden policy import", "imported": imported}
        save_policy(out, policy, None, describe(config, **words, inputs=made_of))
        return done

    return Ready(work, [path, data], [out])
