"""policy import: a policy folder of a policy that somebody else trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harden.algorithms.imitation import distil_loss, score, split_episodes
from harden.checkpoint import save_policy
from harden.config import PipelineConfig
from harden.data import open_dataset
from harden.errors import InputError
from harden.exchange.export import TOLERANCE
from harden.exchange.onnx_file import open_onnx
from harden.exchange.source import Bounds, Source, answer, as_ours, exported_bounds, set_spread
from harden.exchange.state_dict import open_state_dict
from harden.exchange.torchscript import open_torchscript
from harden.files import digest_file
from harden.fit.imitation import fit_imitation
from harden.learner import new_learner
from harden.nets import GaussianPolicy
from harden.progress import Reporter
from harden.stages.clone import CPU, free_folder
from harden.stages.export_policy import check_observations
from harden.stages.workspace import describe
from harden.types import Transitions

SUFFIXES = {".onnx": "onnx", ".safetensors": "safetensors", ".pt": "torchscript", ".ts": "torchscript"}
_KEPT_INSIDE = "the file's, kept inside our floor and ceiling"


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
    """

    exact: bool
    error: float
    checked_on: str
    spread: str


class Made(NamedTuple):
    """A policy of ours made after a source's.

    Args:
        policy: ours.
        error: as in `Imported`.
        spread: where its spread comes from, in words.
    """

    policy: GaussianPolicy
    error: float
    spread: str


def open_source(path: Path, reading: Reading, bounds: Bounds, report: Reporter) -> Source:
    """Read a foreign policy file.

    Raises:
        MissingInputError: not there; DamagedFileError: not what it says; InputError: no known format.
    """
    kind = reading.kind or SUFFIXES.get(path.suffix)
    if kind == "onnx":
        return open_onnx(path, reading.spread)
    if kind == "safetensors":
        return open_state_dict(path, bounds, reading.activation, reading.squash)
    if kind == "torchscript":
        return open_torchscript(path, reading.spread, report.say)
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


def take_over(source: Source, bounds: Bounds, obs: Tensor, act_dim: int, path: Path) -> Made | None:
    """Return our policy with the source's weights, None where it does not act as the source does."""
    mean, std = answer(source, obs, act_dim, path)
    policy = None if source.weights is None else as_ours(source.weights, bounds)
    if policy is None or source.weights is None or policy.architecture["obs_dim"] != obs.shape[1]:
        return None
    with torch.no_grad():
        ours, our_std = policy(obs)
    error = float((policy.clip(mean) - ours).abs().max())
    if error > TOLERANCE:
        return None
    if std is None:
        brings = source.weights.std is not None or source.weights.log_std is not None
        return Made(policy, error, "the file's" if brings else _chosen(bounds))
    if float((our_std - std).abs().max()) <= TOLERANCE:
        return Made(policy, error, "the file's")
    if float((std - std[0]).abs().max()) > TOLERANCE:
        return None
    inside = set_spread(policy, std[0] / policy.half_range)
    return Made(policy, error, "the file's" if inside else _KEPT_INSIDE)


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
    spread = _KEPT_INSIDE
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
    return Made(policy, score(policy, *held_out[:2]).action_error, spread)


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
    report: Reporter,
) -> Imported:
    """Make a policy folder, without critics, of a policy in another format.

    Weights are taken over where our architecture with them acts as the file does; else a new policy is
    fitted to its answers on the data set's observations.

    Args:
        path: a state dict in safetensors, a TorchScript or an ONNX file. TorchScript is a program and is run.
        out: the policy's folder.
        reading: what the file does not say of itself.
        data: a data set: the actions are compared on its observations, and a distillation learns from them.
        reach: without data, half-width of the range that observations are drawn from.
        overwrite: replace a policy that is there.

    Raises:
        MissingInputError: no such file; DamagedFileError: not what its name promises.
        InputError: a policy of another task, one that can't be read as such, or a distillation without data.
    """
    free_folder(out, overwrite)
    task, bounds = config.task_row, bounds_of(config)
    source = open_source(path, reading, bounds, report)
    obs, words = check_observations(data, reach, task.obs_dim, task)
    made = take_over(source, exported_bounds(source.about, bounds, path), obs, task.act_dim, path)
    exact, data_digest = made is not None, ""
    if made is None:
        if data is None:
            raise InputError(
                f"{path} does not act as our architecture does with its weights",
                "to distil it give observations with --data DATA",
            )
        dataset = open_dataset(data, task)
        rows, data_digest = dataset.recent(config.imitation.rows), dataset.info.digest
        made = distil(source, bounds, config, rows, path, device, report)
        words = f"held-out episodes of {data}"
    done = Imported(exact, made.error, words, made.spread)
    about = describe(
        config,
        variant="imported",
        made_by="harden policy import",
        inputs={"data": data_digest, "policy": "", "file": digest_file(path)},
        imported={"format": source.kind} | done._asdict(),
    )
    save_policy(out, made.policy, None, about)
    return done
