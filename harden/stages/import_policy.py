"""policy import: a policy folder of a policy that somebody else trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.data import open_dataset
from harden.errors import InputError
from harden.method.learner import new_learner
from harden.nets import GaussianPolicy
from harden.nets.saved import save_policy
from harden.policies.export import TOLERANCE
from harden.policies.layers import Bounds, set_spread
from harden.policies.onnx_file import open_onnx
from harden.policies.source import Source, answer, digest_files
from harden.policies.state_dict import KEPT_INSIDE, open_state_dict
from harden.policies.torchscript import open_torchscript
from harden.progress import Reporter
from harden.stages.clone import free_folder
from harden.stages.export_policy import check_observations
from harden.stages.inputs import Inputs, optional
from harden.storage.folders import require_folder
from harden.training.imitation import CPU, distil_loss, fit_imitation, score, split_episodes
from harden.training.workspace import describe
from harden.types import Transitions

SUFFIXES = {".onnx": "onnx", ".safetensors": "safetensors"}
# the last is what torch.save writes for most, which is refused by its content
SUFFIXES |= dict.fromkeys((".pt", ".ts", ".pth"), "torchscript")
# a few answers outside the action range, or by less than rounding, are not worth a warning
_MATTERS, _ROUNDING = 0.01, 1e-5
# of the action range; a copy that is further off acts otherwise than its original
_FAILED = 0.1


class Reading(NamedTuple):
    """What a foreign file does not say of itself.

    Args:
        kind: onnx, torchscript or safetensors; by the file's suffix where None.
        activation, squash: of a bare state dict with names that are not ours.
        spread: what a second output is: std, log-std or none.
    """

    kind: str | None = None
    activation: str | None = None
    squash: str | None = None
    spread: str | None = None


class Imported(NamedTuple):
    """How a policy came in.

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


class Made(NamedTuple):
    """A policy of ours made after a source's.

    Args:
        policy: ours.
        error: as in `Imported`.
        share: the error as a share of the action range.
        spread: where its spread comes from, in words.
    """

    policy: GaussianPolicy
    error: float
    share: float
    spread: str


def open_source(path: Path, reading: Reading, bounds: Bounds, report: Reporter) -> Source:
    """Read a foreign policy file.

    Raises:
        MissingInputError: not there; DamagedFileError: not what it says; InputError: no known format.
    """
    kind = reading.kind or SUFFIXES.get(path.suffix)
    if kind == "onnx":
        return open_onnx(path, reading.spread, bounds)
    if kind == "safetensors":
        return open_state_dict(path, bounds, reading.activation, reading.squash)
    if kind == "torchscript":
        return open_torchscript(path, reading.spread, bounds, report.say)
    raise InputError(
        f"{path.name} does not say its format", f"its suffix is one of {', '.join(SUFFIXES)}, or give --from"
    )


def bounds_of(config: PipelineConfig) -> Bounds:
    """Return what a policy's actions and spread keep within."""
    nets = config.networks
    low, high = (torch.tensor(bound) for bound in config.task_row.bounds)
    return Bounds(low, high, nets.init_std, nets.min_std, nets.max_std)


def _chosen(bounds: Bounds) -> str:
    return f"{bounds.init_std:g} of half the action range, networks.init_std: the file brings none"


def clipped(actions: Tensor, bounds: Bounds) -> str:
    """Say how many actions, (B, act_dim), are not applied as they were given; "" where hardly any is."""
    outside = (actions < bounds.low - _ROUNDING) | (actions > bounds.high + _ROUNDING)
    share = float(outside.any(dim=1).float().mean())
    if share <= _MATTERS:
        return ""
    ranges = dict.fromkeys(f"[{low:g}, {high:g}]" for low, high in zip(bounds.low, bounds.high, strict=True))
    return (
        f"{100 * share:.0f} % of its answers lie outside the action range, {' by '.join(ranges)}, and are "
        f"clipped; they reach from {float(actions.min()):g} to {float(actions.max()):g}: scale them to it"
    )


def take_over(source: Source, bounds: Bounds, obs: Tensor, answers: Tensor) -> Made | None:
    """Return our policy with the source's weights, None where it has others or acts otherwise.

    Args:
        obs: states that the policy visits, (B, obs_dim).
        answers: the source's to them, (B, act_dim).
    """
    policy = source.ours
    if policy is None or policy.architecture["obs_dim"] != obs.shape[1]:
        return None
    with torch.no_grad():
        off = (policy.clip(answers) - policy.mean(obs)).abs()
    error, share = float(off.max()), float((off / (2 * policy.half_range)).max())
    return None if error > TOLERANCE else Made(policy, error, share, source.spread or _chosen(bounds))


def distil(
    source: Source,
    bounds: Bounds,
    config: PipelineConfig,
    rows: Transitions,
    path: Path,
    device: torch.device,
    report: Reporter,
) -> Made:
    """Return our policy fitted to the source's answers, with its error on held-out episodes."""
    options = config.imitation
    mean, std = answer(source, rows.obs, config.task_row.act_dim, path)
    policy = new_learner(config, CPU).policy
    set_spread(policy, torch.full_like(policy.half_range, bounds.init_std))
    spread = KEPT_INSIDE
    if std is None:
        std, spread = (bounds.init_std * policy.half_range).expand_as(mean), _chosen(bounds)
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
    return Made(policy, error, float(off.square().mean().sqrt()), spread)


def failed(made: Made) -> str:
    """Say that a distillation gave another policy, "" where it did not."""
    if made.share <= _FAILED:
        return ""
    return f"the copy's actions are off by {100 * made.share:.0f} % of the action range"


def _distilled(
    source: Source,
    config: PipelineConfig,
    data: Path | None,
    path: Path,
    outside: str,
    device: torch.device,
    report: Reporter,
) -> tuple[Made, str]:
    """Return our policy fitted to the source's answers on a data set, and the digest of that.

    Args:
        outside: what `clipped` says of the answers.

    Raises:
        InputError: there is no data set, or the policy acts otherwise than the source.
    """
    if data is None:
        raise InputError(
            f"{path} holds more than an MLP such as ours, so that its weights can't be taken over",
            "to distil it give observations with --data DATA",
        )
    dataset = open_dataset(data, config.task_row)
    rows = dataset.recent(config.imitation.rows)
    made = distil(source, bounds_of(config), config, rows, path, device, report)
    if why := failed(made):
        raise InputError(
            f"{path} can't be distilled: on held-out episodes of {data} {why}",
            outside or "nothing was written; give more data of its own, or raise imitation.steps",
        )
    return made, dataset.info.digest


@dataclass(frozen=True, kw_only=True)
class ImportInputs(Inputs):
    """What an import begins with.

    Args:
        config, device: gives the task, and where a distillation is computed.
        path: the file; source: what it holds.
        out: the policy's folder.
        data: a data set of the task.
        obs: what the actions are compared on, (B, obs_dim).
        checked_on: what that is, in words.
    """

    config: PipelineConfig
    device: torch.device
    path: Path
    source: Source
    out: Path
    data: Path | None
    obs: Tensor
    checked_on: str


def open_import(
    config: PipelineConfig,
    path: Path,
    out: Path,
    *,
    reading: Reading = Reading(),  # noqa: B008
    data: Path | None = None,
    reach: float = 2.0,
    overwrite: bool = False,
    device: torch.device = CPU,
    report: Reporter,
) -> ImportInputs:
    """Open and check what an import needs, but for whether the policy is of the task.

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
        InputError: one that can't be read as such, or a policy is there; StorageError: it can't be written.
    """
    free_folder(out, overwrite)
    source = open_source(path, reading, bounds_of(config), report)
    obs, words = check_observations(data, reach, config.task_row.obs_dim, config.task_row)
    require_folder(out)
    return ImportInputs(
        config=config,
        device=device,
        path=path,
        source=source,
        out=out,
        data=data,
        obs=obs,
        checked_on=words,
        reads=(path, *optional(data)),
        writes=(out,),
    )


def import_policy(inputs: ImportInputs, report: Reporter) -> Imported:
    """Make a policy folder, without critics, of a policy in another format.

    Weights are taken over where the file holds nothing but our architecture; else a new policy is fitted to
    its answers on the data set's observations.

    Raises:
        InputError: a policy of another task, a distillation without data, or one that failed.
    """
    config, source, path, obs = inputs.config, inputs.source, inputs.path, inputs.obs
    bounds, words = bounds_of(config), inputs.checked_on
    answers, _ = answer(source, obs, config.task_row.act_dim, path)
    outside, data_digest = clipped(answers, bounds), ""
    made = take_over(source, bounds, obs, answers)
    exact = made is not None
    if made is None:
        made, data_digest = _distilled(source, config, inputs.data, path, outside, inputs.device, report)
        words = f"held-out episodes of {inputs.data}"
    done = Imported(exact, made.error, words, made.spread, outside)
    about = describe(
        config,
        variant="imported",
        made_by="harden policy import",
        inputs={"data": data_digest, "policy": "", "file": digest_files(source.files)},
        imported={"format": source.kind} | done._asdict(),
    )
    save_policy(inputs.out, made.policy, None, about)
    return done
