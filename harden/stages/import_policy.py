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
from harden.policies.adopt import Bounds, set_spread, task_bounds
from harden.policies.foreign import ForeignPolicy, answer
from harden.policies.open import Reading, adopted_policy, clipping_warning, open_file
from harden.policies.state_dict import KEPT_INSIDE
from harden.progress import Reporter
from harden.stages.clone import free_folder
from harden.stages.export_policy import check_observations
from harden.stages.inputs import Inputs, optional
from harden.storage.files import require_folder
from harden.training.imitation import CPU, distil_loss, fit_imitation, score, split_episodes
from harden.training.workspace import describe
from harden.types import Transitions

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

    @property
    def failure(self) -> str:
        """Why it is another policy than the original, "" where it is a copy."""
        if self.share <= _FAILED:
            return ""
        return f"the copy's actions are off by {100 * self.share:.0f} % of the action range"


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


@dataclass(frozen=True, kw_only=True)
class ImportInputs(Inputs):
    """What an import begins with.

    Args:
        config, device: gives the task, and where a distillation is computed.
        path: the file; foreign: the policy in it.
        out: the policy's folder.
        data: a data set of the task.
        obs: what the policy was asked about, (B, obs_dim); checked_on: the same in words.
        answers: its actions, (B, act_dim).
    """

    config: PipelineConfig
    device: torch.device
    path: Path
    foreign: ForeignPolicy
    out: Path
    data: Path | None
    obs: Tensor
    checked_on: str
    answers: Tensor


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
    """Open and check what an import needs.

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
        InputError: one that can't be read as such, a policy of another task, or a policy is there;
            StorageError: it can't be written.
    """
    free_folder(out, overwrite)
    task = config.task_row
    obs, checked_on = check_observations(data, reach, task.obs_dim, task)
    foreign = open_file(path, reading, task_bounds(config), obs, report)
    answers, _ = answer(foreign, obs, task.act_dim, path)
    require_folder(out)
    return ImportInputs(
        config=config,
        device=device,
        path=path,
        foreign=foreign,
        out=out,
        data=data,
        obs=obs,
        checked_on=checked_on,
        answers=answers,
        reads=(path, *optional(data)),
        writes=(out,),
    )


def import_policy(inputs: ImportInputs, report: Reporter) -> Imported:
    """Make a policy folder, without critics, of a policy in another format.

    Weights are taken over where the file holds nothing but our architecture; else a new policy is fitted to
    its answers on the data set's observations.

    Raises:
        InputError: a distillation without data, or one that failed.
    """
    config, foreign, path, data = inputs.config, inputs.foreign, inputs.path, inputs.data
    bounds, data_digest = task_bounds(config), ""
    clipped = clipping_warning(inputs.answers, bounds)
    adopted = adopted_policy(foreign, inputs.obs, inputs.answers)
    if adopted is not None:
        policy, error = adopted
        done = Imported(True, error, inputs.checked_on, foreign.spread or _default_spread(bounds), clipped)
    else:
        if data is None:
            raise InputError(
                f"{path} holds more than an MLP such as ours, so that its weights can't be taken over",
                "to distil it give observations with --data DATA",
            )
        dataset = open_dataset(data, config.task_row)
        rows, data_digest = dataset.recent(config.imitation.rows), dataset.info.digest
        made = distil(foreign, config, rows, path, inputs.device, report)
        if made.failure:
            raise InputError(
                f"{path} can't be distilled: on held-out episodes of {data} {made.failure}",
                clipped or "nothing was written; give more data of its own, or raise imitation.steps",
            )
        policy = made.policy
        done = Imported(False, made.error, f"held-out episodes of {data}", made.spread, clipped)
    manifest = describe(
        config,
        variant="imported",
        made_by="harden policy import",
        inputs={"data": data_digest, "policy": "", "file": foreign.identity},
        imported={"format": foreign.kind} | done._asdict(),
    )
    save_policy(inputs.out, policy, None, manifest)
    return done
