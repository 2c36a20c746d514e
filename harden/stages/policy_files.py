"""policy export, import and info: a policy out to a robot, somebody else's in, what a folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harden.config.pipeline import PipelineConfig
from harden.config.sections import PLAIN_ROLL_OUTS
from harden.data.dataset import Dataset, open_dataset
from harden.data.manifest import data_files
from harden.envs.vector import VectorEnv
from harden.errors import InputError
from harden.method.learner import new_learner
from harden.nets import GaussianPolicy
from harden.nets.saved import LoadedPolicy, load_policy, module_digest, policy_files, save_policy
from harden.policies.adopt import Bounds, set_spread, task_bounds
from harden.policies.export import Exported, export_policy
from harden.policies.foreign import ForeignPolicy, OpaquePolicy, answer
from harden.policies.open import not_ours, open_policy, try_foreign
from harden.policies.reading import Reading
from harden.policies.state_dict import KEPT_INSIDE
from harden.progress import QUIET, Reporter
from harden.seeds import generator
from harden.stages.fit_policy import free_folder
from harden.stages.ready import Ready
from harden.storage.files import require_apart, require_folder, require_writable
from harden.training import imitation
from harden.training.collection import collect_episodes
from harden.training.keeping import try_policy
from harden.training.record import Row
from harden.training.workspace import describe
from harden.types import Transitions

# observations to compare on where there are no data: how many, and how far each coordinate reaches
_DRAWN, _REACH = 10_000, 2.0
# of the action range; a copy that is further off acts otherwise than its original
_FAILED = 0.1


def check_observations(data: Dataset | None, obs_dim: int) -> tuple[Tensor, str]:
    """Return observations to compare policies on, of a data set or drawn, and what they are in words."""
    if data is None:
        drawn = torch.rand(_DRAWN, obs_dim, generator=generator("cpu", 0, "check-observations"))
        return _REACH * (2 * drawn - 1), f"{_DRAWN:,} observations drawn from [-{_REACH:g}, {_REACH:g}]"
    obs = data.recent(_DRAWN).obs
    if obs.shape[1] != obs_dim:
        what = f"{data.path} has observations of {obs.shape[1]} coordinates"
        raise InputError(what, f"the policy takes {obs_dim}")
    return obs, f"{len(obs):,} observations of {data.path}"


def export(
    policy_dir: Path, kind: str, out: Path, *, data: Path | None = None
) -> Ready[tuple[Exported, str]]:
    """Write a policy for a robot, checked against the original.

    Args:
        policy_dir: a policy folder.
        kind: onnx, torchscript or safetensors.
        out: the file.
        data: what it is checked on, as in `check_observations`.

    Returns:
        What `export_policy` returns, and what the policy was checked on in words.

    Raises:
        MissingInputError: no policy or data; StorageError: `out` can't be written.
        InputError: `out` is part of them, or the data set has other observations; HardenError: as
            `export_policy`.
    """
    loaded = load_policy(policy_dir)
    dataset = None if data is None else open_dataset(data)
    obs, words = check_observations(dataset, loaded.policy.architecture["obs_dim"])
    require_apart(out, *policy_files(policy_dir), *(data_files(data) if data else ()))
    require_writable(out)
    return Ready(lambda: (export_policy(loaded, kind, out, obs), words), [policy_dir, data], [out])


def policy_info(
    config: PipelineConfig,
    named: Path,
    *,
    reading: Reading = Reading(),  # noqa: B008
    device: torch.device = imitation.CPU,
    report: Reporter = QUIET,
) -> Ready[dict[str, str]]:
    """Say what a policy folder holds, or what is made of somebody else's policy: label to text.

    Args:
        config: gives the task that a file is read for.
        named, reading: as in `open_policy`.
    """
    loaded = load_policy(named) if named.is_dir() else open_policy(named, config, report, reading)
    policy, critics, manifest = loaded
    shape, task = policy.architecture, config.task_row

    def count(module: torch.nn.Module) -> str:
        return f"{sum(weights.numel() for weights in module.parameters()):,} parameters"

    if isinstance(policy, OpaquePolicy):
        shown = {"architecture": f"not ours: {shape['obs_dim']} coordinates to {shape['act_dim']} actions"}
    else:
        widths = " x ".join(str(width) for width in (shape["obs_dim"], *shape["hidden"], shape["act_dim"]))
        shown = {"architecture": f"Gaussian MLP {widths}, {count(policy)}"}
        shown["actions"] = f"from {shape['low']} to {shape['high']}, tanh-squashed mean"
        shown["spread"] = f"{shape['min_std']:g} to {shape['max_std']:g} of half the action range"
    held = f"none: harden fit-critics -p PIPELINE --policy {named} puts the policy with some into that run"
    if critics is not None:
        counts = critics.architecture
        held = f"{counts['reward_count']} of reward, {counts['cost_count']} of cost, {count(critics)}"
        held += f", digest {manifest['critics_digest']}"
    if "format" in manifest:
        manifest |= {"task": task.name, "env_id": task.env_id or "data only", "made_by": "somebody else"}
        manifest |= {"inputs": {"": named}}
        shown["how"] = manifest["how"]
    sources = [f"{name} {digest}".strip() for name, digest in manifest.get("inputs", {}).items() if digest]
    shown |= {
        "task": f"{manifest.get('task', 'unknown')} ({manifest.get('env_id', 'unknown')})",
        "variant": str(manifest.get("variant", "unknown")),
        "made by": str(manifest.get("made_by", "harden train or its stages")),
        "digest": str(manifest["policy_digest"]),
        "made from": ", ".join(sources),
        "critics": held,
    }
    return Ready(lambda: shown, [named], [])


class Imported(NamedTuple):
    """How somebody else's policy became one of ours.

    Args:
        exact: its weights were taken over; else it was distilled.
        error: of the actions: the largest difference where exact, root mean square on held-out episodes where
            distilled, in the action space's units.
        checked_on: which observations that was measured on, in words.
        spread: where the spread comes from, in words.
        clipped: what was clipped to the action range, in words, "" where hardly anything was.
        notes: what was taken for granted in reading it, in words.
        share: the error of a distillation as a share of the action range.
        original, copy: what both earn and cost an episode, where it was distilled and can be simulated.
    """

    exact: bool
    error: float
    checked_on: str
    spread: str
    clipped: str = ""
    notes: str = ""
    share: float = 0.0
    original: Row | None = None
    copy: Row | None = None

    def __str__(self) -> str:
        how = f"action error {self.error:.2g} on {self.checked_on}; spread {self.spread}"
        if self.exact:
            text = f"taken over exactly: largest {how}"
        else:
            text = f"distilled: root mean square ({100 * self.share:.1f} % of the action range) {how}"
        for name, row in (("original", self.original), ("copy", self.copy)):
            if row is not None:
                figures = "reward {reward:.1f}, cost {cost:.2f}".format(**row)
                text += f"; over ten episodes the {name} has {figures}"
        if not self.exact and self.original is None:
            text += "; what return that costs was not simulated"
        return f"{text}; warning: {self.clipped}" if self.clipped else text


def _default_spread(bounds: Bounds) -> str:
    return f"{bounds.init_std:g} of half the action range, networks.init_std: the file brings none"


def distil(
    foreign: ForeignPolicy,
    config: PipelineConfig,
    rows: Transitions,
    path: Path,
    device: torch.device,
    report: Reporter,
) -> tuple[GaussianPolicy, Imported]:
    """Return our policy fitted to another's answers to the observations of whole episodes, and how well.

    Args:
        rows: the episodes.
        path: what the other policy is called where it fails.
    """
    options, bounds = config.imitation, task_bounds(config)
    mean, std = answer(foreign, rows.obs, config.task_row.act_dim, path)
    policy = new_learner(config, imitation.CPU).policy
    set_spread(policy, torch.full_like(policy.half_range, bounds.init_std))
    spread = KEPT_INSIDE
    if std is None:
        std, spread = (bounds.init_std * policy.half_range).expand_as(mean), _default_spread(bounds)
    margin = 0.01 * (policy.max_std - policy.min_std)
    floor, ceiling = policy.min_std + margin, policy.max_std - margin
    std = torch.maximum(torch.minimum(std, ceiling * policy.half_range), floor * policy.half_range)
    split = imitation.split_episodes(rows, options.held_out, config.seed)
    columns = (rows.obs, policy.clip(mean), std)
    fit, stop, held_out = (tuple(column[part] for column in columns) for part in split[:3])
    loss, seed = imitation.distil_loss, config.seed
    imitation.fit_imitation(
        policy, loss, fit, stop, options, seed=seed, device=device, logs=None, report=report
    )
    error = imitation.score(policy, *held_out[:2]).action_error
    with torch.no_grad():
        off = (policy.mean(held_out[0]) - held_out[1]) / (2 * policy.half_range)
    share = float(off.square().mean().sqrt())
    return policy, Imported(False, error, "held-out episodes", spread, share=share)


def own_episodes(policy: GaussianPolicy, config: PipelineConfig, report: Reporter) -> Transitions:
    """Return episodes that a policy acts in, half of them by samples, half under noise on the observations.

    Args:
        policy: acts with its own spread.
        config: `evaluate.independent_episodes` of them, as critics for an evaluation are fitted to.
    """
    plain = config.model_copy(update={"collect": config.collect.model_copy(update=PLAIN_ROLL_OUTS)})
    count, parts = config.evaluate.independent_episodes, list[Transitions]()
    imitation.require_episodes(count, f"evaluate.independent_episodes is {count}, which a copy is fitted to")
    with VectorEnv(config.task_row, min(config.collect.envs, count), config.collect.workers) as envs:
        for behaviour, size in (("policy-sample", count - count // 2), ("policy-noise", count // 2)):
            at, radius = len(parts) * (count - count // 2), config.train_epsilon
            made = collect_episodes(envs, policy, None, plain, at, size, behaviour, radius, report)
            parts.append(made.transitions)
    return Transitions(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def try_both(config: PipelineConfig, *policies: GaussianPolicy) -> list[Row]:
    """Return what each of some policies earns and costs on the same episodes, as `try_policy` does."""
    with VectorEnv(config.task_row, config.collect.envs, config.collect.workers) as envs:
        return [try_policy(config, policy, envs) for policy in policies]


class Source:
    """A policy that a stage goes on from, opened and checked: a folder of ours, or somebody else's policy.

    Args:
        config: gives the task, and how a copy is fitted.
        named, reading: as in `open_policy`.
        data: the actions are compared on its observations, and a distillation learns from them; episodes of
            the policy itself where not given.
        simulate: there may be roll-outs, where the task has an environment.
        device: where a distillation is computed.

    Attributes:
        ready: our policy, None where it has to be distilled first, by `take`.
        imported: how it became ours, None of a folder.

    Raises:
        As `open_policy`; InputError: no observations to distil on.
    """

    def __init__(
        self,
        config: PipelineConfig,
        named: Path,
        reading: Reading,
        *,
        data: Dataset | None = None,
        simulate: bool = True,
        device: torch.device = imitation.CPU,
        report: Reporter = QUIET,
    ) -> None:
        self.config, self.named, self.data, self.device, self.report = config, named, data, device, report
        self.imported: Imported | None = None
        self.ready = load_policy(named) if named.is_dir() else None
        if self.ready is not None:
            return
        self.simulate = simulate and bool(config.task_row.env_id)
        obs, checked_on = check_observations(data, config.task_row.obs_dim)
        self.tried = try_foreign(named, reading, config, obs, report)
        if self.tried.adopted is not None:
            spread = self.tried.foreign.spread or _default_spread(task_bounds(config))
            self._take_over(self.tried.adopted, Imported(True, self.tried.error, checked_on, spread))
        elif data is None and not self.simulate:
            raise not_ours(named, "to distil it give observations with --data DATA")

    def _take_over(self, policy: GaussianPolicy, how: Imported) -> LoadedPolicy:
        """Keep and return the policy that this one became, with what is said of it."""
        foreign = self.tried.foreign
        self.imported = how._replace(clipped=self.tried.clipped, notes=foreign.notes)
        imported = {"format": foreign.kind} | self.imported._asdict()
        learned = "" if how.exact or self.data is None else self.data.info.digest
        inputs = {"data": learned, "policy": "", "file": foreign.identity}
        words: dict[str, Any] = {"variant": "imported", "made_by": "harden policy import"}
        words |= {"imported": imported, "inputs": inputs, "policy_digest": module_digest(policy)}
        self.ready = LoadedPolicy(policy, None, describe(self.config, **words))
        return self.ready

    def take(self) -> LoadedPolicy:
        """Return our policy, distilled now where its weights were not taken over; InputError: that failed."""
        if self.ready is not None:
            return self.ready
        config, named, report, foreign = self.config, self.named, self.report, self.tried.foreign
        low, high, *_ = task_bounds(config)
        original = OpaquePolicy(foreign, config.task_row.obs_dim, low, high)
        if self.data is not None:
            rows, where = self.data.recent(config.imitation.rows), f"held-out episodes of {self.data.path}"
        else:
            report.say(f"{named} is distilled: its weights can't be taken over; collecting its own episodes")
            rows, where = own_episodes(original, config, report), "held-out episodes of its own"
        policy, how = distil(foreign, config, rows, named, self.device, report)
        if how.share > _FAILED:
            what = f"{named} can't be distilled: on {where} the copy is off by {100 * how.share:.0f} % of the"
            remedy = self.tried.clipped or "give more data of its own, or raise imitation.steps"
            raise InputError(f"{what} action range", remedy)
        if self.simulate:
            tried = try_both(config, original, policy)
            how = how._replace(original=tried[0], copy=tried[1])
        return self._take_over(policy, how._replace(checked_on=where))


def import_policy(
    config: PipelineConfig,
    path: Path,
    out: Path,
    *,
    reading: Reading = Reading(),  # noqa: B008
    data: Path | None = None,
    overwrite: bool = False,
    device: torch.device = imitation.CPU,
    report: Reporter = QUIET,
) -> Ready[Imported]:
    """Make a policy folder, without critics, of somebody else's policy.

    Weights are taken over where the file holds nothing but our architecture; else a new policy is fitted to
    its answers, on the data set's observations or in episodes of its own.

    Args:
        path: a policy file or module:function; code is run.
        out: the policy's folder.
        overwrite: replace a policy that is there.

    The rest is as in `Source`, which also says what is raised.

    Raises:
        InputError: a policy is there, or no file of another's; StorageError: it can't be written.
    """
    free_folder(out, overwrite)
    if path.is_dir():
        raise InputError(f"{path} is a folder", "name somebody else's policy file")
    dataset = None if data is None else open_dataset(data, config.task_row)
    source = Source(config, path, reading, data=dataset, device=device, report=report)
    require_folder(out)

    def work() -> Imported:
        save_policy(out, *source.take())
        assert source.imported is not None
        return source.imported

    return Ready(work, [path, data], [out])
